"""The places of workers: which are taken, and what whoever takes one, begins there, or gives it back, writes.

That a slot is taken stands in shared memory alone: its heartbeat is not old. So a master knows of the workers of those
before it, and a slot whose worker nobody looks after any more is free by itself.
"""

from collections.abc import Callable, Iterable

from kpf.shm.layout import (
    ACTIVE,
    F_ENDED,
    F_TOTAL,
    FRONTEND_COUNTERS,
    FRONTENDS_USED_AT,
    GENERATION,
    HEARTBEAT,
    M_ACTIVE,
    MEMBER_COUNTERS,
    MEMBERS_USED_AT,
    MUST_END,
    PAUSED,
    PID,
    WORKER_SLOTS,
    WORKERS_USED_AT,
)
from kpf.shm.region import Region
from kpf.shm.slots import CapacityError

# a worker that lives is killed as stuck long before
STALE_MS = 60_000


def begin(region: Region, slot: int, *, generation: int, pid: int) -> None:
    """A worker starts in a slot that it has been given."""
    forget(region, slot)
    record = region.layout.worker(slot)
    region.words[record + GENERATION], region.words[record + PID] = generation, pid


def forget(region: Region, slot: int) -> None:
    """The connections of whoever had this slot have died with it. What it has counted stays."""
    words, layout = region.words, region.layout
    words[layout.worker(slot) + ACTIVE] = words[layout.worker(slot) + PAUSED] = 0
    start = layout.frontend_counter(slot, 0)
    counts = region.read(start, words[FRONTENDS_USED_AT] * FRONTEND_COUNTERS)
    totals, ended = (counts[index::FRONTEND_COUNTERS].tolist() for index in (F_TOTAL, F_ENDED))
    for frontend, (total, gone) in enumerate(zip(totals, ended, strict=True)):
        if total != gone:
            words[start + frontend * FRONTEND_COUNTERS + F_ENDED] = total
    start = layout.member_counter(slot, 0)
    counts = region.read(start, words[MEMBERS_USED_AT] * MEMBER_COUNTERS)
    for member, active in enumerate(counts[M_ACTIVE::MEMBER_COUNTERS].tolist()):
        if active:
            words[start + member * MEMBER_COUNTERS + M_ACTIVE] = 0


class WorkerSlots:
    """The master's view. Those that it has taken itself stay its own until it gives them back."""

    def __init__(self, region: Region, clock: Callable[[], int]) -> None:
        self._region, self._words, self._layout, self._clock = region, region.words, region.layout, clock
        self._own: set[int] = set()

    def take(self, count: int) -> tuple[int, ...]:
        """The lowest slots that are free. Raises `CapacityError`."""
        now_ms, words = self._clock(), self._words
        free = [slot for slot in range(WORKER_SLOTS) if self._is_free(slot, now_ms)][:count]
        if len(free) < count:
            raise CapacityError(f"of {WORKER_SLOTS} places of workers {len(free)} are free, and {count} are wanted")
        if free and free[-1] >= words[WORKERS_USED_AT]:
            words[WORKERS_USED_AT] = free[-1] + 1
        for slot in free:
            record = self._layout.worker(slot)
            words[record + GENERATION] = words[record + PID] = words[record + MUST_END] = 0
            words[record + HEARTBEAT] = now_ms
        self._own.update(free)
        return tuple(free)

    def give(self, slots: Iterable[int]) -> None:
        """Their workers have ended."""
        for slot in slots:
            forget(self._region, slot)
            self._words[self._layout.worker(slot) + HEARTBEAT] = 0
            self._own.discard(slot)

    def taken(self) -> tuple[int, ...]:
        """Those that are not free, whoever has taken them."""
        now_ms = self._clock()
        return tuple(slot for slot in range(self._words[WORKERS_USED_AT]) if not self._is_free(slot, now_ms))

    def end_all_but(self, generations: int) -> int:
        """Have workers end that are leaving, but for the newest so many generations. How many workers these are."""
        words = self._words
        of = {slot: words[self._layout.worker(slot) + GENERATION] for slot in self.taken()}
        # 0: it has not begun
        kept = sorted({*of.values()} - {0})[-generations:]
        doomed = [slot for slot, generation in of.items() if 0 < generation < kept[0]]
        for slot in doomed:
            words[self._layout.worker(slot) + MUST_END] = 1
        return len(doomed)

    def expire(self) -> None:
        """Whoever has not been heard of for so long has ended, and nobody has told us."""
        now_ms = self._clock()
        for slot in range(self._words[WORKERS_USED_AT]):
            if self._words[self._layout.worker(slot) + HEARTBEAT] and self._is_free(slot, now_ms):
                self.give((slot,))

    def _is_free(self, slot: int, now_ms: int) -> bool:
        # of those that were never in use, not even the record is looked at: that would cost memory
        if slot >= self._words[WORKERS_USED_AT]:
            return True
        heartbeat_ms = self._words[self._layout.worker(slot) + HEARTBEAT]
        return slot not in self._own and (heartbeat_ms == 0 or now_ms - heartbeat_ms > STALE_MS)
