"""Transactions as lists of messages: the whole table, or what changes from one state to the next. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
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


def whole_table(rules: Rules) -> list[bytes]:
    """The table made anew, whatever was there."""
    messages = [*encode.no_table(), encode.new_table()]
    for number, one in enumerate(schema.sets(), 1):
        messages.append(encode.new_set(one, number))
    for chain in schema.chains(rules):
        messages.append(encode.new_chain(chain.name, chain.hook))
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
    for left, right, into in ((old, new, gone), (new, old, come)):
        into.update(_only_in(left.portals, right.portals, portal_element))
        into.update(_only_in(left.node_ports, right.node_ports, node_port_element))
        into.update(map(cluster_ip_element, left.cluster_ips - right.cluster_ips))
        into.update(map(listening_element, left.listening - right.listening))
    return gone, come


def _only_in(
    these: Mapping[P, Action], those: Mapping[P, Action], element: Callable[[P, Action], tuple[Key, Value]]
) -> Iterator[tuple[Key, Value]]:
    return (element(portal, action) for portal, action in these.items() if those.get(portal) != action)


def _by_set(
    elements: Mapping[Key, Value], encoder: Callable[[str, Iterable[bytes]], Iterator[bytes]]
) -> Iterator[bytes]:
    ordered = sorted(elements.items(), key=lambda item: item[0])
    for name, group in groupby(ordered, key=lambda item: item[0][0]):
        yield from encoder(name, (encode.element(key, value) for (_, key), value in group))


def _networks(
    rules: Rules, family: Family, encoder: Callable[[str, Iterable[bytes]], Iterator[bytes]]
) -> Iterator[bytes]:
    keys = [key for network in node_port_networks(rules, family) for key in intervals(network)]
    elements = (encode.element(key, interval_end=end) for key, end in keys)
    return encoder(schema.name_of("node-port-networks", family), elements)
