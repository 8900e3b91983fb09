"""Who is next, which client stays with whom, who is ejected: the decisions that must be exact over all workers.

A pick is one critical section, also for several clients at once; nothing else is locked for a connection whose dial
succeeds. The rules are those of kube-proxy's userspace round robin (1.20, `roundrobin.go`) with passive health:
- the cursor goes round the members that are not ejected; if all are, none is;
- a next try passes over the members that this connection has tried;
- a client with an affinity entry goes to its member and does not move the cursor; an entry of a member that is
  ejected counts as none;
- a hedged dial, beside one that is merely slow, moves neither the cursor nor an affinity entry.
"""

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_UN, lockf

from kpf.shm import health
from kpf.shm.affinity import AffinityEntries, AffinityTable, Client, client_of
from kpf.shm.layout import (
    ADDRESS,
    AFFINITY_ENTRIES,
    AFFINITY_TABLE,
    CONNECT_TIME,
    COUNT_SHIFT,
    ENTRY_IDENTITY,
    ENTRY_STAMP,
    EVICTIONS,
    F_HITS,
    FRONTEND_WORDS,
    HEALTH,
    IDENTITY,
    INDEX_MASK,
    KEEP_LIST,
    M_ACTIVE,
    M_FAILURES,
    M_TOTAL,
    MEMBER_WORDS,
    OFFSET_MASK,
    OFFSET_SHIFT,
    PORT,
    SLOT_MASK,
    TIMEOUT,
)
from kpf.shm.region import Region
from kpf.shm.round_robin import RoundRobin

CACHE_LIMIT = 1 << 16

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Choice:
    """A member that was picked. `active`, `total`, `failures`: this worker's counter words for it.

    Picking has counted it as active already; who picked subtracts it again when the connection is over.
    `health`, `connect_time`: words that are 0 for as long as there is nothing to tell `Balancer.answered`, unless it
    was slow.
    """

    identity: int
    family: socket.AddressFamily
    address: tuple[str, int]
    active: int
    total: int
    failures: int
    health: int
    connect_time: int


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
        self._affinity, self._round_robin = AffinityEntries(region), RoundRobin(region)
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
                record = self._next_in_turn(at, tried, now_ms)
            else:
                words[at] = word & KEEP_LIST | index + 1
        if not record:
            return None
        identity = words[record]
        choice = self._choices.get(identity) or self._learn(record, identity)
        words[choice.active] += 1
        return choice

    def pick_hedge(self, frontend: int, tried: Collection[int], now_ms: int) -> Choice | None:
        """As `pick`, to be dialled beside one that is slow: neither the cursor nor an affinity entry moves."""
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            record = self._round_robin.hedge(self._layout.frontend(frontend), tried, now_ms)
            if not record:
                return None
            self._probe(record, now_ms)
            identity = self._words[record + IDENTITY]
            choice = self._choices.get(identity) or self._learn(record, identity)
            self._words[choice.active] += 1
            return choice
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def failed(self, frontend: int, identity: int, client: str, now_ms: int) -> None:
        """A dial was refused, unreachable, or silent while another one answered.

        The member is ejected, and the client's affinity entry for it ends.
        """
        words, at = self._words, self._layout.frontend(frontend)
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            table = self._affinity_table(at)
            if table and self._affinity.drop(table, client_of(client), identity):
                # whoever was killed between an entry and its count has left it one short
                words[at + AFFINITY_ENTRIES] = max(words[at + AFFINITY_ENTRIES] - 1, 0)
            record = self._layout.member(identity & SLOT_MASK)
            if words[record + IDENTITY] == identity:
                words[record + CONNECT_TIME] = 0
                word = health.failed(words[record + HEALTH], now_ms)
                if word < words[record + HEALTH]:
                    # out for less than the probe might have taken, of which a note may tell
                    self._round_robin.forget(at)
                words[record + HEALTH] = word
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def answered(self, frontend: int, identity: int, took_ms: int) -> None:
        """A dial was answered after so long: the member is healthy again, and that is normal for it.

        Takes no lock if nothing is new.
        """
        words, record = self._words, self._layout.member(identity & SLOT_MASK)
        connect_time_ms = words[record + CONNECT_TIME]
        if not words[record + HEALTH] and health.learned(connect_time_ms, took_ms) == connect_time_ms:
            return
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            if words[record + IDENTITY] == identity:
                words[record + CONNECT_TIME] = health.learned(words[record + CONNECT_TIME], took_ms)
                if words[record + HEALTH]:
                    self._round_robin.forget(self._layout.frontend(frontend))
                    words[record + HEALTH] = 0
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def suspect(self, frontend: int, identity: int, until_ms: int) -> None:
        """A dial is silent for longer than is normal, and another one has answered.

        Picks pass over the member until the dial is over.
        """
        words, record = self._words, self._layout.member(identity & SLOT_MASK)
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            if words[record + IDENTITY] == identity and not words[record + HEALTH]:
                words[record + HEALTH] = health.suspected(until_ms)
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def adopt(self, frontend: int, identity: int, client: str, now_ms: int) -> None:
        """Keep the client at the member that answered it, unless it has an entry, or there is no affinity."""
        at = self._layout.frontend(frontend)
        lockf(self._descriptor, LOCK_EX, 1, frontend)
        try:
            table, key = self._affinity_table(at), client_of(client)
            is_there = self._words[self._layout.member(identity & SLOT_MASK) + IDENTITY] == identity
            if table and is_there and not self._affinity.find(table, key, now_ms=now_ms):
                self._keep(at, table, key, identity, now_ms)
        finally:
            lockf(self._descriptor, LOCK_UN, 1, frontend)

    def _pick_carefully(self, frontend: int, at: int, client: str, tried: Collection[int], now_ms: int) -> int:
        """The record of the member to use, 0 if there is none left: with affinity, and members tried before."""
        table = self._affinity_table(at)
        if not table:
            return self._next_in_turn(at, tried, now_ms)
        key = client_of(client)
        record = self._by_affinity(at, table, key, tried, now_ms)
        if record:
            self._words[self._layout.frontend_counter(self._worker, frontend) + F_HITS] += 1
            return record
        record = self._next_in_turn(at, tried, now_ms)
        if record:
            self._keep(at, table, key, self._words[record + IDENTITY], now_ms)
        return record

    def _by_affinity(self, at: int, table: AffinityTable, client: Client, tried: Collection[int], now_ms: int) -> int:
        words = self._words
        entry = self._affinity.find(table, client, now_ms=now_ms)
        if not entry or words[entry + ENTRY_IDENTITY] in tried:
            return 0
        record = self._layout.member(words[entry + ENTRY_IDENTITY] & SLOT_MASK)
        word = words[record + HEALTH]
        is_out = health.is_ejected(word, now_ms) and not health.is_suspected(word)
        if is_out and self._round_robin.any_usable(at, tried, now_ms):
            return 0
        self._probe(record, now_ms)
        words[entry + ENTRY_STAMP] = now_ms
        return record

    def _keep(self, at: int, table: AffinityTable, client: Client, identity: int, now_ms: int) -> None:
        added, evicted = self._affinity.store(table, client, identity, now_ms=now_ms)
        self._words[at + AFFINITY_ENTRIES] += added
        self._words[at + EVICTIONS] += evicted

    def _next_in_turn(self, at: int, tried: Collection[int], now_ms: int) -> int:
        record = self._round_robin.take(at, tried, now_ms)
        if record:
            self._probe(record, now_ms)
        return record

    def _probe(self, record: int, now_ms: int) -> None:
        """If it was ejected and its time is over, this connection is the one that tries it."""
        word = self._words[record + HEALTH]
        if word and not health.is_ejected(word, now_ms):
            self._words[record + HEALTH] = health.probed(word, now_ms)

    def _affinity_table(self, at: int) -> AffinityTable | None:
        words = self._words
        timeout_ms, table = words[at + TIMEOUT], words[at + AFFINITY_TABLE]
        if not timeout_ms or not table:
            return None
        return AffinityTable(self._layout.affinity_table(table - 1), timeout_ms)

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
            connect_time=record + CONNECT_TIME,
        )
        if len(self._choices) >= CACHE_LIMIT:
            self._choices.clear()
        self._choices[identity] = choice
        return choice
