"""What is to be looked at when: dials that wait, and losing ones that go on."""

from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from kpf.worker.clock import Clock

NEVER = -1


class Timed(Protocol):
    """`due_ms`: its only date, NEVER if it has none."""

    due_ms: int


class Timers:
    """A heap. A date that was put off, or cancelled by NEVER, is passed over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dates: list[tuple[int, int, Timed]] = []
        self._serial = count()

    def at(self, timed: Timed, due_ms: int) -> None:
        """Look at it then, and at no other time."""
        timed.due_ms = due_ms
        heappush(self._dates, (due_ms, next(self._serial), timed))
        self._clock.at(due_ms)

    def due(self) -> Timed | None:
        """The next one whose time has come; else None, and the clock knows when there will be one."""
        while self._dates:
            due_ms, _, timed = self._dates[0]
            if timed.due_ms == due_ms:
                if due_ms > self._clock.now_ms:
                    self._clock.at(due_ms)
                    return None
                timed.due_ms = NEVER
                heappop(self._dates)
                return timed
            heappop(self._dates)
        return None
