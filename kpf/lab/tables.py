"""The nftables tables of the namespace we are in, as somebody else than kpf sees them, and deletes them."""

from pyroute2.nftables.main import NFTables

from kpf.uapi.netfilter import NFPROTO


def list_tables() -> list[str]:
    """The names of all tables of family inet."""
    with NFTables(nfgen_family=NFPROTO.INET) as nft:
        return [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]


def delete_table(name: str) -> None:
    """One of family inet, and all that is in it."""
    with NFTables(nfgen_family=NFPROTO.INET) as nft:
        nft.table("del", name=name)
