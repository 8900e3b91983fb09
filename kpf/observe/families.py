"""What `/metrics` is made of, as plain values: families of series, and a histogram that is kept in memory. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

Labels = Mapping[str, str]
NO_LABELS: Labels = {}


class Kind(StrEnum):
    """Of a family, as the exposition formats call it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Series(NamedTuple):
    """One value. `suffix` is what its name has beyond its family's."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """All series of one name, which without its `_total` is a counter's; `text` says what it is.

    `series` are made as they are asked for.
    """

    name: str
    kind: Kind
    text: str
    series: Iterable[Series]


def counters(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """`name` is without `_total`; `values`: of each series, how often it has happened, or so many seconds or bytes."""
    return Family(name, Kind.COUNTER, text, (Series("_total", labels, value) for labels, value in values))


def gauges(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """`values`: of each series; seconds, bytes or a number, as the name ends."""
    return Family(name, Kind.GAUGE, text, (Series("", labels, value) for labels, value in values))


def gauge(name: str, text: str, value: float) -> Family:
    """Without labels; `value`: seconds, bytes or a number, as the name ends."""
    return gauges(name, text, [(NO_LABELS, value)])


def histogram_series(labels: Labels, bounds: Sequence[str], buckets: Sequence[int], total: float) -> Iterator[Series]:
    """`bounds` as they are written, without the last, +Inf; `buckets`: how many in each, one more than bounds.

    `total`: of all that was measured, in seconds.
    """
    count = 0
    for bound, count in zip((*bounds, "+Inf"), accumulate(buckets), strict=True):
        yield Series("_bucket", {**labels, "le": bound}, count)
    yield Series("_count", labels, count)
    yield Series("_sum", labels, total)


def written(bounds_s: Iterable[float]) -> tuple[str, ...]:
    """Bounds as programs in Go write them in plain text, kube-proxy among them: 0.004, 1, 60."""
    return tuple(repr(float(bound)).removesuffix(".0") for bound in bounds_s)


@dataclass(slots=True)
class Distribution:
    """How often a time has come, by `bounds_s`, which are sorted; one that is equal to a bound is within it."""

    bounds_s: Sequence[float]
    total_s: float = 0.0
    buckets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = self.buckets or [0] * (len(self.bounds_s) + 1)

    def add(self, took_s: float) -> None:
        """Once more."""
        self.buckets[bisect_left(self.bounds_s, took_s)] += 1
        self.total_s += took_s

    def plus(self, other: "Distribution") -> "Distribution":
        """Both together; their bounds are the same."""
        buckets = [one + another for one, another in zip(self.buckets, other.buckets, strict=True)]
        return Distribution(self.bounds_s, self.total_s + other.total_s, buckets)

    def series(self, labels: Labels) -> Iterator[Series]:
        """As a histogram."""
        return histogram_series(labels, written(self.bounds_s), self.buckets, self.total_s)
