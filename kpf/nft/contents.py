"""What the kernel has of the table, read back: for tests, and for whoever doubts."""

import errno
import struct
from collections.abc import Mapping
from typing import NamedTuple

from kpf.model.rules import Verdict
from kpf.netlink.attributes import attributes, items, message, string, text_of
from kpf.netlink.nfnetlink import nfgenmsg, type_of
from kpf.netlink.socket import NetlinkSocket, RefusedError
from kpf.nft import schema
from kpf.nft.elements import Entry
from kpf.nft.encode import NFTNL_UDATA_SET_ELEM_COMMENT
from kpf.nft.values import Goto, Jump, Pass, Value
from kpf.uapi.netfilter import NF, NFPROTO
from kpf.uapi.netlink import NLM_F
from kpf.uapi.nf_tables import (
    NFT,
    NFT_MSG,
    NFTA_CHAIN,
    NFTA_DATA,
    NFTA_SET,
    NFTA_SET_ELEM,
    NFTA_SET_ELEM_LIST,
    NFTA_TABLE,
    NFTA_VERDICT,
)
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS


class Kind(NamedTuple):
    """Objects that have names: how to ask for them, and which attribute has the name."""

    get: int
    name: NFTA_CHAIN | NFTA_SET


CHAINS = Kind(type_of(NFNL_SUBSYS.NFTABLES, NFT_MSG.GETCHAIN), NFTA_CHAIN.NAME)
SETS = Kind(type_of(NFNL_SUBSYS.NFTABLES, NFT_MSG.GETSET), NFTA_SET.NAME)
GET_ELEMENTS = type_of(NFNL_SUBSYS.NFTABLES, NFT_MSG.GETSETELEM)
_DUMP = NLM_F.REQUEST | NLM_F.DUMP
_OURS = nfgenmsg(NFPROTO.INET) + string(NFTA_TABLE.NAME, schema.TABLE)
_NOTHING = memoryview(b"")


async def read_elements(netlink: NetlinkSocket) -> dict[str, dict[bytes, Entry]]:
    """The elements of every set and map, with what stands beside them; the ends of intervals are left out.

    Raises `RefusedError` (ENOENT) if the table, or a part of it, is not there; another OSError as `NetlinkSocket.talk`.
    """
    found: dict[str, dict[bytes, Entry]] = {}
    for one in schema.sets():
        request = message(GET_ELEMENTS, _DUMP, _OURS + string(NFTA_SET_ELEM_LIST.SET, one.name))
        elements: dict[bytes, Entry] = {}
        for frame in await netlink.talk([request]):
            for element in _elements(attributes(frame.payload[NFGENMSG.size :])):
                if NFTA_SET_ELEM.FLAGS not in element:
                    value, userdata = (element.get(one) for one in (NFTA_SET_ELEM.DATA, NFTA_SET_ELEM.USERDATA))
                    elements[_key(element)] = _value(value), _comment(userdata)
        found[one.name] = elements
    return found


def element_keys(told: Mapping[int, memoryview]) -> list[bytes]:
    """The keys in a message about elements, given its attributes."""
    return [_key(element) for element in _elements(told) if NFTA_SET_ELEM.KEY in element]


def _key(element: Mapping[int, memoryview]) -> bytes:
    return bytes(attributes(element[NFTA_SET_ELEM.KEY])[NFTA_DATA.VALUE])


def _elements(told: Mapping[int, memoryview]) -> list[dict[int, memoryview]]:
    """The list of elements in a message, each of which is an NFTA_LIST_ELEM."""
    return [attributes(one) for one in items(told.get(NFTA_SET_ELEM_LIST.ELEMENTS, _NOTHING))]


def _value(data: memoryview | None) -> Value:
    if data is None:
        return None
    parts = attributes(data)
    if NFTA_DATA.VERDICT not in parts:
        return bytes(parts[NFTA_DATA.VALUE])
    verdict = attributes(parts[NFTA_DATA.VERDICT])
    code = struct.unpack(">i", verdict[NFTA_VERDICT.CODE])[0]
    chain = text_of(verdict.get(NFTA_VERDICT.CHAIN, _NOTHING))
    if code == NF.DROP:
        return Verdict.DROP
    if code == NF.ACCEPT:
        return Pass.PASS
    if chain == schema.REFUSE:
        return Verdict.REFUSE
    return Jump(chain) if code == NFT.JUMP else Goto(chain)


def _comment(userdata: memoryview | None) -> str:
    """A type, how long its value is, and it: a text that ends with a zero."""
    if userdata is None or userdata[0] != NFTNL_UDATA_SET_ELEM_COMMENT:
        return ""
    return text_of(userdata[2 : 2 + userdata[1]])


async def read_names(netlink: NetlinkSocket, kind: Kind) -> frozenset[str]:
    """The names of our table's CHAINS or SETS; none without a table. Raises OSError."""
    try:
        found = await netlink.talk([message(kind.get, _DUMP, _OURS)])
    except RefusedError as error:
        if error.errno != errno.ENOENT:
            raise
        return frozenset()
    # old kernels ignore the table that is asked for
    told = [attributes(frame.payload[NFGENMSG.size :]) for frame in found]
    return frozenset(text_of(one[kind.name]) for one in told if text_of(one[NFTA_TABLE.NAME]) == schema.TABLE)
