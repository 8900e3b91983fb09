"""Whose turn it is, who is pinned where, who is shut out: the decisions that must be exact over all workers.

A pick is one critical section, also for several clients at once; nothing else is locked for a connection whose dial
succeeds. The rules are those of kube-proxy's userspace round robin (1.20, `roundrobin.go`) with passive health:
- the turn goes round the members that are not shut out; if all are, none is;
- a next try passes over the members that this connection has tried;
- a pinned client goes to its member and does not take the turn; a pin to a member that is shut out counts as none.
"""

import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_UN, lockf

from kpf.shm.layout import (
    ADDRESS,
    COUNT_SHIFT,
    EVICTIONS,
    F_HITS,
    FOR_MASK,
    FRONTEND_WORDS,
    HEALTH,
    IDENTITY,
    INDEX_MASK,
    KEEP_LIST,
    LIST,
    M_ACTIVE,
    M_FAILURES,
    M_TOTAL,
    MEMBER_WORDS,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PIN_IDENTITY,
    PIN_STAMP,
    PIN_TABLE,
    PINS,
    PORT,
    PROBING,
    SLOT_MASK,
    TIMEOUT,
    UNTIL_SHIFT,
)
from kpf.shm.pins import Client, Pins, PinTable, client_of
from kpf.shm.region import Region

SHUT_OUT_FIRST_MS = 1_000
SHUT_OUT_LAST_MS = 10_000
# a little more than the longest dial timeout: when the one that probes is lost, the next one does
PROBE_MS = 2_250
CACHE_LIMIT = 1 << 16

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Choice:
    """A member that was picked. `active`, `total`, `failures`: this worker's counter words for it.

    Picking has counted it as active already; who picked subtracts it again when the connection is over.
    `health`: a word that is 0 for as long as there is nothing to tell `Balancer.succeeded`.
    """

    identity: int
    family: socket.AddressFamily
    address: tuple[str, int]
    active: int
    total: int
    failures: int
    health: int


class Balancer:
    """One worker's access. `worker` is its slot."""

    def __init__(self, region: Region, worker: int) -> None:
        self._words, self._layout, self._worker = region.words, region.layout, worker
        self._descriptor = region.descriptor
        self._frontends, self._members, self._arena = (
            region.layout.frontends,
            region.layout.members,
            region.layout.arena,
        )
        self._pins = Pins(region)
        self._choices: dict[int, Choice] = {}

    def pick_all(self, frontend: int, clients: Sequence[str], now_ms: int) -> list[Choice | None]:
        """`pick` for clients that have tried nobody yet, in one critical section."""
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            return [self._pick(frontend, client, (), now_ms) for client in clients]
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def pick(self, frontend: int, client: str, tried: Collection[int], now_ms: int) -> Choice | None:
        """Pick a member and count it as active; None if there is none that this connection has not tried.

        `client`: the client's address as `accept` gives it. `tried`: identities.
        """
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            return self._pick(frontend, client, tried, now_ms)
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def _pick(self, frontend: int, client: str, tried: Collection[int], now_ms: int) -> Choice | None:
        words, at = self._words, self._frontends + frontend * FRONTEND_WORDS
        word = words[at]
        count = word >> COUNT_SHIFT & INDEX_MASK
        if not count:
            return None
        if tried or words[at + TIMEOUT]:
            record = self._pick_carefully(frontend, at, client, tried, now_ms)
        else:
            index = (word & INDEX_MASK) % count
            member = words[self._arena + (word >> OFFSET_SHIFT & OFFSET_MASK) + index]
            record = self._members + member * MEMBER_WORDS
            if words[record + HEALTH]:
                record = self._take_turn(at, tried, now_ms)
            else:
                words[at] = word & KEEP_LIST | index + 1
        if not record:
            return None
        identity = words[record]
        choice = self._choices.get(identity) or self._learn(record, identity)
        words[choice.active] += 1
        return choice

    def failed(self, frontend: int, identity: int, client: str, now_ms: int) -> None:
        """A dial was refused, unreachable or timed out: shut the member out, and end the client's pin to it."""
        words, at = self._words, self._layout.frontend(frontend)
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            table = self._pin_table(at)
            if table and self._pins.drop(table, client_of(client), identity):
                words[at + PINS] -= 1
            record = self._layout.member(identity & SLOT_MASK)
            if words[record + IDENTITY] != identity:
                return
            health = words[record + HEALTH]
            # dials that began before it was shut out are the same failure, not another one
            if health >> UNTIL_SHIFT > now_ms and not health & PROBING:
                return
            out_ms = min(max((health & FOR_MASK) * 2, SHUT_OUT_FIRST_MS), SHUT_OUT_LAST_MS)
            words[record + HEALTH] = (now_ms + out_ms) << UNTIL_SHIFT | out_ms
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def succeeded(self, frontend: int, identity: int) -> None:
        """A dial was answered: the member is healthy again. Takes no lock if it was.

        Who has its `Choice` sees from the word at `health` whether there is anything to do.
        """
        words, record = self._words, self._layout.member(identity & SLOT_MASK)
        if not words[record + HEALTH]:
            return
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            if words[record + IDENTITY] == identity:
                words[record + HEALTH] = 0
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def _pick_carefully(self, frontend: int, at: int, client: str, tried: Collection[int], now_ms: int) -> int:
        """The record of the member to use, 0 if there is none left: with pins, and members tried before."""
        table = self._pin_table(at)
        if not table:
            return self._take_turn(at, tried, now_ms)
        key = client_of(client)
        record = self._pinned(at, table, key, tried, now_ms)
        if record:
            self._words[self._layout.frontend_counter(self._worker, frontend) + F_HITS] += 1
            return record
        record = self._take_turn(at, tried, now_ms)
        if record:
            added, evicted = self._pins.store(table, key, self._words[record + IDENTITY], now_ms=now_ms)
            self._words[at + PINS] += added
            self._words[at + EVICTIONS] += evicted
        return record

    def _pinned(self, at: int, table: PinTable, client: Client, tried: Collection[int], now_ms: int) -> int:
        words = self._words
        entry = self._pins.find(table, client, now_ms=now_ms)
        if not entry or words[entry + PIN_IDENTITY] in tried:
            return 0
        record = self._layout.member(words[entry + PIN_IDENTITY] & SLOT_MASK)
        if words[record + HEALTH]:
            if not self._is_shut_out(record, now_ms):
                self._probe(record, now_ms)
            elif any(not self._is_shut_out(other, now_ms) for _, other in self._untried(at, tried)):
                return 0
        words[entry + PIN_STAMP] = now_ms
        return record

    def _take_turn(self, at: int, tried: Collection[int], now_ms: int) -> int:
        words = self._words
        # if all of them are shut out, none is
        best = (0, 0)
        for index, record in self._untried(at, tried):
            if not words[record + HEALTH]:
                best = index, record
                break
            if not self._is_shut_out(record, now_ms):
                self._probe(record, now_ms)
                best = index, record
                break
            best = best if best[1] else (index, record)
        index, record = best
        if record:
            words[at + LIST] = words[at + LIST] & KEEP_LIST | index + 1
        return record

    def _untried(self, at: int, tried: Collection[int]) -> Iterator[tuple[int, int]]:
        """(index, record) of the members in the order of their turns."""
        words, word = self._words, self._words[at + LIST]
        count, start = word >> COUNT_SHIFT & INDEX_MASK, self._arena + (word >> OFFSET_SHIFT & OFFSET_MASK)
        first = (word & INDEX_MASK) % count
        for index in (*range(first, count), *range(first)):
            record = self._members + words[start + index] * MEMBER_WORDS
            if words[record + IDENTITY] not in tried:
                yield index, record

    def _is_shut_out(self, record: int, now_ms: int) -> bool:
        return self._words[record + HEALTH] >> UNTIL_SHIFT > now_ms

    def _probe(self, record: int, now_ms: int) -> None:
        """Its time is over: this connection tries it, the others go on passing over it until it has."""
        out_ms = self._words[record + HEALTH] & FOR_MASK
        self._words[record + HEALTH] = (now_ms + PROBE_MS) << UNTIL_SHIFT | PROBING | out_ms

    def _pin_table(self, at: int) -> PinTable | None:
        words = self._words
        timeout_ms, table = words[at + TIMEOUT], words[at + PIN_TABLE]
        if not timeout_ms or not table:
            return None
        return PinTable(self._layout.pin_table(table - 1), timeout_ms)

    def _learn(self, record: int, identity: int) -> Choice:
        packed = self._words[record + ADDRESS : record + PORT].tobytes()
        family, host = socket.AF_INET6, packed
        if packed.startswith(_V4_MAPPED):
            family, host = socket.AF_INET, packed[12:]
        counters = self._layout.member_counter(self._worker, identity & SLOT_MASK)
        choice = Choice(
            identity=identity,
            family=family,
            address=(socket.inet_ntop(family, host), self._words[record + PORT]),
            active=counters + M_ACTIVE,
            total=counters + M_TOTAL,
            failures=counters + M_FAILURES,
            health=record + HEALTH,
        )
        if len(self._choices) >= CACHE_LIMIT:
            self._choices.clear()
        self._choices[identity] = choice
        return choice
