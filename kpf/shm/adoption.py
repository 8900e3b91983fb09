"""The master's books, made again from shared memory: of a master that is gone, wherever it was when it was killed.

What makes a frontend whole is its state, and a list, its list word; what was written before either is nobody's. So a
member that is in no list is one that has left, or has never come: it is looked at as one that has left, unless there is
nothing at all of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_TABLE,
    AFFINITY_TABLES,
    ARENA_WORDS,
    CONNECT_TIME,
    COUNT_SHIFT,
    FRONTEND_CAPACITY,
    FRONTEND_WORDS,
    FRONTENDS_USED_AT,
    IDENTITY,
    INDEX_MASK,
    LABEL_BYTES,
    LABEL_LENGTH,
    LABEL_LIMIT,
    LIST,
    MEMBER_CAPACITY,
    MEMBER_COUNTERS,
    MEMBER_WORDS,
    MEMBERS_USED_AT,
    OFFSET_MASK,
    OFFSET_SHIFT,
    OWNER,
    PORT,
    STATE,
    TIMEOUT,
    WORD,
    WORKER_SLOTS,
    WORKERS_USED_AT,
    Address,
    State,
    notes_of,
)
from kpf.shm.places import Frontend, Places
from kpf.shm.region import Region, RegionError, Words
from kpf.shm.slots import Slots


@dataclass(slots=True)
class Books:
    """What a master keeps about shared memory. `freed`: whose cleaning was not finished; `departed`: members."""

    places: Places
    live: dict[int, Frontend] = field(default_factory=dict)
    retired: dict[int, Frontend] = field(default_factory=dict)
    freed: dict[int, Frontend] = field(default_factory=dict)
    departed: set[int] = field(default_factory=set)


def read_books(region: Region) -> Books:
    """Nobody else may be writing but workers. Raises `RegionError` if it makes no sense."""
    for what, at, limit in (
        ("workers", WORKERS_USED_AT, WORKER_SLOTS),
        ("frontends", FRONTENDS_USED_AT, FRONTEND_CAPACITY),
        ("members", MEMBERS_USED_AT, MEMBER_CAPACITY),
    ):
        if region.words[at] > limit:
            raise RegionError(f"{region.words[at]} {what} have been in use, of {limit} at most")
    return _Reader(region).read()


class _Reader:
    def __init__(self, region: Region) -> None:
        self._region, self._words, self._layout = region, region.words, region.layout
        self._used = region.words[MEMBERS_USED_AT]
        self._members = region.read(region.layout.members, self._used * MEMBER_WORDS)
        self._packed = self._members.tobytes()
        self._ports = self._members[PORT::MEMBER_WORDS].tolist() if self._used else []
        self._books = Books(Places(region))

    def read(self) -> Books:
        books, places = self._books, self._books.places
        used = self._words[FRONTENDS_USED_AT]
        records = self._region.read(self._layout.frontends, used * FRONTEND_WORDS)
        free = []
        for slot in range(used):
            record = records[slot * FRONTEND_WORDS : (slot + 1) * FRONTEND_WORDS]
            match record[STATE]:
                case State.FREE:
                    free.append(slot)
                case State.LIVE:
                    books.live[slot] = self._frontend(slot, record)
                case State.RETIRED:
                    books.retired[slot] = self._frontend(slot, record)
                case State.FREED:
                    books.freed[slot] = self._frontend(slot, record)
                case state:
                    raise RegionError(f"frontend slot {slot} is in state {state}")
        frontends = (*books.live.values(), *books.retired.values(), *books.freed.values())
        places.frontends = Slots.with_free(FRONTEND_CAPACITY, used, free)
        places.tables = self._tables(frontends)
        listed = _all_different("member", (member for frontend in frontends for member in frontend.slots))
        places.members, books.departed = self._unlisted(listed)
        return books

    def _frontend(self, slot: int, record: Words) -> Frontend:
        word, table = record[LIST], record[AFFINITY_TABLE]
        count, offset = word >> COUNT_SHIFT & INDEX_MASK, word >> OFFSET_SHIFT & OFFSET_MASK
        if offset + count + notes_of(count) > ARENA_WORDS or table > AFFINITY_TABLES:
            raise RegionError(f"the record of frontend slot {slot} leads out of the memory")
        slots: Sequence[int] = ()
        if count:
            start = self._layout.arena + offset
            slots = self._words[start : start + count].tolist()
            if max(slots) >= self._used:
                raise RegionError(f"the list of frontend slot {slot} leads out of the memory")
            try:
                self._books.places.extents.reserve(offset, count + notes_of(count))
            except ValueError as error:
                raise RegionError(f"the list of frontend slot {slot} is in another one: {error}") from error
        return Frontend(
            label=self._label(slot),
            addresses=tuple(map(self._address, slots)),
            slots=tuple(slots),
            offset=offset if count else 0,
            timeout_ms=record[TIMEOUT],
            table=table - 1 if table else None,
        )

    def _address(self, member: int) -> Address:
        at = (member * MEMBER_WORDS + ADDRESS) * WORD
        return Address(self._packed[at : at + 16], self._ports[member])

    def _label(self, slot: int) -> bytes:
        at = self._layout.label(slot)
        length = self._words[at + LABEL_LENGTH]
        if length > LABEL_LIMIT:
            raise RegionError(f"the label of frontend slot {slot} has {length} bytes")
        start = at + LABEL_BYTES
        return self._words[start : start + -(-length // WORD)].tobytes()[:length]

    def _tables(self, frontends: Iterable[Frontend]) -> Slots:
        named = _all_different("affinity table", (one.table for one in frontends if one.table is not None))
        used = max(named, default=-1) + 1
        return Slots.with_free(AFFINITY_TABLES, used, set(range(used)) - named)

    def _unlisted(self, listed: set[int]) -> tuple[Slots, set[int]]:
        """Places of members, and who has left them: there is something of them still."""
        unlisted = set(range(self._used)) - listed
        departed = set()
        for member in unlisted:
            record = self._members[member * MEMBER_WORDS : (member + 1) * MEMBER_WORDS]
            if record[OWNER] >= FRONTEND_CAPACITY:
                raise RegionError(f"member slot {member} says that frontend slot {record[OWNER]} has it")
            if record[IDENTITY] or record[CONNECT_TIME]:
                departed.add(member)
        size, clean = MEMBER_COUNTERS * WORD, bytes(MEMBER_COUNTERS * WORD)
        for worker in range(self._words[WORKERS_USED_AT]) if unlisted else ():
            counters = self._region.read(self._layout.member_counter(worker, 0), self._used * MEMBER_COUNTERS).tobytes()
            departed.update(one for one in unlisted if counters[one * size : (one + 1) * size] != clean)
        return Slots.with_free(MEMBER_CAPACITY, self._used, unlisted - departed), departed


def _all_different(what: str, places: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for place in places:
        if place in found:
            raise RegionError(f"two frontends have the same {what}, {place}")
        found.add(place)
    return found
