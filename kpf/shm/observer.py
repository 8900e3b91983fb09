"""Reads counts and states for status and metrics: sums over workers' slots of words that have a single writer each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kpf.shm.health import is_ejected
from kpf.shm.layout import (
    ACTIVE,
    AFFINITY_ENTRIES,
    DIAL_BOUNDS_MS,
    DURATION_BOUNDS_MS,
    EVICTIONS,
    F_BYTES_IN,
    F_BYTES_OUT,
    F_DIALS,
    F_DIALS_MS,
    F_ENDED,
    F_FAILED,
    F_HITS,
    F_LASTED,
    F_LASTED_MS,
    F_RETRIES,
    F_TOTAL,
    FRONTEND_COUNTERS,
    GENERATION,
    HEALTH,
    HEARTBEAT,
    IDENTITY,
    M_ACTIVE,
    M_FAILURES,
    M_TOTAL,
    MEMBER_COUNTERS,
    MEMBER_REASONS,
    PAUSED,
    PAUSES,
    PID,
    TOTAL,
    WORKERS_USED_AT,
    Address,
    Reason,
)
from kpf.shm.region import Region

_DIAL_BUCKETS, _DURATION_BUCKETS = len(DIAL_BOUNDS_MS) + 1, len(DURATION_BOUNDS_MS) + 1


class Took(NamedTuple):
    """A histogram of times: how many in each bucket of the layout's bounds, the last: above all of them; and in all."""

    buckets: tuple[int, ...]
    total_ms: int


class FrontendView(NamedTuple):
    """Counts of a frontend, summed over all workers.

    `dials`: how long clients have waited for a backend's answer; `lasted`: connections that had one, to their end.
    `affinity_entries`: entries of its table, expired ones that nobody has replaced included.
    """

    total: int
    active: int
    bytes_in: int
    bytes_out: int
    retries: int
    affinity_hits: int
    failed: dict[Reason, int]
    dials: Took
    lasted: Took
    affinity_entries: int
    affinity_evictions: int


class MemberView(NamedTuple):
    """A member and its counts, summed over all workers. `total`: dials that were answered.

    `health`: the word that `kpf.shm.health` reads, 0 if nothing is wrong.
    """

    address: Address
    identity: int
    ejected: bool
    total: int
    active: int
    failures: dict[Reason, int]
    health: int = 0

    @property
    def dial_failures(self) -> int:
        """For whatever reason, those included that did not eject it."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the worker in a slot says of itself, and what those before it there have: `total` and `pauses` go on.

    `pauses`: how often it has stopped accepting for lack of something. `generation` and `pid`: 0 until one has
    begun.
    """

    heartbeat_ms: int
    paused: bool
    active: int
    total: int
    pauses: int
    generation: int
    pid: int


class Observer:
    """Looks, without any lock: each word by itself is what its writer last said."""

    def __init__(self, region: Region) -> None:
        self._words, self._layout = region.words, region.layout

    @property
    def _workers(self) -> range:
        """Those of whom there may be counts."""
        return range(self._words[WORKERS_USED_AT])

    def frontend(self, slot: int) -> FrontendView:
        """By its slot."""
        active = self.active(slot)
        counts = self._sums(self._layout.frontend_counter, slot, FRONTEND_COUNTERS)
        record = self._layout.frontend(slot)
        return FrontendView(
            total=counts[F_TOTAL],
            active=active,
            bytes_in=counts[F_BYTES_IN],
            bytes_out=counts[F_BYTES_OUT],
            retries=counts[F_RETRIES],
            affinity_hits=counts[F_HITS],
            failed=dict(zip(Reason, counts[F_FAILED:], strict=False)),
            dials=Took(tuple(counts[F_DIALS : F_DIALS + _DIAL_BUCKETS]), counts[F_DIALS_MS]),
            lasted=Took(tuple(counts[F_LASTED : F_LASTED + _DURATION_BUCKETS]), counts[F_LASTED_MS]),
            affinity_entries=self._words[record + AFFINITY_ENTRIES],
            affinity_evictions=self._words[record + EVICTIONS],
        )

    def active(self, slot: int) -> int:
        """Connections of a frontend that have begun and not ended; one too many for a moment, never too few."""
        # what has ended was counted before: the total is read after it
        ended = self.frontend_sum(slot, F_ENDED)
        return self.frontend_sum(slot, F_TOTAL) - ended

    def member(self, member: int, address: Address, *, now_ms: int) -> MemberView:
        """By its slot, and whether it is ejected at `now_ms` (CLOCK_MONOTONIC). `address` is passed on."""
        at = self._layout.member(member)
        counts = self._sums(self._layout.member_counter, member, MEMBER_COUNTERS)
        health = self._words[at + HEALTH]
        return MemberView(
            address=address,
            identity=self._words[at + IDENTITY],
            ejected=is_ejected(health, now_ms),
            total=counts[M_TOTAL],
            active=counts[M_ACTIVE],
            failures=dict(zip(MEMBER_REASONS, counts[M_FAILURES:], strict=False)),
            health=health,
        )

    def _sums(self, counter: Callable[[int, int], int], slot: int, number: int) -> list[int]:
        """All counters of a frontend or member."""
        starts = [counter(worker, slot) for worker in self._workers]
        counts = (self._words[start : start + number].tolist() for start in starts)
        return list(map(sum, zip([0] * number, *counts, strict=True)))

    def worker(self, worker: int) -> WorkerView:
        """By its number, what it has said last; CLOCK_MONOTONIC."""
        at, words = self._layout.worker(worker), self._words
        return WorkerView(
            heartbeat_ms=words[at + HEARTBEAT],
            paused=bool(words[at + PAUSED]),
            active=words[at + ACTIVE],
            total=words[at + TOTAL],
            pauses=words[at + PAUSES],
            generation=words[at + GENERATION],
            pid=words[at + PID],
        )

    def frontend_sum(self, slot: int, index: int) -> int:
        """One counter, `F_TOTAL` or another, over all workers."""
        layout = self._layout
        return sum(self._words[layout.frontend_counter(worker, slot) + index] for worker in self._workers)

    def member_sum(self, member: int, index: int) -> int:
        """One counter, `M_TOTAL` or another, over all workers."""
        layout = self._layout
        return sum(self._words[layout.member_counter(worker, member) + index] for worker in self._workers)
