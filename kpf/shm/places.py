"""The master's places: of frontends, members, lists and affinity tables. What is free, and how it is cleaned before.

A place that workers may still refer to is used again only when nobody does: all counts of active connections are 0.
Each place is clean before it is free, so a master that was killed meanwhile leaves nothing behind for the next one.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kpf.shm.extents import Extents
from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_TABLE_WORDS,
    AFFINITY_TABLES,
    ARENA_WORDS,
    CONNECT_TIME,
    FRONTEND_CAPACITY,
    FRONTEND_COUNTERS,
    FRONTEND_WORDS,
    FRONTENDS_USED_AT,
    HEALTH,
    IDENTITY,
    MEMBER_CAPACITY,
    MEMBER_COUNTERS,
    MEMBERS_USED_AT,
    OWNER,
    PORT,
    SERIAL_AT,
    SERIAL_SHIFT,
    WORKERS_USED_AT,
    Address,
    notes_of,
)
from kpf.shm.region import Region
from kpf.shm.slots import CapacityError, Slots


@dataclass(slots=True)
class Frontend:
    """What the master knows of a frontend. `table`: the index of its affinity table, None if it never had one."""

    label: bytes = b""
    addresses: tuple[Address, ...] = ()
    slots: tuple[int, ...] = ()
    offset: int = 0
    timeout_ms: int = 0
    table: int | None = None


class Places:
    """Free slots, extents and tables; all of them, in a memory that is new."""

    def __init__(self, region: Region) -> None:
        self._region, self._words, self._layout = region, region.words, region.layout
        self.frontends, self.members = Slots(FRONTEND_CAPACITY), Slots(MEMBER_CAPACITY)
        self.tables = Slots(AFFINITY_TABLES)
        self.extents = Extents(ARENA_WORDS.bit_length() - 1)

    # taking

    def take_frontend(self) -> int:
        """A slot, whose record is all zeros. Raises `CapacityError`."""
        slot = self.frontends.take()
        self._words[FRONTENDS_USED_AT] = self.frontends.used
        return slot

    @contextlib.contextmanager
    def members_taken(self, frontend: int, addresses: Sequence[Address]) -> Iterator[list[int]]:
        """Slots with fresh records for these. Nobody refers to them yet, and unless somebody does they go back.

        Raises `CapacityError`.
        """
        taken: list[int] = []
        try:
            for _ in addresses:
                taken.append(self.members.take())
            self._write_members(frontend, taken, addresses)
            yield taken
        except BaseException:
            self.members.free += taken
            raise

    def _write_members(self, frontend: int, slots: Sequence[int], addresses: Sequence[Address]) -> None:
        words, serial = self._words, self._words[SERIAL_AT]
        if slots:
            # first: whoever is killed from here on has spent them
            words[SERIAL_AT] = serial + len(slots)
        for number, (member, address) in enumerate(zip(slots, addresses, strict=True), serial + 1):
            at = self._layout.member(member)
            words[at + ADDRESS : at + PORT] = memoryview(address.packed).cast("Q")
            words[at + PORT] = address.port
            words[at + HEALTH] = 0
            words[at + OWNER] = frontend
            words[at + IDENTITY] = number << SERIAL_SHIFT | member
        if words[MEMBERS_USED_AT] != self.members.used:
            words[MEMBERS_USED_AT] = self.members.used

    @contextlib.contextmanager
    def extent_taken(self, length: int) -> Iterator[int]:
        """For a list of so many members; goes back if it is not used after all. Raises `CapacityError`."""
        offset = self.extents.take(length + notes_of(length)) if length else 0
        if offset is None:
            raise CapacityError("the arena of member lists is full")
        try:
            yield offset
        except BaseException:
            self.give_extent(offset, length)
            raise

    # giving back

    def give_extent(self, offset: int, length: int) -> None:
        """That of a list that had so many members."""
        if length:
            self.extents.give(offset, length + notes_of(length))

    def empty_table(self, table: int) -> None:
        """Nobody may be looking at it."""
        self._region.discard(self._layout.affinity_table(table), AFFINITY_TABLE_WORDS)

    def free_frontend(self, slot: int, frontend: Frontend) -> None:
        """Its members have left it. The state, the last word of its record, is what makes it free."""
        self.give_extent(frontend.offset, len(frontend.slots))
        if frontend.table is not None:
            self.empty_table(frontend.table)
            self.tables.free.append(frontend.table)
        for worker in range(self._words[WORKERS_USED_AT]):
            self._clear(self._layout.frontend_counter(worker, slot), FRONTEND_COUNTERS)
        self._clear(self._layout.frontend(slot), FRONTEND_WORDS)
        self.frontends.free.append(slot)

    def free_member(self, member: int) -> None:
        """It has left its list, and its identity is void."""
        for worker in range(self._words[WORKERS_USED_AT]):
            self._clear(self._layout.member_counter(worker, member), MEMBER_COUNTERS)
        if self._words[at := self._layout.member(member) + CONNECT_TIME]:
            self._words[at] = 0
        self.members.free.append(member)

    def _clear(self, start: int, words: int) -> None:
        for at in range(start, start + words):
            if self._words[at]:
                self._words[at] = 0
