"""Rules of kube-proxy beside ours: looked for at the start and told, for they may be left over; and at the end.

Nothing has to be refused at the start. kpf's redirects come first, and the first one of a connection is the only one;
what kube-proxy refuses after that it does not see of what kpf serves. So each may take over from the other without a
gap. But what is left over goes on serving what kpf does not, as it was; and a drop is final, whoever says it.

Chains of the legacy ip_tables are not seen here: nf_tables does not know of them.
"""

import errno
import logging
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kpf.netlink.attributes import attributes, message, string
from kpf.netlink.nfnetlink import nfgenmsg
from kpf.netlink.socket import NetlinkSocket, RefusedError
from kpf.nft.contents import CHAINS
from kpf.uapi.netfilter import NF_IP_PRI, NFPROTO
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.nf_tables import NFTA_CHAIN, NFTA_HOOK
from kpf.uapi.nfnetlink import NFGENMSG

log = logging.getLogger("kpf")


class ChainName(NamedTuple):
    """`family`: as nft writes it."""

    family: str
    table: str
    chain: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


class Found(NamedTuple):
    """`priority`: of a base chain; None if it is none."""

    name: ChainName
    priority: int | None = None


# Each says that kube-proxy is, or was, here in one of its modes (pkg/proxy/nftables, pkg/proxy/iptables, pkg/proxy/ipvs
# of Kubernetes 1.36); none of them is kubelet's.
_NFTABLES_MODE = tuple(ChainName(family, "kube-proxy", "filter-output") for family in ("ip", "ip6"))
_IPTABLES_MODES = tuple(
    ChainName(family, table, "KUBE-SERVICES") for family in ("ip", "ip6") for table in ("nat", "filter")
)
_FAMILIES = {"ip": NFPROTO.IPV4, "ip6": NFPROTO.IPV6}
ABSENT = {errno.ENOENT}


async def tell() -> None:
    """One warning if kube-proxy has rules here; another one if that cannot be seen."""
    try:
        found = await find()
    except OSError as error:
        log.warning("kpf cannot see whether kube-proxy has rules here: %s", error)
        return
    if found:
        log.warning("%s", words(found))


async def find() -> list[Found]:
    """kube-proxy's chains in this network namespace, of each mode and family. Raises OSError."""
    netlink = NetlinkSocket(NETLINK.NETFILTER)
    try:
        asked = [await _ask(netlink, name) for name in (*_NFTABLES_MODE, *_IPTABLES_MODES)]
    finally:
        netlink.close()
    return [one for one in asked if one is not None]


async def _ask(netlink: NetlinkSocket, name: ChainName) -> Found | None:
    names = string(NFTA_CHAIN.TABLE, name.table) + string(NFTA_CHAIN.NAME, name.chain)
    body = nfgenmsg(_FAMILIES[name.family]) + names
    try:
        (frame,) = await netlink.talk([message(CHAINS.get, NLM_F.REQUEST | NLM_F.ACK, body)])
    except RefusedError as error:
        if error.errno not in ABSENT:
            raise
        return None
    hook = attributes(frame.payload[NFGENMSG.size :]).get(NFTA_CHAIN.HOOK)
    return Found(name, None if hook is None else struct.unpack(">i", attributes(hook)[NFTA_HOOK.PRIORITY])[0])


def words(found: Sequence[Found]) -> str:
    """What an administrator must know of these chains."""
    return ". ".join(_sentences(found))


def _sentences(found: Sequence[Found]) -> Iterator[str]:
    places = ", ".join(str(one.name) for one in found)
    yield f"kube-proxy has rules here ({places}): kpf's come first, and what kpf does not serve they go on serving"
    nftables = [one for one in found if one.name in _NFTABLES_MODE]
    if nftables:
        yield "What their load-balancer source ranges drop never reaches kpf"
    if any(one.priority is not None and one.priority < NF_IP_PRI.NAT_DST for one in nftables):
        yield "Nor does what this node's own processes send to a Service without endpoints, as kube-proxy knows it"
    yield "If kube-proxy does not run here any more, nobody keeps them right: remove them with `kube-proxy --cleanup`"
