"""What the kernel has of the table, read back: for tests, and for whoever doubts."""

import errno
import struct
from collections.abc import Mapping

from kpf.model.rules import Verdict
from kpf.netlink.attributes import attribute, attributes, message
from kpf.netlink.socket import NLM_F_DUMP, NLM_F_REQUEST, NetlinkSocket, RefusedError
from kpf.nft import encode, schema
from kpf.nft.expressions import NF_ACCEPT, NF_DROP, NFT_JUMP
from kpf.nft.values import Goto, Jump, Pass, Value

GET_CHAINS, GET_SETS, GET_ELEMENTS = 10 << 8 | 4, 10 << 8 | 10, 10 << 8 | 13
CHAIN_NAME, SET_NAME = 3, 2
_NFGENMSG = struct.pack("=BBH", encode.INET, 0, 0)


async def read_elements(netlink: NetlinkSocket) -> dict[str, dict[bytes, Value]]:
    """The elements of every set and map; the ends of intervals are left out.

    Raises `RefusedError` (ENOENT) if the table, or a part of it, is not there; another OSError as `NetlinkSocket.talk`.
    """
    found: dict[str, dict[bytes, Value]] = {}
    for one in schema.sets():
        names = attribute(1, schema.TABLE.encode() + b"\0") + attribute(2, one.name.encode() + b"\0")
        request = message(GET_ELEMENTS, NLM_F_REQUEST | NLM_F_DUMP, _NFGENMSG + names)
        elements: dict[bytes, Value] = {}
        for frame in await netlink.talk([request]):
            for element in _list(attributes(frame.payload[4:]).get(3, memoryview(b""))):
                if encode.ELEMENT_FLAGS not in element:
                    elements[bytes(attributes(element[1])[1])] = _value(element.get(2))
        found[one.name] = elements
    return found


def element_keys(told: Mapping[int, memoryview]) -> list[bytes]:
    """The keys in a message about elements, given its attributes."""
    return [bytes(attributes(element[1])[1]) for element in _list(told.get(3, memoryview(b""))) if 1 in element]


def _list(data: memoryview) -> list[dict[int, memoryview]]:
    """The elements of a list, which all have the same attribute type."""
    items, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("=H", data, at)
        items.append(attributes(data[at + 4 : at + length]))
        at += max(length, 4) + 3 & ~3
    return items


def _value(data: memoryview | None) -> Value:
    if data is None:
        return None
    parts = attributes(data)
    if 2 not in parts:
        return bytes(parts[1])
    verdict = attributes(parts[2])
    code, chain = struct.unpack(">i", verdict[1])[0], _text(verdict.get(2, memoryview(b"")))
    if code == NF_DROP:
        return Verdict.DROP
    if code == NF_ACCEPT:
        return Pass.PASS
    if chain == schema.REFUSE:
        return Verdict.REFUSE
    return Jump(chain) if code == NFT_JUMP else Goto(chain)


async def read_names(netlink: NetlinkSocket, kind: int, attribute_of_name: int) -> frozenset[str]:
    """The names of our table's chains (GET_CHAINS, CHAIN_NAME) or sets (GET_SETS, SET_NAME); none without a table.

    Raises OSError.
    """
    table = attribute(1, schema.TABLE.encode() + b"\0")
    try:
        found = await netlink.talk([message(kind, NLM_F_REQUEST | NLM_F_DUMP, _NFGENMSG + table)])
    except RefusedError as error:
        if error.errno != errno.ENOENT:
            raise
        return frozenset()
    # old kernels ignore the table that is asked for
    told = [attributes(frame.payload[4:]) for frame in found]
    return frozenset(_text(one[attribute_of_name]) for one in told if _text(one[1]) == schema.TABLE)


def _text(data: memoryview) -> str:
    return bytes(data).rstrip(b"\0").decode()
