"""Transactions as lists of messages: the whole table, or what changes from one state to the next. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, count
from operator import ne
from typing import TypeVar

from kpf.model.names import Family
from kpf.model.rules import Action, Rules
from kpf.nft import encode, schema
from kpf.nft.elements import (
    Elements,
    Key,
    Value,
    all_elements,
    cluster_ip_element,
    intervals,
    listening_element,
    node_port_element,
    node_port_networks,
    portal_element,
)

P = TypeVar("P")
Items = list[tuple[P, Action]]


def whole_table(rules: Rules) -> list[bytes]:
    """The table made anew, whatever was there.

    A first packet that meets the very moment of it may pass the new chain while that is not in force yet, and the old
    one when it is not any more (the kernel puts a new hook before an old one of equal priority).
    """
    return [*encode.no_table(), *refilled_table(rules)]


def refilled_table(rules: Rules) -> list[bytes]:
    """The table filled anew in place, or made: chains stay hooked, so no packet misses both old and new rules.

    It is refused if what is there has another shape, and leaves chains alone that it does not know.
    """
    messages = [encode.new_table()]
    for number, one in enumerate(schema.sets(), 1):
        messages.append(encode.new_set(one, number))
    for chain in schema.chains(rules):
        messages.append(encode.new_chain(chain.name, chain.hook))
    messages.append(encode.flush_rules())
    messages += [encode.flush_set(one.name) for one in schema.sets()]
    for chain in schema.chains(rules):
        messages += encode.new_rules(chain)
    for family in Family:
        messages += _networks(rules, family, encode.new_elements)
    messages += _by_set(all_elements(rules), encode.new_elements)
    return messages


def difference(old: Rules, new: Rules) -> list[bytes]:
    """What leads from `old` to `new`: empty if nothing does."""
    gone, come = changes(old, new)
    messages = list(_by_set(gone, encode.delete_elements))
    for family in Family:
        if node_port_networks(old, family) != node_port_networks(new, family):
            messages += _networks(old, family, encode.delete_elements)
            messages += _networks(new, family, encode.new_elements)
    if old.proxy_addresses != new.proxy_addresses:
        for chain in schema.chains(new):
            if chain.name == schema.REDIRECTS:
                messages += [encode.flush_chain(chain), *encode.new_rules(chain)]
    return [*messages, *_by_set(come, encode.new_elements)]


def changes(old: Rules, new: Rules) -> tuple[Elements, Elements]:
    """Elements that go, and elements that come; one with a new value is in both."""
    gone: Elements = {}
    come: Elements = {}
    portals = _unequal(old.portals, new.portals)
    node_ports = _unequal(old.node_ports, new.node_ports)
    for side, left, right, into in ((0, old, new, gone), (1, new, old, come)):
        into.update(portal_element(*item) for item in portals[side])
        into.update(node_port_element(*item) for item in node_ports[side])
        if left.cluster_ips is not right.cluster_ips:
            into.update(map(cluster_ip_element, left.cluster_ips - right.cluster_ips))
        if left.listening is not right.listening:
            into.update(map(listening_element, left.listening - right.listening))
    return gone, come


def _unequal(old: Mapping[P, Action], new: Mapping[P, Action]) -> tuple[Items[P], Items[P]]:
    """The items of each that the other has not.

    One state is mostly like the one before, in its order too, and to hash an address takes 1 µs: so what is alike at
    both ends is left out first.
    """
    if old is new:
        return [], []
    keys, new_keys = list(old), list(new)
    actions, new_actions = list(old.values()), list(new.values())
    start = min(_alike(keys, new_keys), _alike(actions, new_actions))
    end = min(
        _alike(keys[start:][::-1], new_keys[start:][::-1]), _alike(actions[start:][::-1], new_actions[start:][::-1])
    )
    here, there = slice(start, len(keys) - end), slice(start, len(new_keys) - end)
    gone = dict(zip(keys[here], actions[here], strict=True))
    come = dict(zip(new_keys[there], new_actions[there], strict=True))
    return (
        [item for item in gone.items() if come.get(item[0]) != item[1]],
        [item for item in come.items() if gone.get(item[0]) != item[1]],
    )


def _alike(left: Sequence[object], right: Sequence[object]) -> int:
    """How many are equal before the first that are not."""
    return next(compress(count(), map(ne, left, right)), min(len(left), len(right)))


def _by_set(
    elements: Mapping[Key, Value], encoder: Callable[[str, Iterable[bytes]], Iterator[bytes]]
) -> Iterator[bytes]:
    by_set: defaultdict[str, list[bytes]] = defaultdict(list)
    for (name, key), value in elements.items():
        by_set[name].append(encode.element(key, value))
    for name, encoded in by_set.items():
        yield from encoder(name, encoded)


def _networks(
    rules: Rules, family: Family, encoder: Callable[[str, Iterable[bytes]], Iterator[bytes]]
) -> Iterator[bytes]:
    keys = [key for network in node_port_networks(rules, family) for key in intervals(network)]
    elements = (encode.element(key, interval_end=end) for key, end in keys)
    return encoder(schema.name_of("node-port-networks", family), elements)
