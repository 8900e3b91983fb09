"""Transactions as lists of messages: the whole table, or what changes from one state to the next. Pure.

Only where the cursor of a forwarded frontend begins is left to chance: to begin with the first endpoint after each
change would favour it, and the kernel does not tell where it was.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, count
from operator import is_not, ne
from typing import Any, TypeVar

from kpf.model.names import FrontendKey, IPNetwork
from kpf.model.rules import Action, Forward, NodePort, Portal, Rules
from kpf.nft import encode, forwards, schema
from kpf.nft.elements import (
    Elements,
    all_elements,
    cluster_ip_element,
    hairpin_element,
    intervals,
    listening_element,
    networks,
    off_node_elements,
    portal_elements,
    sources_element,
)

K = TypeVar("K")
V = TypeVar("V")
Items = list[tuple[K, V]]
Encoder = Callable[[str, Iterable[bytes]], Iterator[bytes]]

# identifiers of sets in one transaction: those that are always there come first. What is found by its name shares one,
# but with no anonymous map: for a map's, Linux before 6.12 takes the first set of the transaction that has it.
_NAMED, _FIRST_ANONYMOUS = 0, 1000


@dataclass(frozen=True, slots=True)
class Present:
    """What is in the kernel beside what is always there, as far as it is known.

    `chains`, `sets`: names that may be ours. `forwards`: those of which it is certain that they are as they say.
    """

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    forwards: Mapping[FrontendKey, Forward] | None = None


def trial() -> list[bytes]:
    """A rule that asks for sockets, in a chain that is nowhere: to be tried, never to be committed."""
    chain_ = schema.trial()
    return [encode.new_table(), encode.new_chain(chain_.name), *encode.new_rules(chain_)]


def whole_table(rules: Rules, *, finds_sockets: bool = True) -> list[bytes]:
    """The table made anew, whatever was there. `finds_sockets`: as for `schema.chains`.

    A first packet that meets the very moment of it may pass the new chain while that is not in force yet, and the old
    one when it is not any more (the kernel puts a new hook before an old one of equal priority).
    """
    return [*encode.no_table(), *refilled_table(rules, Present(), finds_sockets=finds_sockets)]


def refilled_table(rules: Rules, present: Present, *, finds_sockets: bool = True) -> list[bytes]:
    """The table filled anew in place, or made: chains stay hooked, so no packet misses both old and new rules.

    Affinity entries stay, and so do cursors of forwards that are known to be right. It is refused if what is there has
    another shape.
    """
    messages = [encode.new_table()]
    messages += [encode.new_set(one, number) for number, one in enumerate(schema.sets(), 1)]
    static = list(schema.chains(rules, finds_sockets=finds_sockets))
    messages += [encode.new_chain(one.name, one.hook) for one in static]
    known = present.forwards or {}
    kept = {key: forward for key, forward in rules.forwards.items() if known.get(key) == forward}
    left = set(forwards.names(kept, {}))
    messages += [encode.flush_set(one.name) for one in schema.sets()]
    if left:
        flushed = [*(one.name for one in static), *(present.chains - left)]
        messages += map(encode.flush_chain, flushed)
    else:
        messages.append(encode.flush_rules())
    wanted = set(forwards.names(rules.forwards, rules.source_ranges))
    gone = sorted(present.sets - wanted)
    # what is referred to goes last: by rules, of which none is left, and by elements of another kpf's maps
    messages += map(encode.flush_set, gone)
    messages += map(encode.delete_chain, sorted(present.chains - wanted))
    messages += map(encode.delete_set, gone)
    for one in static:
        messages += encode.new_rules(one)
    new = {key: forward for key, forward in rules.forwards.items() if key not in kept}
    messages += _new_forwards({}, new)
    for ranged in rules.source_ranges.items():
        messages += _new_source_ranges(*ranged)
    for one_set in schema.sets():
        messages += _networks(rules, one_set.name, encode.new_elements)
    return [*messages, *_by_set(all_elements(rules), encode.new_elements)]


def difference(old: Rules, new: Rules) -> list[bytes]:
    """What leads from `old` to `new`: empty if nothing does."""
    gone, come = changes(old, new)
    messages = list(_by_set(gone, encode.delete_elements))
    if _named_networks(old) != _named_networks(new):
        for one in schema.sets():
            if networks(old, one.name) != networks(new, one.name):
                messages += _networks(old, one.name, encode.delete_elements)
                messages += _networks(new, one.name, encode.new_elements)
    if _of_node(old) != _of_node(new):
        for of_node in schema.of_node(new):
            messages += [encode.flush_chain(of_node.name), *encode.new_rules(of_node)]
    messages += _forwards(old, new)
    messages += _source_ranges(old, new)
    return [*messages, *_by_set(come, encode.new_elements)]


def _of_node(rules: Rules) -> tuple[object, ...]:
    """What the chains of `schema.of_node` depend on."""
    addresses = rules.proxy_addresses, rules.own_addresses
    asked = *addresses, rules.own_pods, rules.masquerade_all, rules.masquerade_bridged
    return *asked, rules.worker_uid


def _named_networks(rules: Rules) -> tuple[object, ...]:
    """What the interval sets depend on."""
    return rules.node_port_networks, rules.service_cidrs


def _forwards(old: Rules, new: Rules) -> list[bytes]:
    gone, come = (dict(items) for items in _unequal(old.forwards, new.forwards))
    messages = [encode.flush_chain(forwards.chain_of(key)) for key in gone]
    messages += [encode.delete_chain(forwards.chain_of(key)) for key in gone.keys() - come.keys()]
    for key, forward in gone.items():
        again = forwards.kept_sets(key, forward, come[key]) if key in come else ()
        for name in forwards.sets_of(key, forward):
            messages.append(encode.flush_chain(name))
            if name not in again:
                messages += [encode.delete_chain(name), encode.delete_set(name)]
    return messages + list(_new_forwards(gone, come))


def _new_forwards(known: Mapping[FrontendKey, Forward], new: Mapping[FrontendKey, Forward]) -> Iterator[bytes]:
    """Their chains are empty, if they are there: those of `known` are."""
    for identifier, (key, forward) in enumerate(new.items(), _FIRST_ANONYMOUS):
        start = random.randrange(len(forward.endpoints)) if key in known else 0
        made = forwards.parts(key, forward, identifier=identifier, start=start)
        there = {*forwards.kept_sets(key, known[key], forward), forwards.chain_of(key)} if key in known else set()
        for one in made.sets:
            if one.name not in there:
                yield encode.new_set(one, _NAMED)
        for chain_ in made.chains:
            if chain_.name not in there:
                yield encode.new_chain(chain_.name)
        if made.endpoints_map is not None:
            yield from encode.anonymous_map(made.endpoints_map)
        for chain_ in made.chains:
            yield from encode.new_rules(chain_)


def _source_ranges(old: Rules, new: Rules) -> list[bytes]:
    gone, come = (dict(items) for items in _unequal(old.source_ranges, new.source_ranges))
    messages = [encode.flush_chain(forwards.sources_chain_of(portal)) for portal in gone]
    messages += [encode.delete_chain(forwards.sources_chain_of(portal)) for portal in gone.keys() - come.keys()]
    return messages + list(chain.from_iterable(_new_source_ranges(*item) for item in come.items()))


def _new_source_ranges(portal: Portal, sources: tuple[IPNetwork, ...]) -> Iterator[bytes]:
    made = forwards.sources_chain(portal, sources)
    yield encode.new_chain(made.name)
    yield from encode.new_rules(made)


def changes(old: Rules, new: Rules) -> tuple[Elements, Elements]:
    """Elements that go, and elements that come; one with a new value is in both."""
    gone: Elements = {}
    come: Elements = {}
    portals = _unequal(old.portals, new.portals)
    node_ports = _unequal(old.node_ports, new.node_ports)
    off_node = _unequal(old.off_node, new.off_node)
    loopback = _unequal(old.loopback, new.loopback)
    renamed = _renamed(old, new)
    for side, left, right, into in ((0, old, new, gone), (1, new, old, come)):
        comment_of = left.comments.get
        changed = portals[side], node_ports[side], loopback[side]
        same = (_picked(one, renamed) for one in (left.portals, left.node_ports, left.loopback))
        for portal, action in chain[tuple[Portal | NodePort, Action]](*changed, *same):
            into.update(portal_elements(portal, action, comment_of(portal, "")))
        for portal, action in chain(off_node[side], _picked(left.off_node, renamed)):
            into.update(off_node_elements(portal, action, comment_of(portal, "")))
        guarded = _only_in(left.source_ranges, right.source_ranges).union(left.source_ranges.keys() & renamed)
        into.update(sources_element(portal, comment_of(portal, "")) for portal in guarded)
        into.update(map(hairpin_element, _only_in(left.hairpins, right.hairpins)))
        into.update(map(cluster_ip_element, _only_in(left.cluster_ips, right.cluster_ips)))
        into.update(map(listening_element, _only_in(left.listening, right.listening)))
    return gone, come


def _renamed(old: Rules, new: Rules) -> set[Portal | NodePort]:
    """Portals that have another comment: the kernel keeps the one that an element has come with."""
    return {portal for items in _unequal(old.comments, new.comments) for portal, _ in items}


def _picked(all_of: Mapping[Any, Action], portals: Iterable[Portal | NodePort]) -> Items[Portal | NodePort, Action]:
    return [(portal, all_of[portal]) for portal in portals if portal in all_of]


def _only_in(left: Collection[K], right: Collection[K]) -> set[K]:
    # sets and dicts use the hashes that they have stored when they meet sets and dicts
    return set() if left is right else set(left).difference(right)


def _unequal(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[Items[K, V], Items[K, V]]:
    """The items of each that the other has not.

    One state is mostly like the one before, in its order too, and to hash an address takes 1 µs: so what is alike at
    both ends is left out first. A value that has not changed is mostly the very same object.
    """
    if old is new:
        return [], []
    keys, new_keys = list(old), list(new)
    actions, new_actions = list(old.values()), list(new.values())
    start = min(_alike(ne, keys, new_keys), _alike(is_not, actions, new_actions))
    end = min(
        _alike(ne, keys[start:][::-1], new_keys[start:][::-1]),
        _alike(is_not, actions[start:][::-1], new_actions[start:][::-1]),
    )
    here, there = slice(start, len(keys) - end), slice(start, len(new_keys) - end)
    gone = dict(zip(keys[here], actions[here], strict=True))
    come = dict(zip(new_keys[there], new_actions[there], strict=True))
    return (
        [item for item in gone.items() if come.get(item[0]) != item[1]],
        [item for item in come.items() if gone.get(item[0]) != item[1]],
    )


def _alike(differ: Callable[[object, object], object], left: Sequence[object], right: Sequence[object]) -> int:
    """How many there are before the first that differ."""
    return next(compress(count(), map(differ, left, right)), min(len(left), len(right)))


def _by_set(elements: Elements, encoder: Encoder) -> Iterator[bytes]:
    by_set: defaultdict[str, list[bytes]] = defaultdict(list)
    for (name, key), (value, comment) in elements.items():
        by_set[name].append(encode.element(key, value, comment))
    for name, encoded in by_set.items():
        yield from encoder(name, encoded)


def _networks(rules: Rules, name: str, encoder: Encoder) -> Iterator[bytes]:
    """The elements of an interval set; nothing for another one."""
    keys = [key for network in networks(rules, name) or () for key in intervals(network)]
    return encoder(name, (encode.element(key, interval_end=end) for key, end in keys))
