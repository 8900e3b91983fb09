"""What differs between two states of thousands of values of which few differ.

To hash an address takes longer than all else that is done with one, and then it is memory that takes time: so what is
alike is never hashed, and passed as seldom as can be. The very same object is no change; sets and dicts use the hashes
that they have stored when they meet sets and dicts.
"""

from collections.abc import Callable, Mapping, Set
from itertools import chain, compress, repeat
from operator import is_not, not_
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def differences(new: Mapping[K, V], old: Mapping[K, V], key: Callable[[V], K]) -> tuple[list[K], set[K]]:
    """Keys that are new or whose value is not the very same object as before, in order; and those that are gone.

    `key` tells the key of a value.
    """
    changed = list(map(key, _unlike(new, old)))
    added = sum(one not in old for one in changed)
    return changed, set(old).difference(new) if len(old) + added > len(new) else set()


def _unlike(new: Mapping[K, V], old: Mapping[K, V]) -> list[V]:
    # mostly both are in one order, and one pass tells; else it takes a set, and five times as long
    found = list(compress(new.values(), map(is_not, new.values(), chain(old.values(), repeat(None)))))
    if len(found) * 5 < len(new):
        return found
    known = set(map(id, old.values()))
    return list(compress(new.values(), map(not_, map(known.__contains__, map(id, new.values())))))


def missing(old: Mapping[K, object], new: Mapping[K, object]) -> set[K]:
    """Keys that are in `old` and not in `new`; takes no time if these are the same object."""
    return set() if old is new else set(old).difference(new)


def replaced(old: Mapping[K, V], new: Mapping[K, V], gone: Set[object]) -> Mapping[K, V]:
    """The old items with the new ones in their places, and without those that are gone and not new.

    What is equal stays the object that it was; `old` itself if all is.
    """
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    left = (old.keys() & gone) - new.keys()
    if not left and not changed:
        return old
    made = {**old, **changed}
    for key in left:
        del made[key]
    return made
