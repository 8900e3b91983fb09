"""The master's side of shared memory: gives out slots, replaces member lists, reads the state of everything.

It keeps the books in its own memory and never waits for a lock. A slot, an extent or an affinity table that workers may
still refer to is used again only when nobody does: all counts of active connections are 0.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kpf.shm import lock
from kpf.shm.extents import Extents
from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_ENTRIES,
    AFFINITY_TABLE,
    AFFINITY_TABLE_WORDS,
    AFFINITY_TABLES,
    ANCHORED,
    ARENA_WORDS,
    CONNECT_TIME,
    COUNT_SHIFT,
    F_TOTAL,
    FRONTEND_CAPACITY,
    FRONTEND_COUNTERS,
    FRONTEND_WORDS,
    FRONTENDS_USED_AT,
    HEALTH,
    IDENTITY,
    INDEX_MASK,
    LIST,
    M_ACTIVE,
    MAY_LOOP,
    MEMBER_CAPACITY,
    MEMBER_COUNTERS,
    MEMBERS_USED_AT,
    OFFSET_SHIFT,
    PORT,
    SERIAL_SHIFT,
    TIMEOUT,
    Address,
    notes_of,
)
from kpf.shm.observer import FrontendView, MemberView, Observer, WorkerView
from kpf.shm.region import Region, monotonic_ms
from kpf.shm.slots import CapacityError, Slots

COLLECT_MS = 1_000


@dataclass(slots=True)
class _Frontend:
    """What the master knows of a frontend. `anchor`: the last one served, if it is not in the list any more."""

    addresses: tuple[Address, ...] = ()
    slots: tuple[int, ...] = ()
    offset: int = 0
    timeout_ms: int = 0
    table: int | None = None
    anchor: Address | None = None


class Directory:
    """All frontends and members. At most 65,536 frontends, 262,144 members, 4,096 frontends with affinity."""

    def __init__(self, region: Region, *, clock: Callable[[], int] = monotonic_ms) -> None:
        self._region, self._words, self._layout, self._clock = region, region.words, region.layout, clock
        self._frontends: dict[int, _Frontend] = {}
        self._frontend_slots, self._member_slots = Slots(FRONTEND_CAPACITY), Slots(MEMBER_CAPACITY)
        self._tables = Slots(AFFINITY_TABLES)
        self._observer = Observer(region)
        self._extents = Extents(ARENA_WORDS.bit_length() - 1)
        self._serial = 0
        self._retired: dict[int, _Frontend] = {}
        self._departed: set[int] = set()
        self._collected_ms = clock()

    @property
    def descriptor(self) -> int:
        """The shared memory, for a worker. Never to be closed in this process (`kpf.shm.lock`)."""
        return self._region.descriptor

    # frontends and members

    def claim(self) -> int:
        """A slot for a new frontend, without members. Raises `CapacityError`."""
        self._tidy()
        slot = self._frontend_slots.take()
        self._words[FRONTENDS_USED_AT] = self._frontend_slots.used
        self._frontends[slot] = _Frontend()
        return slot

    def set_members(self, slot: int, members: Sequence[Address], *, affinity_timeout_ms: int) -> None:
        """Replace the members, sorted by address and port. `affinity_timeout_ms` 0: no session affinity.

        Members that stay keep identity, health and affinity entries; the cursor goes on at the first that sorts after
        the one that was served last. Raises `LockBusyError` (try again soon), `CapacityError`; nothing has changed
        then.
        """
        frontend, new = self._frontends[slot], tuple(members)
        if new == frontend.addresses:
            if affinity_timeout_ms != frontend.timeout_ms:
                self._set_timeout(slot, frontend, affinity_timeout_ms)
            return
        self._tidy()
        known = dict(zip(frontend.addresses, frontend.slots, strict=True))
        fresh = [address for address in new if address not in known]
        with contextlib.ExitStack() as undo:
            taken = self._take_members(fresh)
            undo.callback(self._member_slots.free.extend, taken)
            offset = self._take_extent(len(new))
            undo.callback(self._give_extent, offset, len(new))
            table = self._table_for(slot, frontend, affinity_timeout_ms)
            lock.try_acquire(self.descriptor, slot)
            undo.pop_all()
        old_slots, old_offset = frontend.slots, frontend.offset
        places = known | dict(zip(fresh, taken, strict=True))
        try:
            self._write_timeout(slot, frontend, table, affinity_timeout_ms)
            self._commit(slot, frontend, new, tuple(places[address] for address in new), offset)
            departed = set(old_slots).difference(frontend.slots)
            for member in departed:
                # affinity entries name a member only while it is in the list
                self._words[self._layout.member(member) + IDENTITY] = 0
        finally:
            lock.release(self.descriptor, slot)
        self._departed |= departed
        self._give_extent(old_offset, len(old_slots))

    def set_may_loop(self, slot: int, may_loop: bool) -> None:
        """Whether it has but a share of each worker's sessions. One word that we alone write needs no lock."""
        at = self._layout.frontend(slot) + MAY_LOOP
        if self._words[at] != may_loop:
            self._words[at] = may_loop

    def retire(self, slot: int) -> None:
        """The frontend is gone, and all workers have acknowledged it. Its sessions may go on."""
        self._retired[slot] = self._frontends.pop(slot)

    def collect(self) -> None:
        """Make places free that nobody refers to any more. Happens by itself, once a second when there are changes."""
        self._collected_ms = self._clock()
        for slot, frontend in list(self._retired.items()):
            if self._observer.active(slot) == 0:
                del self._retired[slot]
                self._free_frontend(slot, frontend)
        for member in [member for member in self._departed if self._observer.member_sum(member, M_ACTIVE) == 0]:
            self._departed.remove(member)
            self._free_member(member)

    def _tidy(self) -> None:
        if self._clock() - self._collected_ms >= COLLECT_MS:
            self.collect()

    # what is

    def frontend(self, slot: int) -> FrontendView:
        """The counts at a slot so far, read without its lock."""
        return self._observer.frontend(slot)

    def members(self, slot: int) -> tuple[MemberView, ...]:
        """The members of a frontend in list order."""
        frontend, now_ms = self._frontends[slot], self._clock()
        places = zip(frontend.addresses, frontend.slots, strict=True)
        return tuple(self._observer.member(member, address, now_ms=now_ms) for address, member in places)

    def worker(self, worker: int) -> WorkerView:
        """What the worker of that number has said last, whether or not it lives; zeros if there was none."""
        return self._observer.worker(worker)

    def accepted(self, slots: Iterable[int]) -> int:
        """Connections that these frontends have accepted, all together."""
        return sum(self._observer.frontend_sum(slot, F_TOTAL) for slot in slots)

    def lock_holders(self) -> frozenset[int]:
        """The processes that hold a frontend's lock at this moment: of several that are stuck, who must go first."""
        return lock.holders(self.descriptor, slots=FRONTEND_CAPACITY)

    # one change, under the lock

    def _commit(
        self, slot: int, frontend: _Frontend, new: tuple[Address, ...], slots: tuple[int, ...], offset: int
    ) -> None:
        words, at = self._words, self._layout.frontend(slot) + LIST
        cursor, last = self._cursor_after(frontend, words[at], new)
        start = self._layout.arena + offset
        for index, member in enumerate(slots, start):
            words[index] = member
        for index in range(start + len(slots), start + len(slots) + notes_of(len(slots))):
            words[index] = 0
        words[at] = offset << OFFSET_SHIFT | len(new) << COUNT_SHIFT | cursor
        frontend.addresses, frontend.slots, frontend.offset, frontend.anchor = new, slots, offset, last

    def _cursor_after(self, frontend: _Frontend, word: int, new: tuple[Address, ...]) -> tuple[int, Address | None]:
        """The cursor in the new list, and who was served last if it is not in there."""
        cursor = word & INDEX_MASK
        served = frontend.addresses[cursor - 1] if cursor and not word & ANCHORED else None
        last = frontend.anchor if word & ANCHORED else served
        if last is None:
            return 0, None
        following = bisect_right(new, last)
        if following and new[following - 1] == last:
            return following, None
        return ANCHORED | (following % len(new) if new else 0), last

    def _set_timeout(self, slot: int, frontend: _Frontend, timeout_ms: int) -> None:
        table = self._table_for(slot, frontend, timeout_ms)
        lock.try_acquire(self.descriptor, slot)
        try:
            self._write_timeout(slot, frontend, table, timeout_ms)
        finally:
            lock.release(self.descriptor, slot)

    def _write_timeout(self, slot: int, frontend: _Frontend, table: int | None, timeout_ms: int) -> None:
        words, at = self._words, self._layout.frontend(slot)
        if table is not None:
            words[at + AFFINITY_TABLE] = table + 1
        words[at + TIMEOUT] = timeout_ms
        frontend.timeout_ms = timeout_ms

    # places

    def _take_members(self, addresses: Sequence[Address]) -> list[int]:
        """Slots with fresh records for these. Nobody refers to them yet."""
        taken: list[int] = []
        try:
            for address in addresses:
                taken.append(self._take_member(address))
        except CapacityError:
            self._member_slots.free += taken
            raise
        self._words[MEMBERS_USED_AT] = self._member_slots.used
        return taken

    def _take_member(self, address: Address) -> int:
        member = self._member_slots.take()
        at, words = self._layout.member(member), self._words
        words[at + ADDRESS : at + PORT] = memoryview(address.packed).cast("Q")
        words[at + PORT] = address.port
        words[at + HEALTH] = 0
        self._serial += 1
        words[at + IDENTITY] = self._serial << SERIAL_SHIFT | member
        return member

    def _take_extent(self, length: int) -> int:
        """For a list of so many members. Raises `CapacityError`."""
        if not length:
            return 0
        offset = self._extents.take(length + notes_of(length))
        if offset is None:
            raise CapacityError("the arena of member lists is full")
        return offset

    def _give_extent(self, offset: int, length: int) -> None:
        if length:
            self._extents.give(offset, length + notes_of(length))

    def _table_for(self, slot: int, frontend: _Frontend, timeout_ms: int) -> int | None:
        """The frontend's affinity table; empty if it has had no affinity until now: then nobody looks at it."""
        if timeout_ms and not frontend.timeout_ms:
            if frontend.table is None:
                frontend.table = self._tables.take()
            else:
                self._region.discard(self._layout.affinity_table(frontend.table), AFFINITY_TABLE_WORDS)
                self._words[self._layout.frontend(slot) + AFFINITY_ENTRIES] = 0
        return frontend.table

    def _free_frontend(self, slot: int, frontend: _Frontend) -> None:
        for member in frontend.slots:
            self._words[self._layout.member(member) + IDENTITY] = 0
        self._departed.update(frontend.slots)
        self._give_extent(frontend.offset, len(frontend.slots))
        if frontend.table is not None:
            self._region.discard(self._layout.affinity_table(frontend.table), AFFINITY_TABLE_WORDS)
            self._tables.free.append(frontend.table)
        self._clear(self._layout.frontend(slot), FRONTEND_WORDS)
        for worker in range(self._layout.workers):
            self._clear(self._layout.frontend_counter(worker, slot), FRONTEND_COUNTERS)
        self._frontend_slots.free.append(slot)

    def _free_member(self, member: int) -> None:
        for worker in range(self._layout.workers):
            self._clear(self._layout.member_counter(worker, member), MEMBER_COUNTERS)
        if self._words[at := self._layout.member(member) + CONNECT_TIME]:
            self._words[at] = 0
        self._member_slots.free.append(member)

    def _clear(self, start: int, words: int) -> None:
        for at in range(start, start + words):
            self._words[at] = 0
