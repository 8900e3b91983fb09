"""Looks up single things in shared memory without any lock: for whoever asks, never for a pick."""

from typing import NamedTuple

from kpf.shm import health
from kpf.shm.affinity import AffinityEntries, AffinityTable, client_of
from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_TABLE,
    COUNT_SHIFT,
    ENTRY_IDENTITY,
    ENTRY_STAMP,
    HEALTH,
    IDENTITY,
    INDEX_MASK,
    LIST,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PORT,
    SLOT_MASK,
    TIMEOUT,
    Address,
)
from kpf.shm.region import Region


class AffinityEntry(NamedTuple):
    """`left_ms`: until it expires, if the client does not come again. `is_out`: its member is ejected.

    One that is suspected keeps its clients.
    """

    address: Address
    left_ms: int
    is_out: bool


def affinity_entry_of(region: Region, slot: int, host: str, *, now_ms: int) -> AffinityEntry | None:
    """The entry that counts, of a client's address as text, in the frontend at `slot`; None if there is none.

    `now_ms`: CLOCK_MONOTONIC.
    """
    words, record = region.words, region.layout.frontend(slot)
    timeout_ms, table = words[record + TIMEOUT], words[record + AFFINITY_TABLE]
    if not timeout_ms or not table:
        return None
    place = AffinityTable(region.layout.affinity_table(table - 1), timeout_ms)
    entry = AffinityEntries(region).find(place, client_of(host), now_ms=now_ms)
    if not entry:
        return None
    identity = words[entry + ENTRY_IDENTITY]
    member = region.layout.member(identity & SLOT_MASK)
    address = address_at(region, member)
    left_ms, word = timeout_ms - (now_ms - words[entry + ENTRY_STAMP]), words[member + HEALTH]
    is_out = health.is_ejected(word, now_ms) and not health.is_suspected(word)
    # the place may have been given to another one meanwhile
    return AffinityEntry(address, left_ms, is_out) if words[member + IDENTITY] == identity else None


def ejected_at(region: Region, slot: int, *, now_ms: int) -> list[Address]:
    """The members of the frontend at `slot` that picks pass over at `now_ms` (CLOCK_MONOTONIC)."""
    words = region.words
    word = words[region.layout.frontend(slot) + LIST]
    start, count = region.layout.arena + (word >> OFFSET_SHIFT & OFFSET_MASK), word >> COUNT_SHIFT & INDEX_MASK
    members = map(region.layout.member, words[start : start + count].tolist())
    return [address_at(region, one) for one in members if health.is_ejected(words[one + HEALTH], now_ms)]


def address_at(region: Region, member: int) -> Address:
    """Of the member whose record is there."""
    return Address(region.words[member + ADDRESS : member + PORT].tobytes(), region.words[member + PORT])
