"""A frontend gets another place in the same memory, as it listens elsewhere: its turn and its clients go along."""

from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_ENTRIES,
    AFFINITY_TABLE,
    AFFINITY_TABLE_WORDS,
    ANCHOR,
    ANCHOR_PORT,
    COUNT_SHIFT,
    ENTRY_IDENTITY,
    ENTRY_WORDS,
    IDENTITY,
    INDEX_MASK,
    KEEP_LIST,
    LIST,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PORT,
    TIMEOUT,
)
from kpf.shm.region import Region

Place = tuple[int, ...]


def move(region: Region, before: int, after: int) -> None:
    """Copy what slot `before` has of turn and affinity to `after`, which nobody uses yet; its members are there.

    The turn goes along if the members are the same; an affinity entry, if its member is there, too.
    """
    words, layout = region.words, region.layout
    old, new = layout.frontend(before), layout.frontend(after)
    had, has = _members(region, old), _members(region, new)
    if [place for place, _ in had] == [place for place, _ in has]:
        words[new + ANCHOR : new + ANCHOR_PORT + 1] = words[old + ANCHOR : old + ANCHOR_PORT + 1]
        words[new + LIST] = words[new + LIST] & KEEP_LIST | words[old + LIST] & ~KEEP_LIST
    if words[old + TIMEOUT] and words[new + TIMEOUT]:
        there = dict(has)
        _move_entries(region, old, new, {identity: there[place] for place, identity in had if place in there})


def _members(region: Region, record: int) -> list[tuple[Place, int]]:
    """Address, port and identity of each, in their order."""
    words, layout = region.words, region.layout
    word = words[record + LIST]
    start = layout.arena + (word >> OFFSET_SHIFT & OFFSET_MASK)
    found = []
    for member in words[start : start + (word >> COUNT_SHIFT & INDEX_MASK)].tolist():
        at = layout.member(member)
        found.append((tuple(words[at + ADDRESS : at + PORT + 1].tolist()), words[at + IDENTITY]))
    return found


def _move_entries(region: Region, old: int, new: int, identities: dict[int, int]) -> None:
    words, layout = region.words, region.layout
    source = layout.affinity_table(words[old + AFFINITY_TABLE] - 1)
    target = layout.affinity_table(words[new + AFFINITY_TABLE] - 1)
    entries, moved = region.read(source, AFFINITY_TABLE_WORDS), 0
    for number, identity in enumerate(entries[ENTRY_IDENTITY::ENTRY_WORDS].tolist()):
        if identity in identities:
            at = number * ENTRY_WORDS
            words[target + at : target + at + ENTRY_WORDS] = entries[at : at + ENTRY_WORDS]
            words[target + at + ENTRY_IDENTITY] = identities[identity]
            moved += 1
    words[new + AFFINITY_ENTRIES] = moved
