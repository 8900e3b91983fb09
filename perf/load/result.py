"""What became of a load."""

import math
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """`units`: connections, requests or bytes that are done, in `seconds` from the beginning to the last of them.

    `latencies_s` has one value for each connection or request, none for bytes. `errors`: how many of each name, such as
    ECONNRESET, "timed out", "closed without an answer", "wrong answer".
    """

    units: int
    seconds: float
    latencies_s: "array[float]"
    errors: dict[str, int]

    @property
    def rate_per_s(self) -> float:
        return self.units / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """How many errors there were."""
        return sum(self.errors.values())

    def percentile_ms(self, q: float) -> float:
        """The latency in milliseconds that `q` (0..100) percent did not exceed; NaN if there are none."""
        return percentile(self.latencies_s, q) * 1000


def percentile(values: "Sequence[float] | array[float]", q: float) -> float:
    """The smallest value that at least `q` (0..100) percent do not exceed (nearest rank); NaN if there are none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * q / 100) - 1, 0)] if ordered else math.nan


class Tally:
    """A result in the making. The clock runs from the tally's making, or from `begin`."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Start the clock anew: nothing is done yet; errors stay."""
        self.began_s = self._last_s = time.monotonic()
        self.units = 0
        self.latencies_s = array("d")

    def done(self, since_s: float) -> None:
        """One connection or request, from that moment until now."""
        self._last_s = now_s = time.monotonic()
        self.units += 1
        self.latencies_s.append(now_s - since_s)

    def got(self, count: int) -> None:
        """So many bytes."""
        self._last_s = time.monotonic()
        self.units += count

    def failed(self, why: str) -> None:
        self.errors[why] += 1

    def result(self) -> Result:
        return Result(self.units, self._last_s - self.began_s, self.latencies_s, dict(self.errors))
