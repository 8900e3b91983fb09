"""Requests on connections that are kept."""

import math
import time
from collections.abc import Sequence

from perf.load.client import TICK_S, TIMEOUT_S
from perf.load.pool import Pool
from perf.load.result import Address, Result


class Schedule:
    """When each request is due: at a rate from the beginning to the end, or at once if there is no rate."""

    def __init__(self, began_s: float, seconds: float, rate_per_s: float | None) -> None:
        self._began_s = began_s
        self._until_s = began_s + seconds
        self._rate_per_s = rate_per_s
        self._all = round(seconds * rate_per_s) if rate_per_s else 0
        self._count = 0

    def next_s(self, now_s: float) -> float:
        """When the next one is due, or was; infinite after the last."""
        if self._rate_per_s:
            return self._began_s + self._count / self._rate_per_s if self._all > self._count else math.inf
        return now_s if now_s < self._until_s else math.inf

    def taken(self) -> None:
        """The next one has been asked."""
        self._count += 1

    @property
    def left(self) -> int:
        """How many are still to be asked, if there is a rate."""
        return max(self._all - self._count, 0)


def requests(
    target: Address,
    *,
    seconds: float,
    connections: int,
    rate_per_s: float | None = None,
    sources: Sequence[str] = ("",),
    path: str = "/",
) -> Result:
    """GETs on so many connections, which are opened before the clock starts; one that fails is opened anew.

    Closed loop: each asks again when it is answered. Open loop, at `rate_per_s` in all: a latency counts from when the
    request was due, so a request that waits for a free connection waits on the clock. What could not be asked within
    10 s after the end counts as "not asked in time".
    """
    pool = Pool(target, connections, sources=sources, path=path)
    pool.open()
    pool.tally.begin()
    schedule = Schedule(pool.tally.began_s, seconds, rate_per_s)
    give_up_s = pool.tally.began_s + seconds + TIMEOUT_S
    while (now_s := time.monotonic()) < give_up_s:
        while pool.free and (due_s := schedule.next_s(now_s)) <= now_s:
            pool.ask(pool.free.popleft(), due_s)
            schedule.taken()
        due_s = schedule.next_s(now_s)
        if due_s == math.inf and not pool.asked:
            break
        if rate_per_s and pool.free:
            pool.wait_finely(due_s - now_s)
        else:
            pool.wait(TICK_S)
    pool.close()
    pool.tally.errors.update({why: number for why, number in _left_over(pool, schedule).items() if number})
    return pool.tally.result()


def _left_over(pool: Pool, schedule: Schedule) -> dict[str, int]:
    return {"not asked in time": schedule.left, "timed out": len(pool.asked)}
