"""The master's side of shared memory: gives out slots, replaces member lists, reads the state of everything.

It keeps the books in its own memory and never waits for a lock. All that is in the books is in shared memory too, so
that the next master can go on from there (`Directory.adopt`), wherever this one is killed.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

from kpf.shm import lock
from kpf.shm.adoption import Books, read_books
from kpf.shm.layout import (
    AFFINITY_ENTRIES,
    AFFINITY_TABLE,
    ANCHOR,
    ANCHOR_PORT,
    ANCHORED,
    COUNT_SHIFT,
    F_TOTAL,
    FRONTEND_CAPACITY,
    IDENTITY,
    INDEX_MASK,
    LABEL_BYTES,
    LABEL_LENGTH,
    LABEL_LIMIT,
    LIST,
    M_ACTIVE,
    MAY_LOOP,
    OFFSET_SHIFT,
    OWNER,
    STATE,
    TIMEOUT,
    WORD,
    Address,
    State,
    notes_of,
)
from kpf.shm.moving import move
from kpf.shm.observer import FrontendView, MemberView, Observer, WorkerView
from kpf.shm.places import Frontend, Places
from kpf.shm.region import Region, monotonic_ms
from kpf.shm.worker_slots import WorkerSlots

COLLECT_MS = 1_000


class Directory:
    """All frontends and members. At most 65,536 frontends, 262,144 members, 4,096 frontends with affinity.

    Begins with a region that is new, or with the books of one that is not. `workers`: their places in `region`.
    """

    def __init__(self, region: Region, books: Books | None = None, *, clock: Callable[[], int] = monotonic_ms) -> None:
        self.region, self._words, self._layout, self._clock = region, region.words, region.layout, clock
        self._observer, self.workers = Observer(region), WorkerSlots(region, clock)
        self._open_books(books or Books(Places(region)))

    @classmethod
    def adopt(cls, region: Region, *, clock: Callable[[], int] = monotonic_ms) -> "Directory":
        """Of a region that another master has had, who writes there no more; its workers may.

        Raises `RegionError` if what it has left makes no sense.
        """
        directory = cls(region, read_books(region), clock=clock)
        directory.collect()
        return directory

    def reread(self) -> None:
        """Another master has had it meanwhile. Raises `RegionError` if what it has left makes no sense."""
        self._open_books(read_books(self.region))
        self.collect()

    def _open_books(self, books: Books) -> None:
        self._frontends, self._retired, self._freed = books.live, books.retired, books.freed
        self._departed, self._places = books.departed, books.places
        self._collected_ms = self._clock()

    @property
    def descriptor(self) -> int:
        """The shared memory, for a worker. Never to be closed in this process (`kpf.shm.lock`)."""
        return self.region.descriptor

    def take_worker_slots(self, count: int) -> tuple[int, ...]:
        """Places for so many workers, the lowest that are free: no worker has been heard of there for a minute.

        Raises `CapacityError`.
        """
        return self.workers.take(count)

    def give_worker_slots(self, slots: Iterable[int]) -> None:
        """The workers that were there have ended, and their connections with them."""
        self.workers.give(slots)

    def worker_slots(self) -> tuple[int, ...]:
        """The places in which there are workers, of whichever master."""
        return self.workers.taken()

    def worker(self, worker: int) -> WorkerView:
        """What the worker in that slot has said last, whether or not it lives; zeros if there was none."""
        return self._observer.worker(worker)

    def claim(self, label: bytes) -> int:
        """A slot for a new frontend, without members. `label`: what its next master knows it by, 504 bytes at most.

        Raises `CapacityError`, ValueError if the label is too long.
        """
        if len(label) > LABEL_LIMIT:
            raise ValueError(f"a label of {len(label)} bytes")
        self._tidy()
        slot = self._places.take_frontend()
        at, padded = self._layout.label(slot), memoryview(label + bytes(-len(label) % WORD)).cast("Q")
        self._words[at + LABEL_LENGTH] = len(label)
        self._words[at + LABEL_BYTES : at + LABEL_BYTES + len(padded)] = padded
        self._frontends[slot] = Frontend(label)
        # from here on there is a frontend
        self._words[self._layout.frontend(slot) + STATE] = State.LIVE
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
        with contextlib.ExitStack() as taking:
            taken = taking.enter_context(self._places.members_taken(slot, fresh))
            offset = taking.enter_context(self._places.extent_taken(len(new)))
            table = self._table_for(slot, frontend, affinity_timeout_ms)
            lock.try_acquire(self.descriptor, slot)
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
        self._places.give_extent(old_offset, len(old_slots))

    def set_may_loop(self, slot: int, may_loop: bool) -> None:
        """Whether it has but a share of each worker's sessions. One word that we alone write needs no lock."""
        at = self._layout.frontend(slot) + MAY_LOOP
        if self._words[at] != may_loop:
            self._words[at] = may_loop

    def move(self, before: int, after: int) -> None:
        """Turn and affinity of a frontend go along to another slot that it has got, and that nobody uses yet."""
        move(self.region, before, after)

    def retire(self, slot: int) -> None:
        """The frontend is gone, and all workers have acknowledged it. Its sessions may go on."""
        self._words[self._layout.frontend(slot) + STATE] = State.RETIRED
        self._retired[slot] = self._frontends.pop(slot)

    def collect(self) -> None:
        """Make places free that nobody refers to any more. Happens by itself, once a second when there are changes."""
        self._collected_ms = self._clock()
        self.workers.expire()
        for slot in [slot for slot in self._retired if self._observer.active(slot) == 0]:
            self._words[self._layout.frontend(slot) + STATE] = State.FREED
            self._freed[slot] = self._retired.pop(slot)
        while self._freed:
            slot, frontend = self._freed.popitem()
            for member in frontend.slots:
                self._words[self._layout.member(member) + IDENTITY] = 0
            self._departed.update(frontend.slots)
            self._places.free_frontend(slot, frontend)
        for member in [member for member in self._departed if self._is_gone(member)]:
            self._departed.remove(member)
            self._places.free_member(member)

    def _is_gone(self, member: int) -> bool:
        """True if no session is left of a member that has departed, and none can come."""
        at = self._layout.member(member)
        if self._words[at + IDENTITY]:
            # the master before us was killed when it had just taken it out of the list, or had not put it there yet
            owner = self._words[at + OWNER]
            try:
                lock.try_acquire(self.descriptor, owner)
            except lock.LockBusyError:
                return False
            self._words[at + IDENTITY] = 0
            lock.release(self.descriptor, owner)
        return self._observer.member_sum(member, M_ACTIVE) == 0

    def _tidy(self) -> None:
        if self._clock() - self._collected_ms >= COLLECT_MS:
            self.collect()

    # what is

    def labels(self, *, with_retired: bool = False) -> Mapping[int, bytes]:
        """Of the frontends that have not been retired, by slot; `with_retired`: also of those whose sessions go on."""
        found = self._frontends | self._retired if with_retired else self._frontends
        return {slot: frontend.label for slot, frontend in found.items()}

    def addresses(self, slot: int) -> tuple[Address, ...]:
        """Of the members of a frontend, in list order."""
        return self._frontends[slot].addresses

    def affinity_timeout_ms(self, slot: int) -> int:
        """Of a frontend; 0: no session affinity."""
        return self._frontends[slot].timeout_ms

    def may_loop(self, slot: int) -> bool:
        """What `set_may_loop` has said last."""
        return bool(self._words[self._layout.frontend(slot) + MAY_LOOP])

    def frontend(self, slot: int) -> FrontendView:
        """The counts at a slot so far, read without its lock."""
        return self._observer.frontend(slot)

    def members(self, slot: int) -> tuple[MemberView, ...]:
        """The members of a frontend in list order."""
        frontend, now_ms = self._frontends[slot], self._clock()
        places = zip(frontend.addresses, frontend.slots, strict=True)
        return tuple(self._observer.member(member, address, now_ms=now_ms) for address, member in places)

    def accepted(self, slots: Iterable[int]) -> int:
        """Connections that these frontends have accepted, all together."""
        return sum(self._observer.frontend_sum(slot, F_TOTAL) for slot in slots)

    def lock_holders(self) -> frozenset[int]:
        """The processes that hold a frontend's lock at this moment: of several that are stuck, who must go first."""
        return lock.holders(self.descriptor, slots=FRONTEND_CAPACITY)

    # one change, under the lock

    def _commit(
        self, slot: int, frontend: Frontend, new: tuple[Address, ...], slots: tuple[int, ...], offset: int
    ) -> None:
        words, at = self._words, self._layout.frontend(slot) + LIST
        cursor = self._cursor_after(slot, frontend, new)
        start = self._layout.arena + offset
        for index, member in enumerate(slots, start):
            words[index] = member
        for index in range(start + len(slots), start + len(slots) + notes_of(len(slots))):
            words[index] = 0
        words[at] = offset << OFFSET_SHIFT | len(new) << COUNT_SHIFT | cursor
        frontend.addresses, frontend.slots, frontend.offset = new, slots, offset

    def _cursor_after(self, slot: int, frontend: Frontend, new: tuple[Address, ...]) -> int:
        """The cursor in the new list. Who was served last becomes the anchor if it is not in there."""
        record = self._layout.frontend(slot)
        word = self._words[record + LIST]
        cursor = word & INDEX_MASK
        if word & ANCHORED:
            packed = self._words[record + ANCHOR : record + ANCHOR_PORT].tobytes()
            last = Address(packed, self._words[record + ANCHOR_PORT])
        elif cursor:
            last = frontend.addresses[cursor - 1]
        else:
            return 0
        following = bisect_right(new, last)
        if following and new[following - 1] == last:
            return following
        if not word & ANCHORED:
            # nobody looks there before the list word says so
            self._words[record + ANCHOR : record + ANCHOR_PORT] = memoryview(last.packed).cast("Q")
            self._words[record + ANCHOR_PORT] = last.port
        return ANCHORED | (following % len(new) if new else 0)

    def _set_timeout(self, slot: int, frontend: Frontend, timeout_ms: int) -> None:
        table = self._table_for(slot, frontend, timeout_ms)
        lock.try_acquire(self.descriptor, slot)
        try:
            self._write_timeout(slot, frontend, table, timeout_ms)
        finally:
            lock.release(self.descriptor, slot)

    def _write_timeout(self, slot: int, frontend: Frontend, table: int | None, timeout_ms: int) -> None:
        words, at = self._words, self._layout.frontend(slot)
        if table is not None:
            words[at + AFFINITY_TABLE] = table + 1
        words[at + TIMEOUT] = timeout_ms
        frontend.timeout_ms = timeout_ms

    def _table_for(self, slot: int, frontend: Frontend, timeout_ms: int) -> int | None:
        """The frontend's affinity table; empty if it has had no affinity until now: then nobody looks at it."""
        if timeout_ms and not frontend.timeout_ms:
            if frontend.table is None:
                frontend.table = self._places.tables.take()
            else:
                self._places.empty_table(frontend.table)
                self._words[self._layout.frontend(slot) + AFFINITY_ENTRIES] = 0
        return frontend.table
