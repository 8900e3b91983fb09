"""A whole run, from what was asked for to its record."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perf import report
from perf.peers.cases import CASES, loads
from perf.peers.figures import KPF
from perf.peers.order import WARM_UP, order
from perf.peers.record import Described, LeftOut, Memory, Run, Transfers, Turn
from perf.peers.runner import Runner
from perf.peers.subjects import Subject, SubjectFailedError
from perf.peers.world import SYSCTLS, World

MEMORY, TRANSFERS = "memory", "transfers"
PARTS = (MEMORY, TRANSFERS, *CASES)

# told what comes next, and which part (0..1) of all is done
Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for; `parts` are of `PARTS`."""

    subjects: Sequence[Subject]
    parts: Sequence[str]
    rounds: int
    seconds: float

    def present(self) -> list[Subject]:
        return [subject for subject in self.subjects if not subject.missing()]

    def left_out(self) -> list[LeftOut]:
        """Who cannot be there, and the command that changes it."""
        missing = {subject.title: subject.missing() for subject in self.subjects}
        return [LeftOut(title, f"apt install {shlex.join(names)}") for title, names in missing.items() if names]

    def measured(self, case: str) -> list[str]:
        """The subjects of a case."""
        return [subject.name for subject in self.present() if not subject.cases or case in subject.cases]


def measure(plan: Plan, tell: Tell) -> Run:
    """Do it. Raises what `World` does, and `CallFailedError`."""
    if not plan.present():
        how = "; ".join(one.install for one in plan.left_out())
        raise SubjectFailedError(f"nothing that is to be measured is installed: {how}")
    began_s = time.monotonic()
    machine = report.machine()
    date = machine.pop("date")
    tell("starting all subjects", 0.0)
    with World(plan.present()) as world:
        runner = Runner(world)
        runner.check()
        memory, transfers = _once(plan, runner, tell)
        rate_per_s = _rate_per_s(plan, runner)
        turns = _turns(plan, runner, rate_per_s, tell)
        return Run(
            date=date,
            took_s=time.monotonic() - began_s,
            machine=machine,
            sysctls=SYSCTLS,
            rounds=plan.rounds,
            seconds=plan.seconds,
            rate_per_s=rate_per_s,
            subjects=[_described(subject, world) for subject in plan.present()],
            table=world.table,
            left_out=plan.left_out(),
            turns=turns,
            memory=memory,
            transfers=transfers,
            sizes={name: runner.sizes(name) for name in world.running},
        )


def _once(plan: Plan, runner: Runner, tell: Tell) -> tuple[list[Memory], list[Transfers]]:
    memory, transfers = [], []
    begun = set()
    for subject in plan.present():
        if subject.start in begun:
            continue
        begun.add(subject.start)
        name = subject.name
        # of those without a process there is nothing to be said
        if MEMORY in plan.parts and runner.sizes(name):
            tell(f"memory of idle connections: {name}", 0.0)
            memory.append(runner.memory(name))
        if TRANSFERS in plan.parts:
            tell(f"transfers of odd sizes: {name}", 0.0)
            transfers.append(runner.transfers(name))
    return memory, transfers


def _rate_per_s(plan: Plan, runner: Runner) -> float:
    names = [subject.name for subject in plan.present()]
    return runner.a_quarter_of_what_it_does(KPF if KPF in names else names[0], plan.seconds)


def _turns(plan: Plan, runner: Runner, rate_per_s: float, tell: Tell) -> list[Turn]:
    subjects = {case: plan.measured(case) for case in CASES if case in plan.parts}
    places = list(order({case: names for case, names in subjects.items() if names}, plan.rounds))
    load_of = loads(seconds=plan.seconds, rate_per_s=rate_per_s)
    turns = []
    for number, place in enumerate(places):
        of = f"round {place.round} of {plan.rounds}" if place.round != WARM_UP else "warming up"
        tell(f"{of}: {place.case}, {place.subject}", number / len(places))
        turn = runner.turn(place, load_of[place.case])
        if place.round != WARM_UP:
            turns.append(turn)
    return turns


def _described(subject: Subject, world: World) -> Described:
    running = world.running[subject.name]
    # the directory is another one at each run
    how = running.how.replace(str(world.directory), "DIRECTORY")
    target = "{}:{}".format(*running.target)
    return Described(subject.name, subject.title, running.version, how, target, len(running.pids))
