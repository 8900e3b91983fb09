"""Addresses of kpf's own on `lo`: which they are, which may be taken, and how they get there and go.

They are there so that no change of an uplink's addresses touches a connection. Nobody is to use them by chance:
IPv4's are of scope host, which is no source of what leaves the node (inet_select_addr); IPv6's are deprecated, so that
any other address comes first (RFC 6724, rule 3).
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import chain, islice

from kpf.model.names import Family, IPAddress, IPNetwork, family_of
from kpf.netlink.addresses import LocalAddress, NodeAddresses
from kpf.netlink.attributes import attribute, message, u8, u32
from kpf.netlink.socket import NetlinkSocket
from kpf.uapi.internal import LOOPBACK_IFINDEX
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.rtnetlink import IFA, IFA_CACHEINFO, IFA_F, IFADDRMSG, RT_SCOPE, RTM

DEFAULT: dict[Family, IPAddress] = {
    Family.IPV4: IPv4Address("169.254.77.1"),
    Family.IPV6: IPv6Address("fd77:6b70:66::1"),
}
# IFA_PROTO: ours, of which nobody else knows; the kernel's own are 1 to 3 (IFAPROT_* of linux/if_addr.h)
MARK = ord("k")
# the range of an address: from where others are taken if somebody has it
RANGE_BITS = {Family.IPV4: 24, Family.IPV6: 64}
TRIES = 250

_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
# preferred for 0 s, valid for ever
_DEPRECATED = IFA_CACHEINFO.pack(0, 0xFFFFFFFF, 0, 0)

THERE, GONE = {errno.EEXIST}, {errno.EADDRNOTAVAIL}


def own_addresses(known: NodeAddresses, asked: Iterable[IPAddress] = ()) -> frozenset[IPAddress]:
    """Those on `lo` that a kpf has put there, now or before a crash.

    Where the kernel keeps no marks: those in the ranges of `asked` and of the default ones that look like ours.
    """
    return frozenset(one.address for one in _own(known, asked))


def without_own(known: NodeAddresses, asked: Iterable[IPAddress] = ()) -> NodeAddresses:
    """What the node has besides; its default sources stay as they are."""
    own = {*_own(known, asked)}
    return replace(known, addresses=tuple(one for one in known.addresses if one not in own))


def _own(known: NodeAddresses, asked: Iterable[IPAddress]) -> Iterator[LocalAddress]:
    on_lo = [one for one in known.addresses if one.interface == LOOPBACK_IFINDEX]
    # the kernel itself marks ::1
    if any(one.mark for one in on_lo):
        return (one for one in on_lo if one.mark == MARK)
    ranges = [range_of(address) for address in (*asked, *DEFAULT.values())]
    return (one for one in on_lo if _looks_own(one) and any(one.address in network for network in ranges))


def _looks_own(one: LocalAddress) -> bool:
    # the scope of IPv6 addresses is the kernel's to say
    return one.bits == one.address.max_prefixlen and not (one.is_global and one.address.version == 4)


def choose(asked: IPAddress, known: NodeAddresses, before: IPAddress | None = None) -> IPAddress | None:
    """The address to listen on; None if there is none.

    One that is ours already, `before` above all; else `asked`, or the next one of its range that is neither anybody's
    nor of a network that the node has a link to.
    """
    network = range_of(asked)
    own = own_addresses(known, [asked])
    ours = [one for one in own if one in network]
    if ours:
        return before if before in ours else min(ours, key=int)
    others = [one for one in known.addresses if one.address not in own]
    taken = {one.address for one in others}
    # who is asked for by name is taken where no address of the node stands against it; a neighbour's may be the next
    links = [ip_network((one.address, one.bits), strict=False) for one in others if one.bits]
    free = (one for one in _upwards(asked, network) if one == asked or not any(one in link for link in links))
    first = [before] if before is not None else []
    return next((one for one in chain(first, free) if one not in taken), None)


def range_of(address: IPAddress) -> IPNetwork:
    """Of which another one is taken if somebody has this one."""
    return ip_network((address, RANGE_BITS[family_of(address)]), strict=False)


def _upwards(asked: IPAddress, network: IPNetwork) -> Iterator[IPAddress]:
    """From `asked` on, and from the beginning again; never the network's own address, nor the broadcast one."""
    size, start = network.num_addresses, int(asked) - int(network.network_address)
    numbers = ((start + step) % size for step in range(min(size, TRIES + 2)))
    usable = (number for number in numbers if 0 < number < size - 1)
    return (network.network_address + number for number in islice(usable, TRIES))


async def put(address: IPAddress) -> None:
    """On `lo`; if it is there, it stays. Raises OSError (EPERM, EACCES where the family is disabled, ...)."""
    flags = NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.EXCL
    await _talk(message(RTM.NEWADDR, flags, _body(address)), THERE)


async def take_away(address: IPAddress) -> None:
    """From `lo`, if it is there. Raises OSError."""
    await _talk(message(RTM.DELADDR, NLM_F.REQUEST | NLM_F.ACK, _body(address)), GONE)


def _body(address: IPAddress) -> bytes:
    family = family_of(address)
    parts = [attribute(IFA.LOCAL, address.packed), attribute(IFA.ADDRESS, address.packed), u8(IFA.PROTO, MARK)]
    if family is Family.IPV6:
        parts += [u32(IFA.FLAGS, IFA_F.NODAD), attribute(IFA.CACHEINFO, _DEPRECATED)]
    header = IFADDRMSG.pack(_AF[family], address.max_prefixlen, 0, RT_SCOPE.HOST, LOOPBACK_IFINDEX)
    return header + b"".join(parts)


async def _talk(request: bytes, expected: set[int]) -> None:
    netlink = NetlinkSocket(NETLINK.ROUTE)
    try:
        await netlink.talk([request], expected=expected)
    finally:
        netlink.close()
