"""The table as the real kernel has it, beyond what `Kernel` tells: rules and sets, in terms that can be compared."""

import struct
from collections.abc import Iterator

from kpf.model.rules import Rules
from kpf.netlink.attributes import attribute, attributes, message
from kpf.netlink.socket import NETLINK_NETFILTER, NLM_F_DUMP, NLM_F_REQUEST, Frame, NetlinkSocket
from kpf.nft import contents, encode, forwards, schema

GET_RULES = 10 << 8 | 7
# NFTA_RULE_CHAIN, _EXPRESSIONS; NFTA_EXPR_NAME, _DATA; NFTA_LOOKUP_SET; NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_DATA
_CHAIN, _EXPRESSIONS, _NAME, _DATA, _LOOKUP_SET, _ELEMENTS, _VALUE = 2, 4, 1, 2, 1, 3, 2

Expression = tuple[str, tuple[tuple[int, bytes], ...]]
Rule = tuple[Expression, ...]


def chains_of(rules: Rules) -> set[str]:
    """The names of all chains that the table must have."""
    return {*(chain.name for chain in schema.chains(rules)), *forwards.names(rules.forwards, rules.guards)}


def sets_of(rules: Rules) -> set[str]:
    """The names of all sets that the table must have, but for those that are part of a rule."""
    own = (name for item in rules.forwards.items() for name in forwards.sets_of(*item))
    return {*(one.name for one in schema.sets()), *own}


async def read_table() -> tuple[dict[str, list[Rule]], set[str], int]:
    """The rules of each chain that has any, sorted; the names of sets; and how many more are part of a rule.

    Whose turn it is depends on the history; so does the order of the rules that look for a pin, and that of the values
    of a map which is part of a rule.
    """
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    try:
        found = await _dump(netlink, GET_RULES)
        sets = await contents.read_names(netlink, contents.GET_SETS, contents.SET_NAME)
        maps: dict[str, bytes] = {}
        for name in sets:
            if name.startswith("__"):
                frames = await _dump(netlink, contents.GET_ELEMENTS, attribute(2, name.encode() + b"\0"))
                values = [value for frame in frames for value in _values(frame)]
                maps[name] = b"".join(sorted(values))
    finally:
        netlink.close()
    rules: dict[str, list[Rule]] = {}
    for frame in found:
        told = attributes(frame.payload[4:])
        rules.setdefault(_text(told[_CHAIN]), []).append(tuple(_expressions(told[_EXPRESSIONS], maps)))
    return {chain: sorted(these) for chain, these in rules.items()}, {*sets} - maps.keys(), len(maps)


async def _dump(netlink: NetlinkSocket, kind: int, more: bytes = b"") -> list[Frame]:
    named = struct.pack("=BBH", encode.INET, 0, 0) + attribute(1, schema.TABLE.encode() + b"\0")
    return await netlink.talk([message(kind, NLM_F_REQUEST | NLM_F_DUMP, named + more)])


def _values(frame: Frame) -> Iterator[bytes]:
    for element in _list(attributes(frame.payload[4:])[_ELEMENTS]):
        yield bytes(element[_VALUE])


def _list(data: memoryview) -> Iterator[dict[int, memoryview]]:
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("=H", data, at)
        yield attributes(data[at + 4 : at + length])
        at += length + 3 & ~3


def _expressions(data: memoryview, maps: dict[str, bytes]) -> Iterator[Expression]:
    for told in _list(data):
        fields = {kind: bytes(value) for kind, value in attributes(told[_DATA]).items()}
        if _text(told[_NAME]) == "lookup" and (values := maps.get(fields[_LOOKUP_SET].rstrip(b"\0").decode())):
            # the kernel numbers these maps
            fields[_LOOKUP_SET] = values
        yield _text(told[_NAME]), tuple(sorted(fields.items()))


def _text(data: memoryview) -> str:
    return bytes(data).rstrip(b"\0").decode()


def maps_of(rules: Rules) -> int:
    """How many maps are part of a rule: a single endpoint without pins needs none."""
    return sum(len(one.endpoints) > 1 or one.affinity_timeout_s is not None for one in rules.forwards.values())
