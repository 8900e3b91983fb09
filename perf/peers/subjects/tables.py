"""The hand-written nftables table: a Service by DNAT alone, and the way from Services' addresses to the proxies' ports.

kpf's own table redirects in the same two hooks, so that all subjects stand behind the same amount of netfilter, with
connection tracking on.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kpf.lab.clients import Address
from perf.peers.subjects.base import Running, Site, Subject, program, say

NFT = program("nft", "nftables")
CLUSTER_IP = ("10.96.0.11", 80)

TABLE = """\
table inet peers {{
\tmap proxies {{
\t\ttype ipv4_addr . inet_service : ipv4_addr . inet_service
\t\telements = {{ {proxies} }}
\t}}
\tchain services {{
\t\tip daddr {balanced[0]} tcp dport {balanced[1]} dnat ip to numgen inc mod {count} map {{ {pods} }}
\t\tdnat ip to ip daddr . tcp dport map @proxies
\t}}
\tchain prerouting {{
\t\ttype nat hook prerouting priority dstnat - 5; policy accept;
\t\tjump services
\t}}
\tchain output {{
\t\ttype nat hook output priority -105; policy accept;
\t\tjump services
\t}}
}}
"""


def table(pods: Sequence[Address], proxies: Mapping[Address, Address]) -> str:
    """The table as a file for `nft -f`: `CLUSTER_IP` goes to the pods in turn, others to the proxies' addresses."""
    return TABLE.format(
        balanced=CLUSTER_IP,
        count=len(pods),
        pods=", ".join(f"{number} : {address} . {port}" for number, (address, port) in enumerate(pods)),
        proxies=", ".join(f"{ip} . {port} : {to} . {at}" for (ip, port), (to, at) in proxies.items()),
    )


def load(site: Site, text: str) -> None:
    """Put the table into force. Raises `SubjectFailedError`."""
    path = site.directory / "peers.nft"
    path.write_text(text, encoding="ascii")
    say(["nft", "-f", str(path)])


@contextmanager
def balanced(_: Site) -> Iterator[Running]:
    """The table is in force already: it is the same for all."""
    yield Running(CLUSTER_IP, {}, say(["nft", "--version"]), say(["nft", "list", "table", "inet", "peers"]))


@contextmanager
def direct(site: Site) -> Iterator[Running]:
    """One of the pods itself: routed by the node, tracked, and nothing else."""
    yield Running(site.pods[0], {}, "", "the clients connect to one pod")


DNAT = Subject("nftables", "nftables DNAT", balanced, (NFT,))
DIRECT = Subject("direct", "no proxy", direct)
