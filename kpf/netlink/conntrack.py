"""Conntrack entries that keep flows from where they belong now.

While any conntrack rule is in force, a SYN to an address that nobody has yet leaves an entry. Its retransmissions
belong to that entry and never meet the portal's rule, so the entry has to go when the portal comes. A UDP flow is an
entry for as long as somebody goes on sending: it stays with its endpoint, or with none, until the entry goes.
"""

import asyncio
import errno
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from kpf.model.names import Family, IPAddress, Protocol, SocketAddress, family_of
from kpf.netlink.addresses import AddressWatch
from kpf.netlink.attributes import attribute, attributes, be16, be32, message, nested, u8, u32
from kpf.netlink.nfnetlink import IPPROTO_OF, NFPROTO_OF, nfgenmsg, type_of
from kpf.netlink.socket import Frame, NetlinkSocket
from kpf.uapi.internal import CTA_FILTER_F
from kpf.uapi.netfilter import IPS
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS
from kpf.uapi.nfnetlink_conntrack import (
    CTA,
    CTA_FILTER,
    CTA_IP,
    CTA_PROTO,
    CTA_STATS_GLOBAL,
    CTA_TUPLE,
    IPCTNL_MSG_CT,
)

GET = type_of(NFNL_SUBSYS.CTNETLINK, IPCTNL_MSG_CT.GET)
DELETE = type_of(NFNL_SUBSYS.CTNETLINK, IPCTNL_MSG_CT.DELETE)
GET_STATS = type_of(NFNL_SUBSYS.CTNETLINK, IPCTNL_MSG_CT.GET_STATS)
PROTOCOLS = {bytes([IPPROTO_OF[protocol]]): protocol for protocol in (Protocol.TCP, Protocol.UDP)}
# looked up once, and plain numbers: to look a member up takes 70 ns in Python 3.11, and of each entry fourteen are
IP_SOURCE = {Family.IPV4: int(CTA_IP.V4_SRC), Family.IPV6: int(CTA_IP.V6_SRC)}
IP_DESTINATION = {Family.IPV4: int(CTA_IP.V4_DST), Family.IPV6: int(CTA_IP.V6_DST)}
_ORIG, _REPLY, _STATUS, _SEEN_REPLY = int(CTA.TUPLE_ORIG), int(CTA.TUPLE_REPLY), int(CTA.STATUS), int(IPS.SEEN_REPLY)
_IP, _PROTO = int(CTA_TUPLE.IP), int(CTA_TUPLE.PROTO)
_NUM, _SRC_PORT, _DST_PORT = int(CTA_PROTO.NUM), int(CTA_PROTO.SRC_PORT), int(CTA_PROTO.DST_PORT)
# what names an entry besides its tuple
_TELLS_APART = int(CTA.ZONE), int(CTA.ID)

_BUFFER_BYTES = 16 << 20
# others get their turn on the loop after that: a flood of SYNs leaves hundreds of thousands of entries
_TURN_S = 0.003
# A dump walks the whole table, which takes the kernel 10 to 25 ms; to look at 2,000 entries takes as long here.
_ENTRIES_A_DUMP, _MAX_DUMPS = 2000, 16
# sent at once: they take 1.5 ms to make and to carry out, and a round trip for each would take as long again
_DELETIONS_A_PACK = 200
GONE = {errno.ENOENT}


@dataclass(frozen=True, slots=True)
class Stale:
    """What has become of portals, so that entries of before are stale.

    `tcp`: portals that have just come; an entry that has seen no reply is an attempt that came before.
    `udp`: portals that came, went, or have other endpoints than before, and the endpoints that flows may stay with. An
    entry that is answered from anywhere else is stale, whether it has seen a reply or not; so is one that was never
    rewritten, which the portal itself would answer.
    `tcp_node_ports`, `udp_node_ports`: the same by port, on the addresses of this node only: the same port elsewhere is
    somebody else's. Where a port of this node is a portal too, the portal counts.
    """

    tcp: Set[SocketAddress] = frozenset()
    tcp_node_ports: Set[tuple[Family, int]] = frozenset()
    udp: Mapping[SocketAddress, Set[SocketAddress]] = field(default_factory=dict)
    udp_node_ports: Mapping[tuple[Family, int], Set[SocketAddress]] = field(default_factory=dict)


class Entry(NamedTuple):
    """`destination`: where the first packet went, before any rewriting; `reply_source`: who answers."""

    protocol: Protocol
    destination: SocketAddress
    reply_source: SocketAddress
    seen_reply: bool


def is_stale(entry: Entry, stale: Stale, local: Set[IPAddress]) -> bool:
    """Whether the entry has to go. `local`: the addresses of this node."""
    address, port = entry.destination
    node_port = (family_of(address), port) if address in local else None
    if entry.protocol is Protocol.TCP:
        return not entry.seen_reply and (entry.destination in stale.tcp or node_port in stale.tcp_node_ports)
    staying = stale.udp.get(entry.destination)
    if staying is None and node_port is not None:
        staying = stale.udp_node_ports.get(node_port)
    return staying is not None and entry.reply_source not in staying


async def forget(stale: Stale) -> int:
    """Delete the stale TCP and UDP entries, and no other; returns how many.

    The kernel filters by protocol and destination (since 5.8) and by status (since 5.18); an older one sends more,
    which only takes longer. Raises OSError.
    """
    by_port = stale.tcp_node_ports or stale.udp_node_ports
    local = (await AddressWatch().read()).all() if by_port else frozenset()
    netlink = NetlinkSocket(NETLINK.NETFILTER, buffer_bytes=_BUFFER_BYTES)
    try:
        deleted = 0
        several = len(stale.udp) + len(stale.udp_node_ports) > 1
        for dump in _dumps(stale, present=await _entries_present(netlink) if several else 0):
            found = await _stale_among(await netlink.talk([dump]), stale, local)
            for at in range(0, len(found), _DELETIONS_A_PACK):
                deleted += await _delete(netlink, found[at : at + _DELETIONS_A_PACK])
                await asyncio.sleep(0)
        return deleted
    finally:
        netlink.close()


async def _stale_among(frames: Iterable[Frame], stale: Stale, local: Set[IPAddress]) -> list[Frame]:
    found, turn_began_s = [], time.monotonic()
    for frame in frames:
        if time.monotonic() - turn_began_s > _TURN_S:
            await asyncio.sleep(0)
            turn_began_s = time.monotonic()
        entry = decode(frame)
        if entry is not None and is_stale(entry, stale, local):
            found.append(frame)
    await asyncio.sleep(0)
    return found


class _Target(NamedTuple):
    """What the kernel compares; None: anything."""

    family: Family
    address: IPAddress | None = None
    port: int | None = None


def _dumps(stale: Stale, *, present: int) -> Iterator[bytes]:
    """Requests that leave to the kernel what it can sort out for less than it costs here, among `present` entries."""
    for family in {family_of(at.address) for at in stale.tcp} | {family for family, _ in stale.tcp_node_ports}:
        unreplied = be32(CTA.STATUS, 0) + be32(CTA.STATUS_MASK, IPS.SEEN_REPLY)
        yield _dump(Protocol.TCP, _Target(family), unreplied)
    targets = {_target(at) for at in stale.udp} | {_Target(family, port=port) for family, port in stale.udp_node_ports}
    if len(targets) > min(_MAX_DUMPS, 1 + present // _ENTRIES_A_DUMP):
        targets = {_Target(target.family) for target in targets}
    for target in targets:
        yield _dump(Protocol.UDP, target)


def _target(portal: SocketAddress) -> _Target:
    family = family_of(portal.address)
    # of IPv6 addresses the kernel sends those that are not the filter's (ctnetlink_filter_match_tuple, seen on 6.18)
    return _Target(family, portal.address if family is Family.IPV4 else None, portal.port)


def _dump(protocol: Protocol, target: _Target, more: bytes = b"") -> bytes:
    flags, tuple_ = int(CTA_FILTER_F.CTA_PROTO_NUM), b""
    ports = u8(CTA_PROTO.NUM, IPPROTO_OF[protocol])
    if target.address is not None:
        flags |= CTA_FILTER_F.CTA_IP_DST
        tuple_ += nested(CTA_TUPLE.IP, attribute(IP_DESTINATION[target.family], target.address.packed))
    if target.port is not None:
        flags |= CTA_FILTER_F.CTA_PROTO_DST_PORT
        ports += be16(CTA_PROTO.DST_PORT, target.port)
    tuple_ += nested(CTA_TUPLE.PROTO, ports)
    body = nested(CTA.FILTER, u32(CTA_FILTER.ORIG_FLAGS, flags)) + nested(CTA.TUPLE_ORIG, tuple_) + more
    return message(GET, NLM_F.REQUEST | NLM_F.DUMP, nfgenmsg(NFPROTO_OF[target.family]) + body)


async def _entries_present(netlink: NetlinkSocket) -> int:
    """How many entries this network namespace has."""
    (frame,) = await netlink.talk([message(GET_STATS, NLM_F.REQUEST | NLM_F.ACK, nfgenmsg(0))])
    return int.from_bytes(attributes(frame.payload[NFGENMSG.size :])[CTA_STATS_GLOBAL.ENTRIES], "big")


def decode(frame: Frame) -> Entry | None:
    """None if the entry is of no protocol or family of ours."""
    found = attributes(frame.payload[NFGENMSG.size :])
    original, reply = attributes(found[_ORIG]), attributes(found[_REPLY])
    ports = attributes(original[_PROTO])
    protocol = PROTOCOLS.get(bytes(ports[_NUM]))
    destination = _address(original, IP_DESTINATION)
    reply_source = _address(reply, IP_SOURCE)
    if protocol is None or destination is None or reply_source is None:
        return None
    return Entry(
        protocol,
        SocketAddress(destination, int.from_bytes(ports[_DST_PORT], "big")),
        SocketAddress(reply_source, int.from_bytes(attributes(reply[_PROTO])[_SRC_PORT], "big")),
        bool(int.from_bytes(found.get(_STATUS, b""), "big") & _SEEN_REPLY),
    )


def _address(tuple_: Mapping[int, memoryview], kinds: Mapping[Family, int]) -> IPAddress | None:
    found = attributes(tuple_.get(_IP, memoryview(b"")))
    return next((ip_address(bytes(found[kind])) for kind in kinds.values() if kind in found), None)


async def _delete(netlink: NetlinkSocket, found: Sequence[Frame]) -> int:
    """Delete these very entries, one at least; returns how many had not gone already."""
    # a refusal is told in any case, so it takes one acknowledgement to know that all are done
    messages = [_deletion(frame) for frame in found[:-1]] + [_deletion(found[-1], NLM_F.ACK)]
    return len(found) - len(await netlink.talk(messages, expected=GONE))


def _deletion(frame: Frame, flags: int = 0) -> bytes:
    entry = attributes(frame.payload[NFGENMSG.size :])
    body = bytes(frame.payload[: NFGENMSG.size]) + nested(_ORIG, bytes(entry[_ORIG]))
    for kind in _TELLS_APART:
        if kind in entry:
            body += attribute(kind, bytes(entry[kind]))
    return message(DELETE, NLM_F.REQUEST | flags, body)
