"""What a restart was to its clients: their outcomes as figures. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kpf.lab.clients import failures, names
from kpf.lab.crowd import Outcome
from kpf.lab.flows import Flow
from tests.e2e.restarts.load import Kind, Report

DELAYED_S = 0.05
WINDOW_S = 0.25
STILL_S = 0.5


@dataclass(frozen=True, slots=True)
class Delays:
    """Of those that were answered: how many took so much longer than whoever came at that moment past kpf."""

    number: int
    delayed: int
    worst_s: float
    p999_s: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], control: Sequence[Outcome], longer_s: float = DELAYED_S) -> "Delays":
        """`control`: those that came past kpf; the slowest one of about a window is what a moment was like."""
        half_s = WINDOW_S / 2
        slowest_s: dict[int, float] = defaultdict(float)
        for one in control:
            half = int(one.began_s / half_s)
            for near in (half - 1, half, half + 1):
                slowest_s[near] = max(slowest_s[near], one.first_byte_s)
        answered = [one for one in outcomes if not one.error]
        delayed = sum(one.first_byte_s > slowest_s[int(one.began_s / half_s)] + longer_s for one in answered)
        times_s = sorted(one.first_byte_s for one in answered) or [0.0]
        return cls(len(answered), delayed, times_s[-1], times_s[math.ceil(len(times_s) * 0.999) - 1])

    def __str__(self) -> str:
        return f"{self.delayed} of {self.number} ({self.worst_s * 1000:.0f} worst, {self.p999_s * 1000:.0f} p99.9)"


@dataclass(frozen=True, slots=True)
class Tally:
    """`moved`: how often a pinned client met another pod than before. `broken`: turns that were not the next one's.

    `off`: of each Service, how many connections its counter has more than clients had. `udp_moved`: flows that have
    changed their pod.
    """

    new: Delays
    control: Delays
    messages: Delays
    failed: Mapping[str, int]
    cut: int
    kept: int
    moved: int
    turns: int
    broken: int
    datagrams: int
    lost: int
    udp_moved: int
    off: Mapping[str, int]

    @classmethod
    def of(cls, report: Report, flows: Iterable[Flow], off: Mapping[str, int], longer_s: float = DELAYED_S) -> "Tally":
        """Failures are those of everything that goes through kpf, but for kept connections, which are cut."""
        outcomes = report.outcomes
        control = outcomes[Kind.CONTROL]
        new = [*outcomes[Kind.NEW], *outcomes[Kind.PINNED], *outcomes[Kind.TURN]]
        all_flows = list(flows)
        return cls(
            new=Delays.of(new, control, longer_s),
            control=Delays.of(control, control),
            messages=Delays.of(outcomes[Kind.MESSAGE], control, longer_s),
            failed=names(failures(new)),
            cut=len(failures(outcomes[Kind.MESSAGE])),
            kept=report.kept,
            moved=moved(outcomes[Kind.PINNED]),
            turns=len(outcomes[Kind.TURN]),
            broken=broken([one.name for one in outcomes[Kind.TURN]]),
            datagrams=sum(one.sent for one in all_flows),
            lost=sum(one.lost for one in all_flows),
            udp_moved=sum(len(one.servers) > 1 for one in all_flows),
            off=off,
        )

    @property
    def unnoticed(self) -> bool:
        """Nobody has noticed anything."""
        bad = (self.new.delayed, self.messages.delayed, self.cut, self.moved, self.broken, self.lost, self.udp_moved)
        return not any((*bad, *self.failed.values(), *self.off.values()))

    @property
    def says_nothing(self) -> bool:
        """The machine stood still for so long that nobody could have noticed a kpf that did."""
        return self.control.worst_s > STILL_S

    def __str__(self) -> str:
        off = ", ".join(f"{name} {number:+}" for name, number in self.off.items() if number) or "exact"
        failed = ", ".join(f"{number} {why}" for why, number in self.failed.items()) or "0"
        return (
            f"failed {failed}; delayed {self.new}, control {self.control.worst_s * 1000:.0f} worst, "
            f"{self.control.p999_s * 1000:.0f} p99.9 ms; cut {self.cut} of {self.kept}; messages delayed "
            f"{self.messages}; pins moved {self.moved}; turns broken {self.broken} of {self.turns}; "
            f"datagrams lost {self.lost} of {self.datagrams}, flows moved {self.udp_moved}; counters {off}"
        )


def merged(tallies: Sequence[Tally]) -> Tally:
    """Of several events, one at least: numbers are added up, times are the longest ones."""

    def longest(all_of_them: Sequence[Delays]) -> Delays:
        return Delays(
            sum(one.number for one in all_of_them),
            sum(one.delayed for one in all_of_them),
            max(one.worst_s for one in all_of_them),
            max(one.p999_s for one in all_of_them),
        )

    def added(all_of_them: Iterable[Mapping[str, int]]) -> dict[str, int]:
        counted: dict[str, int] = defaultdict(int)
        for one in all_of_them:
            for key, number in one.items():
                counted[key] += number
        return dict(counted)

    return Tally(
        new=longest([one.new for one in tallies]),
        control=longest([one.control for one in tallies]),
        messages=longest([one.messages for one in tallies]),
        failed=added(one.failed for one in tallies),
        cut=sum(one.cut for one in tallies),
        kept=sum(one.kept for one in tallies),
        moved=sum(one.moved for one in tallies),
        turns=sum(one.turns for one in tallies),
        broken=sum(one.broken for one in tallies),
        datagrams=sum(one.datagrams for one in tallies),
        lost=sum(one.lost for one in tallies),
        udp_moved=sum(one.udp_moved for one in tallies),
        off=added(one.off for one in tallies),
    )


def moved(outcomes: Iterable[Outcome]) -> int:
    """How often a client was answered by another one than the last time."""
    last: dict[str, str] = {}
    number = 0
    for one in outcomes:
        if one.name:
            number += last.get(one.source, one.name) != one.name
            last[one.source] = one.name
    return number


def broken(answers: Sequence[str]) -> int:
    """How many answers did not come from who is next, as most of them have it; "" if nobody answered."""
    following = Counter(pairwise(name for name in answers if name))
    most: dict[str, str] = {}
    for (before, after), _ in following.most_common():
        most.setdefault(before, after)
    # who did not answer may have had the turn, or not
    return sum(bool(one and other) and most[one] != other for one, other in pairwise(answers))


def counted_off(before: Mapping[str, int], after: Mapping[str, int], met: Mapping[str, int]) -> dict[str, int]:
    """`met`: how many connections of each Service clients had between the two."""
    return {name: after[name] - before[name] - number for name, number in met.items()}
