"""Connection attempts that came before their portal.

While any conntrack rule is in force, a SYN to an address that nobody has yet leaves an entry. Its retransmissions
belong to that entry and never meet the portal's rule, so the entry has to go when the portal comes.
"""

import asyncio
import errno
import struct
import sys
from collections.abc import Set

from kpf.model.names import SocketAddress
from kpf.netlink.addresses import AddressWatch
from kpf.netlink.attributes import NESTED, attribute, attributes, message
from kpf.netlink.socket import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Frame,
    NetlinkSocket,
    RefusedError,
)

# include/uapi/linux/netfilter/nfnetlink_conntrack.h
SUBSYSTEM = 1 << 8
GET, DELETE = SUBSYSTEM | 1, SUBSYSTEM | 2
TUPLE_ORIGINAL, STATUS, IDENTIFIER, ZONE, STATUS_MASK = 1, 3, 12, 18, 26
TUPLE_IP, TUPLE_PROTOCOL = 1, 2
IP4_DESTINATION, IP6_DESTINATION = 2, 4
PROTOCOL_NUMBER, DESTINATION_PORT = 1, 3
SEEN_REPLY = 1 << 1
TCP = 6

_NFGENMSG = struct.Struct("=BBH")
_BUFFER_BYTES = 16 << 20
# entries looked at (7 µs each) before others get their turn on the loop: a flood of SYNs leaves hundreds of thousands
_AT_A_TIME = 500
GONE = {errno.ENOENT}


async def forget_unreplied(portals: Set[SocketAddress], node_ports: Set[int]) -> int:
    """Delete the unreplied TCP entries whose first destination is one of these; returns how many.

    A node port counts on the addresses of this node only: the same port elsewhere is somebody else's.
    One dump, which the kernel filters by status (since 5.18; an older one sends everything). Raises OSError.
    """
    wanted = {(at.address.packed, at.port) for at in portals}
    local = {address.packed for address in (await AddressWatch().read()).all()} if node_ports else frozenset()
    netlink = NetlinkSocket(NETLINK_NETFILTER, buffer_bytes=_BUFFER_BYTES)
    try:
        status = attribute(STATUS, struct.pack(">I", 0)) + attribute(STATUS_MASK, struct.pack(">I", SEEN_REPLY))
        dump = message(GET, NLM_F_REQUEST | NLM_F_DUMP, _NFGENMSG.pack(0, 0, 0) + status)
        deleted = 0
        for number, frame in enumerate(await netlink.talk([dump]), 1):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            destination = _tcp_destination(frame)
            if destination is None:
                continue
            if destination not in wanted and not (destination[1] in node_ports and destination[0] in local):
                continue
            deletion = _deletion(frame)
            if deletion is None:
                continue
            try:
                await netlink.talk([deletion])
                deleted += 1
            except RefusedError as error:
                if error.errno not in GONE:
                    raise
        return deleted
    finally:
        netlink.close()


def _deletion(frame: Frame) -> bytes | None:
    """The message that deletes this very entry; None if it has seen a reply."""
    entry = attributes(frame.payload[_NFGENMSG.size :])
    if int.from_bytes(entry.get(STATUS, b""), "big") & SEEN_REPLY:
        return None
    body = bytes(frame.payload[: _NFGENMSG.size]) + attribute(TUPLE_ORIGINAL | NESTED, bytes(entry[TUPLE_ORIGINAL]))
    for kind in (ZONE, IDENTIFIER):
        if kind in entry:
            body += attribute(kind, bytes(entry[kind]))
    return message(DELETE, NLM_F_REQUEST | NLM_F_ACK, body)


def _tcp_destination(frame: Frame) -> tuple[bytes, int] | None:
    """Where an entry's first packet went. Its tuple is the first attribute (ctnetlink_fill_info)."""
    start = _NFGENMSG.size
    length = int.from_bytes(frame.payload[start : start + 2], sys.byteorder)
    first = attributes(frame.payload[start : start + length]).get(TUPLE_ORIGINAL)
    if first is None:
        return None
    tuple_ = attributes(first)
    address = attributes(tuple_.get(TUPLE_IP, memoryview(b"")))
    protocol = attributes(tuple_.get(TUPLE_PROTOCOL, memoryview(b"")))
    destination = address.get(IP4_DESTINATION) or address.get(IP6_DESTINATION)
    if destination is None or bytes(protocol.get(PROTOCOL_NUMBER, b"")) != bytes([TCP]):
        return None
    return bytes(destination), int.from_bytes(protocol.get(DESTINATION_PORT, b""), "big")
