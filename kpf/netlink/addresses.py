"""The addresses of this network namespace, and which of them is the primary one of its family."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from kpf.model.names import Family, IPAddress
from kpf.netlink.attributes import attributes, message
from kpf.netlink.socket import NetlinkSocket
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.rtnetlink import IFA, IFA_F, IFADDRMSG, RT_SCOPE, RTM, RTNLGRP

GROUPS = (RTNLGRP.IPV4_IFADDR, RTNLGRP.IPV4_ROUTE, RTNLGRP.IPV6_IFADDR, RTNLGRP.IPV6_ROUTE)
SETTLE_S = 0.05
_PASSING = IFA_F.TEMPORARY | IFA_F.DEPRECATED | IFA_F.TENTATIVE | IFA_F.DADFAILED

# Documentation addresses (RFC 5737, RFC 3849): they have no route but the default one. A UDP connect sends nothing.
_FAR_AWAY = {Family.IPV4: (socket.AF_INET, "192.0.2.1"), Family.IPV6: (socket.AF_INET6, "2001:db8::1")}


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of the node, on the link of index `interface`.

    `passing`: tentative, deprecated, temporary or failed. `is_global`: of global scope. `bits`: of the prefix. `mark`:
    who has put it there (IFA_PROTO), 0 if nobody says so, as of all before Linux 5.18.
    """

    interface: int
    address: IPAddress
    is_global: bool = True
    passing: bool = False
    bits: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """`default_sources`: the source address of the default route, by family."""

    addresses: tuple[LocalAddress, ...] = ()
    default_sources: Mapping[Family, IPAddress] = field(default_factory=dict)

    def all(self) -> frozenset[IPAddress]:
        """Without regard to links, scopes and states; one that two links have is there once."""
        return frozenset(one.address for one in self.addresses)


def primary_address(
    family: Family, *, asked: Iterable[IPAddress], node_ips: Iterable[IPAddress], known: NodeAddresses
) -> IPAddress | None:
    """The address that stands for this node; None without any of this family.

    The first of: what was asked for, the Node's InternalIP if it is local, the source of the default route, the first
    lasting global address, the loopback address.
    """
    local = [one for one in known.addresses if one.address.version == family]
    here = {one.address for one in local}
    settled = {one.address for one in local if not one.passing}
    lasting = (one.address for one in local if one.is_global and not one.passing and not one.address.is_loopback)
    default = known.default_sources.get(family)
    candidates = (
        *(ip for ip in asked if ip.version == family and not ip.is_unspecified),
        *(ip for ip in node_ips if ip in here),
        *([default] if default in settled else []),
        *lasting,
        *(one.address for one in local if one.address.is_loopback),
    )
    return next(iter(candidates), None)


class AddressWatch:
    """Reads the addresses, and tells when they or the routes have changed. Used inside the event loop."""

    async def read(self) -> NodeAddresses:
        """Raises OSError."""
        netlink = NetlinkSocket(NETLINK.ROUTE)
        try:
            found = await netlink.talk(
                [message(RTM.GETADDR, NLM_F.REQUEST | NLM_F.DUMP, IFADDRMSG.pack(0, 0, 0, 0, 0))]
            )
        finally:
            netlink.close()
        addresses = [_local(frame.payload) for frame in found if frame.kind == RTM.NEWADDR]
        sources = {family: source for family in Family if (source := _default_source(family)) is not None}
        return NodeAddresses(tuple(one for one in addresses if one is not None), sources)

    async def changes(self) -> AsyncIterator[NodeAddresses]:
        """The addresses as they are once changes are heard of, and after every change that has settled.

        Raises OSError; who wants to go on begins anew.
        """
        changed = asyncio.Event()
        changed.set()
        netlink = NetlinkSocket(NETLINK.ROUTE, groups=GROUPS)
        netlink.watch(lambda _: changed.set())
        try:
            while True:
                await changed.wait()
                await asyncio.sleep(SETTLE_S)
                changed.clear()
                yield await self.read()
        finally:
            netlink.close()


def _local(payload: memoryview) -> LocalAddress | None:
    _, bits, short_flags, scope, interface = IFADDRMSG.unpack_from(payload)
    found = attributes(payload[IFADDRMSG.size :])
    packed = found.get(IFA.LOCAL) or found.get(IFA.ADDRESS)
    if packed is None:
        return None
    flags = struct.unpack_from("=I", found[IFA.FLAGS])[0] if IFA.FLAGS in found else short_flags
    passing = bool(flags & _PASSING) and len(packed) == 16
    mark = found[IFA.PROTO][0] if IFA.PROTO in found else 0
    return LocalAddress(interface, ip_address(bytes(packed)), scope == RT_SCOPE.UNIVERSE, passing, bits, mark)


def _default_source(family: Family) -> IPAddress | None:
    kind, far_away = _FAR_AWAY[family]
    # no route of this family, or no such family at all
    with suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect((far_away, 9))
        return ip_address(probe.getsockname()[0])
    return None
