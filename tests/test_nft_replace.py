"""A full sync fills the table in place while it is ours, and makes it anew when it is not."""

import asyncio

import pytest

from kpf.lab.tables import delete_table
from kpf.model.rules import Rules
from kpf.nft import encode, schema
from kpf.nft.datatypes import TYPE_IP4, TYPE_PORT, TYPE_VERDICT
from kpf.nft.kernel import Kernel
from kpf.nft.objects import Hook, Set
from kpf.nft.values import Jump
from kpf.uapi.netfilter import NF_INET, NFPROTO
from tests.test_nft_contract import FULL, expected, seen

# a stranger's chain at the place of the guard, and a set of ours with another key
STRANGER = encode.new_chain("stranger", Hook("filter", "input", NF_INET.LOCAL_IN, 7))
OTHER_SHAPE = encode.new_set(Set("cluster-ips-ip4", (TYPE_PORT,)), 1)


def handle_and_chains() -> tuple[int, set[str]]:
    """The table's handle, which a new table of the same name has anew, and the names of its chains."""
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=NFPROTO.INET) as nft:
        (table,) = [one for one in nft.get_tables() if one.get_attr("NFTA_TABLE_NAME") == schema.TABLE]
        chains = {one.get_attr("NFTA_CHAIN_NAME") for one in nft.get_chains()}
        return int(table.get_attr("NFTA_TABLE_HANDLE")), chains


async def look() -> tuple[int, set[str]]:
    # this client of netlink wants no event loop around it
    return await asyncio.to_thread(handle_and_chains)


def test_a_table_of_ours_is_filled_in_place() -> None:
    async def scene() -> None:
        kernel = Kernel()
        await kernel.replace(FULL)
        before = await look()
        for state in (FULL.dropping(), FULL.stepping_aside(), Rules(), FULL):
            await kernel.replace(state)
            assert await seen(kernel) == expected(state)
            assert (await look())[0] == before[0]
        assert await look() == before
        await kernel.delete()
        kernel.close()

    asyncio.run(scene())


def test_what_a_stranger_has_added_goes_once_he_is_known() -> None:
    async def scene() -> None:
        kernel = Kernel()
        await kernel.replace(FULL)
        handle, chains = await look()
        await kernel._commit([encode.new_table(), STRANGER])
        assert (await look())[1] == chains | {"stranger"}
        kernel.table.distrust()
        await kernel.replace(FULL)
        new_handle, new_chains = await look()
        assert new_chains == chains
        assert new_handle != handle
        assert await seen(kernel) == expected(FULL)
        await kernel.replace(FULL)
        assert (await look())[0] == new_handle, "trust has come back"
        await kernel.delete()
        kernel.close()

    asyncio.run(scene())


def test_a_table_of_another_shape_is_made_anew() -> None:
    async def scene() -> None:
        kernel = Kernel()
        await kernel._commit([encode.new_table(), OTHER_SHAPE])
        await kernel.replace(FULL)
        assert await seen(kernel) == expected(FULL)
        await kernel.delete()
        kernel.close()

    asyncio.run(scene())


def test_what_a_kpf_of_other_names_has_left_goes_and_the_table_stays() -> None:
    """A map of its own, whose elements lead to a chain of its own."""

    async def scene() -> None:
        kernel = Kernel()
        await kernel.replace(FULL)
        handle, chains = await look()
        older = Set("sources-ip4", (TYPE_IP4,), TYPE_VERDICT)
        element = encode.element(bytes((10, 0, 0, 1)), Jump("sources/10.0.0.1"))
        await kernel._commit(
            [
                encode.new_table(),
                encode.new_chain("sources/10.0.0.1"),
                encode.new_set(older, 1),
                *encode.new_elements(older.name, [element]),
            ]
        )
        successor = Kernel()
        await successor.replace(FULL)
        assert await look() == (handle, chains)
        assert await seen(successor) == expected(FULL)
        await successor.delete()
        kernel.close()
        successor.close()

    asyncio.run(scene())


def test_a_table_that_somebody_deleted_is_there_again() -> None:
    async def scene() -> None:
        kernel = Kernel()
        await kernel.replace(FULL)
        await asyncio.to_thread(delete_table, schema.TABLE)
        kernel.table.distrust()
        await kernel.replace(FULL)
        assert await seen(kernel) == expected(FULL)
        await kernel.delete()
        kernel.close()

    asyncio.run(scene())


def test_who_touches_the_table_while_it_is_made_anew_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        kernel = Kernel()
        await kernel.replace(FULL)
        made = (await look())[0]
        commit = kernel._commit

        async def touched(messages: list[bytes]) -> None:
            await commit(messages)
            kernel.table.distrust()

        kernel.table.distrust()
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_commit", touched)
            await kernel.replace(FULL)
        anew = (await look())[0]
        await kernel.replace(FULL)
        assert len({made, anew, (await look())[0]}) == 3
        await kernel.delete()
        kernel.close()

    asyncio.run(scene())
