"""Connection attempts that came before their portal.

While any conntrack rule is in force, a SYN to an address that nobody has yet leaves an entry. Its retransmissions
belong to that entry and never meet the portal's rule, so the entry has to go when the portal comes.
"""

import errno
import struct
from collections.abc import Iterator, Set

from kpf.model.names import SocketAddress
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
TUPLE_ORIGINAL, STATUS, IDENTIFIER, STATUS_MASK = 1, 3, 12, 26
TUPLE_IP, TUPLE_PROTOCOL = 1, 2
IP4_DESTINATION, IP6_DESTINATION = 2, 4
PROTOCOL_NUMBER, DESTINATION_PORT = 1, 3
SEEN_REPLY = 1 << 1
TCP = 6

_NFGENMSG = struct.Struct("=BBH")
_BUFFER_BYTES = 16 << 20


async def forget_unreplied(portals: Set[SocketAddress], node_ports: Set[int]) -> int:
    """Delete the unreplied TCP entries whose first destination is one of these; returns how many.

    One dump, which the kernel filters by status (since 5.18; an older one sends everything). Raises OSError.
    """
    wanted = {(at.address.packed, at.port) for at in portals}
    netlink = NetlinkSocket(NETLINK_NETFILTER, buffer_bytes=_BUFFER_BYTES)
    try:
        status = attribute(STATUS, struct.pack(">I", 0)) + attribute(STATUS_MASK, struct.pack(">I", SEEN_REPLY))
        dump = message(GET, NLM_F_REQUEST | NLM_F_DUMP, _NFGENMSG.pack(0, 0, 0) + status)
        deletions = list(_deletions(await netlink.talk([dump]), wanted, node_ports))
        deleted = 0
        for deletion in deletions:
            try:
                await netlink.talk([deletion])
                deleted += 1
            except RefusedError as error:
                # it has gone by itself
                if error.errno != errno.ENOENT:
                    raise
        return deleted
    finally:
        netlink.close()


def _deletions(found: list[Frame], wanted: Set[tuple[bytes, int]], node_ports: Set[int]) -> Iterator[bytes]:
    for frame in found:
        entry = attributes(frame.payload[_NFGENMSG.size :])
        original = entry.get(TUPLE_ORIGINAL)
        if original is None or int.from_bytes(entry.get(STATUS, b""), "big") & SEEN_REPLY:
            continue
        destination = _tcp_destination(original)
        if destination is None or not (destination in wanted or destination[1] in node_ports):
            continue
        body = bytes(frame.payload[: _NFGENMSG.size]) + attribute(TUPLE_ORIGINAL | NESTED, bytes(original))
        if IDENTIFIER in entry:
            body += attribute(IDENTIFIER, bytes(entry[IDENTIFIER]))
        yield message(DELETE, NLM_F_REQUEST | NLM_F_ACK, body)


def _tcp_destination(original: memoryview) -> tuple[bytes, int] | None:
    tuple_ = attributes(original)
    address = attributes(tuple_.get(TUPLE_IP, memoryview(b"")))
    protocol = attributes(tuple_.get(TUPLE_PROTOCOL, memoryview(b"")))
    destination = address.get(IP4_DESTINATION) or address.get(IP6_DESTINATION)
    if destination is None or bytes(protocol.get(PROTOCOL_NUMBER, b"")) != bytes([TCP]):
        return None
    return bytes(destination), int.from_bytes(protocol.get(DESTINATION_PORT, b""), "big")
