"""The table as the real kernel has it, beyond what `Kernel` tells: rules and sets, in terms that can be compared."""

from collections.abc import Iterator

from kpf.model.rules import Rules
from kpf.netlink.attributes import attributes, items, message, string, text_of
from kpf.netlink.nfnetlink import nfgenmsg, type_of
from kpf.netlink.socket import Frame, NetlinkSocket
from kpf.nft import contents, forwards, schema
from kpf.uapi.netfilter import NFPROTO
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.nf_expressions import NFTA_LOOKUP
from kpf.uapi.nf_tables import (
    NFTA_EXPR,
    NFTA_RULE,
    NFTA_SET_ELEM,
    NFTA_SET_ELEM_LIST,
    NFTA_TABLE,
)
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS

GET_RULES = type_of(NFNL_SUBSYS.NFTABLES, 7)  # NFT_MSG_GETRULE

Expression = tuple[str, tuple[tuple[int, bytes], ...]]
Rule = tuple[Expression, ...]


def chains_of(rules: Rules) -> set[str]:
    """The names of all chains that the table must have."""
    return {*(chain.name for chain in schema.chains(rules)), *forwards.names(rules.forwards, rules.source_ranges)}


def sets_of(rules: Rules) -> set[str]:
    """The names of all sets that the table must have, but for those that are part of a rule."""
    own = (name for item in rules.forwards.items() for name in forwards.sets_of(*item))
    return {*(one.name for one in schema.sets()), *own}


async def read_table() -> tuple[dict[str, list[Rule]], set[str], int]:
    """The rules of each chain that has any, sorted; the names of sets; and how many more are part of a rule.

    Whose turn it is depends on the history; so does the order of the rules that look for an affinity entry, and that of
    the values of a map which is part of a rule.
    """
    netlink = NetlinkSocket(NETLINK.NETFILTER)
    try:
        found = await _dump(netlink, GET_RULES)
        sets = await contents.read_names(netlink, contents.SETS)
        maps: dict[str, bytes] = {}
        for name in sets:
            if name.startswith("__"):
                frames = await _dump(netlink, contents.GET_ELEMENTS, string(NFTA_SET_ELEM_LIST.SET, name))
                values = [value for frame in frames for value in _values(frame)]
                maps[name] = b"".join(sorted(values))
    finally:
        netlink.close()
    rules: dict[str, list[Rule]] = {}
    for frame in found:
        told = attributes(frame.payload[NFGENMSG.size :])
        expressions = tuple(_expressions(told[NFTA_RULE.EXPRESSIONS], maps))
        rules.setdefault(text_of(told[NFTA_RULE.CHAIN]), []).append(expressions)
    return {chain: sorted(these) for chain, these in rules.items()}, {*sets} - maps.keys(), len(maps)


async def _dump(netlink: NetlinkSocket, kind: int, more: bytes = b"") -> list[Frame]:
    named = nfgenmsg(NFPROTO.INET) + string(NFTA_TABLE.NAME, schema.TABLE)
    return await netlink.talk([message(kind, NLM_F.REQUEST | NLM_F.DUMP, named + more)])


def _values(frame: Frame) -> Iterator[bytes]:
    for element in items(attributes(frame.payload[NFGENMSG.size :])[NFTA_SET_ELEM_LIST.ELEMENTS]):
        yield bytes(attributes(element)[NFTA_SET_ELEM.DATA])


def _expressions(data: memoryview, maps: dict[str, bytes]) -> Iterator[Expression]:
    for told in map(attributes, items(data)):
        name, fields = text_of(told[NFTA_EXPR.NAME]), attributes(told[NFTA_EXPR.DATA])
        if name == "lookup" and (values := maps.get(text_of(fields[NFTA_LOOKUP.SET]))):
            # the kernel numbers these maps
            fields[NFTA_LOOKUP.SET] = memoryview(values)
        yield name, tuple(sorted((kind, bytes(value)) for kind, value in fields.items()))


def maps_of(rules: Rules) -> int:
    """How many maps are part of a rule: a single endpoint without affinity needs none."""
    return sum(len(one.endpoints) > 1 or one.affinity_timeout_s is not None for one in rules.forwards.values())
