"""What may come in storms, for the log: so many lines of a kind, and for the rest one that says how many there were."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("kpf")

# lines of a kind at once; and how soon there may be one more
BURST = 100
REFILL_S = 0.2
# for how long what is not told is counted
SUM_S = 10.0


@dataclass(slots=True)
class _Kind:
    lines: float
    seen_s: float
    untold: int = 0
    level: int = logging.DEBUG
    since_s: float = 0.0


class Story:
    """`clock`: seconds, from any origin. `settle` is to be called now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def tell(self, kind: str, level: int, message: str, *args: object, burst: int = BURST) -> None:
        """A line, unless there are too many. `kind`: how many of what has happened, "%d more Services have come".

        `burst`: so many lines at once.
        """
        if not log.isEnabledFor(level):
            return
        now_s = self._clock()
        known = self._kinds.setdefault(kind, _Kind(burst, now_s))
        known.lines = min(known.lines + (now_s - known.seen_s) / REFILL_S, burst)
        known.seen_s = now_s
        # what is summed up is told before what comes next
        if known.untold or known.lines < 1:
            known.since_s = known.since_s if known.untold else now_s
            known.untold += 1
            known.level = max(known.level, level)
            return
        known.lines -= 1
        log.log(level, message, *args)

    def settle(self) -> None:
        """Say what has not been told for long enough."""
        for kind, known in self._kinds.items():
            if known.untold and self._clock() - known.since_s >= SUM_S:
                log.log(known.level, kind, known.untold)
                known.untold, known.level = 0, logging.DEBUG
