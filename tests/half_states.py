"""Holds halves to `kpf.worker.phases`, before and after whatever a worker is told."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpf.worker.half import EITHER, Half
from kpf.worker.phases import END, LEGAL, MOVES, PAIRS, RELAYING, SETS, Event, Phase
from kpf.worker.states import DEAD, DIALLING, NAGLING, PASSED, PENDING, PIPED, RESTING, SEEN

# What happens to a half, step by step, and of each step one event or, if there is None, nothing
Causes = Sequence[Sequence[Event | None]]
NOTHING: Causes = ()
# of a half without a peer, whatever it is that the worker is told
DIAL: Causes = (
    (Event.SILENCE, None),
    (Event.ANSWER, Event.NO_ANSWER, None),
    (Event.READABLE, None),
    (Event.ROOM, None),
)


@dataclass
class Seen:
    """Of all sessions so far: the states in each phase; the phases of a client and its backend."""

    states: Counter[tuple[Phase, int]] = field(default_factory=Counter)
    pairs: Counter[tuple[Phase, Phase]] = field(default_factory=Counter)


def phase_of(half: Half) -> Phase:
    if half.state & DEAD:
        return Phase.DEAD
    if not hasattr(half, "peer"):
        return Phase.DIALLED if half.choice else Phase.WATCHED if half.state & DIALLING else Phase.ACCEPTED
    if half.end == PASSED:
        return Phase.ENDED
    if half.end == SEEN:
        return Phase.ENDING
    return Phase.RESTED if half.state & RESTING else Phase.FULL if half.state & PENDING else Phase.DRY


def reach(before: Phase, causes: Causes) -> set[Phase]:
    phases = {before}
    for step in causes:
        phases = set().union(*(MOVES[event].get(one, {one}) if event else {one} for event in step for one in phases))
    return phases


class Before(NamedTuple):
    phase: Phase
    state: int
    mate: Half | None


class Observer:
    """`halves`: those to look at. `may_fail`: whether sockets may have errors by now."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.halves: list[Half] = []
        self.may_fail = False

    def tell(self, call: Callable[[], object], causes: Mapping[Half, Causes] | Causes = NOTHING) -> None:
        """Tell the worker something that is a cause for what happens to halves that have a peer, and look at all."""
        before = {half: Before(phase_of(half), half.state, getattr(half, "peer", None)) for half in self.halves}
        call()
        # a dial that has failed at once was nobody's
        self.halves = [half for half in self.halves if half in before or half.fileno() >= 0]
        for half in self.halves:
            before.setdefault(half, Before(Phase.DIALLED if half.choice else Phase.ACCEPTED, 0, None))
        failing: Causes = ((Event.ERROR, None),) if self.may_fail else NOTHING
        why: dict[Half, Causes] = {}
        for half, (_, _, mate) in before.items():
            told = causes.get(half, NOTHING) if isinstance(causes, Mapping) else causes
            why[half] = (*(told if mate else DIAL), *failing)
        for half, (phase, _, mate) in before.items():
            legal = reach(phase, why[half])
            if mate:
                assert (phase_of(half) is Phase.DEAD) == (phase_of(mate) is Phase.DEAD)
                if Phase.ENDED in legal and Phase.ENDED in reach(before[mate].phase, why[mate]):
                    legal.add(Phase.DEAD)
            assert phase_of(half) in legal, (phase, why[half], phase_of(half))
            self._check_state(half)
            self._check_bits(half, before[half].state, why[half])

    def _check_state(self, half: Half) -> None:
        phase, state = phase_of(half), half.state
        assert state in LEGAL[phase], (phase, state)
        self.seen.states[phase, state] += 1
        if phase is Phase.DEAD:
            assert not hasattr(half, "peer"), "a cycle, which nobody collects"
            return
        assert half.fileno() >= 0
        assert half.end == END[phase]
        assert half.choice is None or not state & NAGLING
        if phase in RELAYING:
            assert half.peer.peer is half
            client, backend = (half, half.peer) if half.choice is None else (half.peer, half)
            pair = phase_of(client), phase_of(backend)
            assert pair in PAIRS
            self.seen.pairs[pair] += 1
            if state & PENDING:
                assert (half.piped if state & PIPED else len(half.pending)) > 0
                # who rests may not have tried yet
                assert state & RESTING or half.peer.mask == EITHER

    def _check_bits(self, half: Half, before: int, causes: Causes) -> None:
        settable = 0
        for event in (event for step in causes for event in step if event):
            settable |= SETS[event]
        # the end of both is nobody's event
        assert not half.state & ~before & ~settable & ~DEAD, (before, causes, half.state)
