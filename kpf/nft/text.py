"""The table as text for `nft -f`: the same chains and elements that the kernel is told by netlink. Pure."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from kpf.model.names import Family
from kpf.model.rules import Rules, Verdict
from kpf.nft import schema
from kpf.nft.elements import PROTOCOLS, Value, all_elements, node_port_networks
from kpf.nft.schema import Chain, Set

_PROTOCOL_NAMES = {number: protocol.lower() for protocol, number in PROTOCOLS.items()}


def render(rules: Rules, comments: Iterable[str] = ()) -> str:
    """One valid `nft -f` file that replaces the table atomically; `comments` become its first lines."""
    # a comment of two lines would put its second one into force
    lines = [f"# {line}".rstrip() for comment in comments for line in comment.splitlines() or [""]]
    lines += [f"table inet {schema.TABLE}", f"delete table inet {schema.TABLE}", f"table inet {schema.TABLE} {{"]
    elements: dict[str, list[tuple[bytes, Value]]] = {}
    for (name, key), value in sorted(all_elements(rules).items(), key=lambda item: item[0]):
        elements.setdefault(name, []).append((key, value))
    for one in schema.sets():
        lines += _set(one, list(_elements(one, rules, elements.get(one.name, []))))
    for chain in schema.chains(rules):
        lines += _chain(chain)
    return "\n".join([*lines, "}", ""])


def _set(one: Set, elements: list[str]) -> Iterator[str]:
    yield f"\t{'set' if one.data is None else 'map'} {one.name} {{"
    yield f"\t\ttype {one.type_text}"
    if one.interval:
        yield "\t\tflags interval"
    if elements:
        yield "\t\telements = {"
        yield from (f"\t\t\t{element}," for element in elements)
        yield "\t\t}"
    yield "\t}"


def _elements(one: Set, rules: Rules, elements: list[tuple[bytes, Value]]) -> Iterator[str]:
    if one.interval:
        family = next(family for family in Family if one.name == schema.name_of("node-port-networks", family))
        yield from map(str, node_port_networks(rules, family))
    for key, value in elements:
        yield _key(one, key) + _value(value)


def _key(one: Set, key: bytes) -> str:
    parts, at = [], 0
    for kind in one.key:
        if kind == schema.TYPE_PORT:
            parts.append(str(int.from_bytes(key[at : at + 2], "big")))
        elif kind == schema.TYPE_PROTOCOL:
            parts.append(_PROTOCOL_NAMES[key[at]])
        else:
            parts.append(str(ip_address(key[at : at + schema.SIZES[kind]])))
        at += schema.SIZES[kind]
    return " . ".join(parts)


def _value(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Verdict):
        return f" : {'drop' if value is Verdict.DROP else f'goto {schema.REFUSE}'}"
    return f" : {int.from_bytes(value, 'big')}"


def _chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook:
        yield f"\t\ttype {chain.hook.kind} hook {chain.hook.name} priority {chain.hook.priority}; policy accept;"
    for statements in chain.rules:
        yield "\t\t" + " ".join(statement.text for statement in statements)
    yield "\t}"
