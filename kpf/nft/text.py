"""The table as text for `nft -f`: the same chains and elements that the kernel is told by netlink. Pure."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from kpf.model.rules import Rules, Verdict
from kpf.netlink.nfnetlink import IPPROTO_OF
from kpf.nft import forwards, schema
from kpf.nft.datatypes import SIZES, TYPE_PORT, TYPE_PROTOCOL
from kpf.nft.elements import Entry, all_elements, networks
from kpf.nft.objects import Chain, Set
from kpf.nft.values import Goto, Jump, Pass, Value

_MARKS = schema.MASQUERADE_ALWAYS, schema.MASQUERADE_FOREIGN
_PROTOCOL_NAMES = {int(number): protocol.lower() for protocol, number in IPPROTO_OF.items()}


def render(rules: Rules, comments: Iterable[str] = ()) -> str:
    """One valid `nft -f` file that replaces the table atomically; `comments` become its first lines."""
    # a comment of two lines would put its second one into force
    lines = [f"# {line}".rstrip() for comment in comments for line in comment.splitlines() or [""]]
    lines += [f"table inet {schema.TABLE}", f"delete table inet {schema.TABLE}", f"table inet {schema.TABLE} {{"]
    elements: dict[str, list[tuple[bytes, Entry]]] = {}
    for (name, key), entry in sorted(all_elements(rules).items(), key=lambda item: item[0]):
        elements.setdefault(name, []).append((key, entry))
    parts = [forwards.parts(key, one, identifier=0, start=0) for key, one in rules.forwards.items()]
    own_chains = [chain for part in parts for chain in part.chains]
    own_chains += [forwards.sources_chain(*ranged) for ranged in rules.source_ranges.items()]
    # a chain is named before an element refers to it, and has its rules after the sets that these refer to
    lines += (f"\tchain {name} {{\n\t}}" for name in (schema.REFUSE, *_MARKS, *(chain.name for chain in own_chains)))
    for one in (*schema.sets(), *(one for part in parts for one in part.sets)):
        lines += _set(one, list(_elements(one, rules, elements.get(one.name, []))))
    for chain in (*own_chains, *schema.chains(rules)):
        lines += _chain(chain)
    return "\n".join([*lines, "}", ""])


def _set(one: Set, elements: list[str]) -> Iterator[str]:
    yield f"\t{'set' if one.data is None else 'map'} {one.name} {{"
    yield f"\t\ttype {one.type_text}"
    if one.interval or one.dynamic:
        yield f"\t\tflags {'interval' if one.interval else 'dynamic,timeout'}"
    if elements:
        yield "\t\telements = {"
        yield from (f"\t\t\t{element}," for element in elements)
        yield "\t\t}"
    yield "\t}"


def _elements(one: Set, rules: Rules, elements: list[tuple[bytes, Entry]]) -> Iterator[str]:
    yield from map(str, networks(rules, one.name) or ())
    for key, (value, comment) in elements:
        yield _key(one, key) + (f' comment "{comment}"' if comment else "") + _value(value)


def _key(one: Set, key: bytes) -> str:
    parts, at = [], 0
    for kind in one.key:
        if kind == TYPE_PORT:
            parts.append(str(int.from_bytes(key[at : at + 2], "big")))
        elif kind == TYPE_PROTOCOL:
            parts.append(_PROTOCOL_NAMES[key[at]])
        else:
            parts.append(str(ip_address(key[at : at + SIZES[kind]])))
        at += SIZES[kind]
    return " . ".join(parts)


def _value(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Verdict):
        return f" : {'drop' if value is Verdict.DROP else f'goto {schema.REFUSE}'}"
    if isinstance(value, Pass):
        return " : accept"
    if isinstance(value, Goto | Jump):
        return f" : {'goto' if isinstance(value, Goto) else 'jump'} {value.chain}"
    return f" : {int.from_bytes(value, 'big')}"


def _chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook:
        yield f"\t\ttype {chain.hook.kind} hook {chain.hook.name} priority {chain.hook.priority}; policy accept;"
    for statements in chain.rules:
        yield "\t\t" + " ".join(statement.text for statement in statements)
    yield "\t}"
