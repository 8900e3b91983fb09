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
from kpf.netlink.socket import NETLINK_ROUTE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkSocket

# include/uapi/linux/rtnetlink.h, if_addr.h
GET_ADDRESS, NEW_ADDRESS = 22, 20
ADDRESS, LOCAL, FLAGS, PROTO = 1, 2, 8, 11
TEMPORARY, DEPRECATED, TENTATIVE, FAILED = 0x01, 0x20, 0x40, 0x08
SCOPE_GLOBAL = 0
GROUPS = (5, 7, 9, 11)  # IPv4 addresses and routes, IPv6 addresses and routes
SETTLE_S = 0.05
IFADDRMSG = struct.Struct("=BBBBI")

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
        """All links' addresses and the default routes, as they are at some moment. Raises OSError."""
        netlink = NetlinkSocket(NETLINK_ROUTE)
        try:
            found = await netlink.talk(
                [message(GET_ADDRESS, NLM_F_REQUEST | NLM_F_DUMP, IFADDRMSG.pack(0, 0, 0, 0, 0))]
            )
        finally:
            netlink.close()
        addresses = [_local(frame.payload) for frame in found if frame.kind == NEW_ADDRESS]
        sources = {family: source for family in Family if (source := _default_source(family)) is not None}
        return NodeAddresses(tuple(one for one in addresses if one is not None), sources)

    async def changes(self) -> AsyncIterator[NodeAddresses]:
        """The addresses as they are once changes are heard of, and after every change that has settled.

        Raises OSError; who wants to go on begins anew.
        """
        changed = asyncio.Event()
        changed.set()
        netlink = NetlinkSocket(NETLINK_ROUTE, groups=GROUPS)
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
    found = attributes(payload[8:])
    packed = found.get(LOCAL) or found.get(ADDRESS)
    if packed is None:
        return None
    flags = struct.unpack_from("=I", found[FLAGS])[0] if FLAGS in found else short_flags
    passing = bool(flags & (TEMPORARY | DEPRECATED | TENTATIVE | FAILED)) and len(packed) == 16
    mark = found[PROTO][0] if PROTO in found else 0
    return LocalAddress(interface, ip_address(bytes(packed)), scope == SCOPE_GLOBAL, passing, bits, mark)


def _default_source(family: Family) -> IPAddress | None:
    kind, far_away = _FAR_AWAY[family]
    # no route of this family, or no such family at all
    with suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect((far_away, 9))
        return ip_address(probe.getsockname()[0])
    return None
