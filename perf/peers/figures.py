"""Turns into figures: medians, their spread, and ratios of turns of the same round. Pure.

Ratios are taken round by round, before the median: what slowed the machine down for a while is in both. A turn with
errors, and a ratio with one, is left out; `errors` says how many there were.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles

from perf.peers.cases import FIXED_RATE
from perf.peers.record import Run, Turn

BASE = "haproxy"
KPF, AGAIN = "kpf", "kpf-again"

Quantity = Callable[[Turn], float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and their quartiles."""

    median: float
    low: float
    high: float
    count: int

    def times(self, factor: float) -> "Spread":
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)


def spread(values: Iterable[float]) -> Spread | None:
    """None of no values; a single one has no width."""
    found = sorted(values)
    if not found:
        return None
    low, high = found[0], found[-1]
    if len(found) > 1:
        low, _, high = quantiles(found, n=4, method="inclusive")
    return Spread(median(found), low, high, len(found))


def total(turn: Turn) -> float | None:
    """CPU seconds of the subject per unit; None where it has no process."""
    return turn.total_s / turn.units if turn.total_s else None


def everything(turn: Turn) -> float:
    return turn.everything_s / turn.units


def rate(turn: Turn) -> float:
    return turn.units / turn.seconds


def p50(turn: Turn) -> float | None:
    return turn.p50_ms


def p99(turn: Turn) -> float | None:
    return turn.p99_ms


class Figures:
    """The figures of one run; quantities are per unit of the case as it was recorded, in seconds of CPU."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._turns: dict[tuple[str, str], list[Turn]] = {}
        for turn in run.turns:
            self._turns.setdefault((turn.case, turn.subject), []).append(turn)

    @property
    def base(self) -> str:
        """What others are compared with: HAProxy as it comes, where there is none kpf, or else whoever is first."""
        names = self.run.titles()
        return next((name for name in (BASE, KPF) if name in names), next(iter(names)))

    def others_part(self) -> float:
        """How much (0..1) of the CPU that was used during the turns was used by others than those measured.

        Turns at a fixed rate do not count: the machine's time is counted in ticks, which miss who sleeps between them.
        It is below 0 where they have missed some all the same.
        """
        turns = [turn for turn in self.run.turns if turn.case != FIXED_RATE.name]
        others = sum(turn.others_s for turn in turns)
        whole = others + sum(turn.everything_s for turn in turns)
        return others / whole if whole else 0.0

    def cases(self) -> list[str]:
        return list(dict.fromkeys(turn.case for turn in self.run.turns))

    def subjects(self, case: str) -> list[str]:
        """Who was measured, in the order of the tables."""
        return [name for name in self.run.titles() if (case, name) in self._turns]

    def of(self, case: str, subject: str, quantity: Quantity) -> Spread | None:
        """Over all rounds; None where there is nothing without errors."""
        return spread(self.values(case, subject, quantity).values())

    def user_part(self, case: str, subject: str) -> float | None:
        """How much (0..1) of its CPU a subject spent in user space, over all turns: a single one has too few ticks."""
        turns = [turn for turn in self._turns.get((case, subject), []) if not turn.errors]
        whole = sum(turn.user_s + turn.system_s for turn in turns)
        return sum(turn.user_s for turn in turns) / whole if whole else None

    def values(self, case: str, subject: str, quantity: Quantity) -> dict[int, float]:
        """By round; without turns that had errors, and where there is nothing of the kind."""
        turns = self._turns.get((case, subject), [])
        values = {turn.round: quantity(turn) for turn in turns if not turn.errors and turn.units}
        return {round_: value for round_, value in values.items() if value is not None}

    def ratio(self, case: str, subject: str, quantity: Quantity, *, to: str) -> Spread | None:
        """Of one subject to another, round by round; None where the other has nothing, as CPU without a process."""
        return spread(self.ratios(case, subject, quantity, to=to).values())

    def ratios(self, case: str, subject: str, quantity: Quantity, *, to: str) -> dict[int, float]:
        """The ratio of each round in which both have one."""
        ours, theirs = self.values(case, subject, quantity), self.values(case, to, quantity)
        return {round_: value / theirs[round_] for round_, value in ours.items() if theirs.get(round_)}

    def ours(self, case: str, quantity: Quantity, *, to: str) -> Spread | None:
        """The ratio of kpf to a subject, over both of its turns of every round."""
        both = (self.ratios(case, name, quantity, to=to).values() for name in (KPF, AGAIN))
        return spread(chain.from_iterable(both))

    def noise(self, case: str, quantity: Quantity) -> Spread | None:
        """kpf against itself: no difference smaller than this means anything."""
        return self.ratio(case, AGAIN, quantity, to=KPF)

    def errors(self, case: str, subject: str) -> tuple[int, Counter[str]]:
        """How many turns had errors, and which."""
        turns = [turn for turn in self._turns.get((case, subject), []) if turn.errors]
        return len(turns), sum((Counter(turn.errors) for turn in turns), Counter())
