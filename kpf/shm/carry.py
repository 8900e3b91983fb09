"""Carries what is in a memory of another layout over into a new one, while the workers of the old one go on.

The first pass makes every frontend; `catch_up` carries what has changed since, and costs little when little has. The
last one comes when those workers accept nothing any more, and nobody has used the new memory yet. What they count
after that, for the connections that they still have, is looked at by `refresh`, until they have ended.

What is carried: cursors and anchors, members with their health and connect times, affinity entries, and all counters.
These are those of one worker's slot in the new memory, which stands for all workers of the old one.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpf.shm.carry_affinity import AffinityCarrier
from kpf.shm.carry_counters import CounterCarrier
from kpf.shm.directory import Directory
from kpf.shm.foreign import Foreign, Records, Watched
from kpf.shm.layout import (
    ACTIVE,
    ANCHOR,
    ANCHOR_PORT,
    ANCHORED,
    CONNECT_TIME,
    COUNT_SHIFT,
    EVICTIONS,
    FOR_MASK,
    HEALTH,
    HEARTBEAT,
    IDENTITY,
    INDEX_MASK,
    KEEP_LIST,
    LABEL_LIMIT,
    LIST,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PAUSES,
    PROBING,
    TOTAL,
    UNTIL_SHIFT,
    Address,
    State,
)
from kpf.shm.lock import LockBusyError
from kpf.shm.region import Region, RegionError, monotonic_ms
from kpf.shm.worker_slots import STALE_MS

_LATEST_MS = (1 << 64 - UNTIL_SHIFT) - 1
_WORD_MASK = (1 << 64) - 1
MAX_PORT = 65_535
# what nobody may change while it is carried over
_SHAPE = ("state", "count", "offset")


class _Member(NamedTuple):
    """In the new memory: its slot, and its identity there. `owner`: its frontend's slot in the old memory."""

    slot: int
    identity: int
    owner: int


class Carrier:
    """From the memory behind this descriptor, which stays open. Its master must hold still.

    `directory`: the new memory's. `slots`: by a frontend's slot in the old memory, the one in the new memory.
    Raises `RegionError` if the old one is no memory of kpf's, OSError.
    """

    def __init__(self, descriptor: int, *, clock: Callable[[], int] = monotonic_ms) -> None:
        self._old, self._clock = Foreign(descriptor), clock
        region = Region.create()
        self._words, self._layout = region.words, region.layout
        self.directory = Directory(region, clock=clock)
        (self._stand_in,) = self.directory.take_worker_slots(1)
        self._slots: dict[int, int] = {}
        self._members: dict[int, _Member] = {}
        self._affinity = AffinityCarrier(self._old, region)
        self._frontend_records = Watched(self._old, "frontends", 0, self._old.frontends)
        self._member_records = Watched(self._old, "members", 0, self._old.members)
        self._frontend_counters = CounterCarrier(self._old, "frontends", self._old.frontends)
        self._member_counters = CounterCarrier(self._old, "members", self._old.members)
        self._shape: list[tuple[int, ...]] = []
        self._touched: set[int] = set()

    @property
    def slots(self) -> Mapping[int, int]:
        """By a frontend's slot in the old memory, the one in the new memory."""
        return self._slots

    def first_pass(self) -> None:
        """Make all frontends that are not retired, and carry what there is of them.

        Raises `RegionError` if the old memory makes no sense, `CapacityError` if the new one has less room.
        """
        old = self._old
        records, members = old.records("frontends", 0, old.frontends), old.records("members", 0, old.members)
        self._shape = list(zip(*map(records.column, _SHAPE), strict=True))
        identities, ports = members.column("identity"), members.column("port")
        timeouts, may_loop = records.column("timeout"), records.column("may loop")
        for slot, (state, count, offset) in enumerate(self._shape):
            if state != State.LIVE:
                continue
            listed = old.records("arena", offset, count).column("member")
            is_new = len(set(listed)) == count and self._members.keys().isdisjoint(listed)
            if max(listed, default=-1) >= old.members or not is_new:
                raise RegionError(f"the list of frontend slot {slot} makes no sense")
            addresses = [Address(members.long(member, "address"), ports[member]) for member in listed]
            if any(address.port > MAX_PORT for address in addresses):
                raise RegionError(f"a member of frontend slot {slot} has no port")
            new = self._slots[slot] = self._make(self._label(slot), addresses, timeouts[slot])
            self.directory.set_may_loop(new, bool(may_loop[slot]))
            for member, made in zip(listed, self._list(new), strict=True):
                identity = self._words[self._layout.member(made) + IDENTITY]
                self._members[member] = _Member(made, identity, slot)
                self._affinity.add_member(identities[member], identity)
        self._affinity.begin(self._slots, timeouts, records.column("table"))
        self._touched = set(self._slots)
        self.catch_up()

    def catch_up(self) -> None:
        """What has changed since the pass before.

        Raises `RegionError` if somebody has changed a list meanwhile, or the old memory makes no sense.
        """
        # entries of tables come last: whatever was done to them counts somewhere, before or after
        now_ms, touched = self._clock(), self._carry_cursors() | self._carry_health() | self._carry_counters()
        self._affinity.carry(touched | self._touched, now_ms)
        self._touched = touched

    @property
    def is_over(self) -> bool:
        """The old memory's workers have ended: each says so itself, or nothing has been heard of it for a minute."""
        heartbeats = self._old.records("workers", 0, self._old.workers).column("heartbeat")
        return all(at_ms == 0 or self._clock() - at_ms > STALE_MS for at_ms in heartbeats)

    def refresh(self) -> None:
        """What the old memory's workers have counted meanwhile. To be called now and then until they have ended."""
        self._carry_counters()

    def end(self) -> None:
        """The old memory's workers have ended. Their totals stay, and none of their connections is active."""
        self.refresh()
        self.directory.give_worker_slots((self._stand_in,))

    def _make(self, label: bytes, addresses: list[Address], timeout_ms: int) -> int:
        slot = self.directory.claim(label)
        try:
            self.directory.set_members(slot, addresses, affinity_timeout_ms=timeout_ms)
        except LockBusyError as error:
            raise RegionError("somebody else uses the new memory") from error
        return slot

    def _label(self, slot: int) -> bytes:
        record = self._old.records("labels", slot, 1)
        label, length = record.long(0, "bytes"), record.value(0, "length")
        if length > min(len(label), LABEL_LIMIT):
            raise RegionError(f"there is no room for the {length} bytes of the label of frontend slot {slot}")
        return label[:length]

    def _list(self, slot: int) -> list[int]:
        word = self._words[self._layout.frontend(slot) + LIST]
        start = self._layout.arena + (word >> OFFSET_SHIFT & OFFSET_MASK)
        return self._words[start : start + (word >> COUNT_SHIFT & INDEX_MASK)].tolist()

    def _carry_cursors(self) -> set[int]:
        touched = set()
        for slot, record, before in self._frontend_records.changes():
            if tuple(record.value(0, name) for name in _SHAPE) != self._shape[slot]:
                raise RegionError("somebody changes the memory while it is carried over")
            if slot in self._slots:
                touched.add(slot)
                self._write_cursor(slot, record)
                evictions = record.value(0, "evictions") - before.value(0, "evictions")
                _add(self._words, self._layout.frontend(self._slots[slot]) + EVICTIONS, evictions)
        return touched

    def _write_cursor(self, slot: int, record: Records) -> None:
        words, at, count = self._words, self._layout.frontend(self._slots[slot]), self._shape[slot][1]
        cursor, anchored = record.value(0, "cursor"), record.value(0, "anchored")
        if cursor > count or (anchored and cursor >= max(count, 1)):
            raise RegionError(f"the cursor of frontend slot {slot} is not in its list")
        word = words[at + LIST] & KEEP_LIST | cursor
        if anchored:
            words[at + ANCHOR : at + ANCHOR_PORT] = memoryview(record.long(0, "anchor")).cast("Q")
            words[at + ANCHOR_PORT] = record.value(0, "anchor port")
            word |= ANCHORED
        words[at + LIST] = word

    def _carry_health(self) -> set[int]:
        touched = set()
        for place, record, _ in self._member_records.changes():
            if member := self._members.get(place):
                touched.add(member.owner)
                at = self._layout.member(member.slot)
                until_ms, for_ms = record.value(0, "ejected until"), record.value(0, "ejected for")
                word = min(until_ms, _LATEST_MS) << UNTIL_SHIFT | min(for_ms, FOR_MASK)
                self._words[at + HEALTH] = word | (PROBING if record.value(0, "probing") else 0)
                self._words[at + CONNECT_TIME] = record.value(0, "connect time")
        return touched

    def _carry_counters(self) -> set[int]:
        words, layout, old = self._words, self._layout, self._old
        touched = set()
        for slot, index, change in self._frontend_counters.changes():
            if slot in self._slots:
                touched.add(slot)
                _add(words, layout.frontend_counter(self._stand_in, self._slots[slot]) + index, change)
        for place, index, change in self._member_counters.changes():
            member = self._members.get(place)
            # once it has left, somebody else may have its slot
            if member and words[layout.member(member.slot) + IDENTITY] == member.identity:
                touched.add(member.owner)
                _add(words, layout.member_counter(self._stand_in, member.slot) + index, change)
        workers, record = old.records("workers", 0, old.workers), layout.worker(self._stand_in)
        for index, name in ((ACTIVE, "active"), (TOTAL, "total"), (PAUSES, "pauses")):
            words[record + index] = sum(workers.column(name)) & _WORD_MASK
        words[record + HEARTBEAT] = self._clock()
        return touched


def _add(words: memoryview, at: int, change: int) -> None:
    words[at] = words[at] + change & _WORD_MASK
