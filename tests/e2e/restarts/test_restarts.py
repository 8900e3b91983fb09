"""Restarts and upgrades that nobody notices: once each here, 20 times each by `make soak`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from kpf.lab.daemon import Daemon
from tests.e2e.restarts import events
from tests.e2e.restarts.contained import ContainedDaemon
from tests.e2e.restarts.load import Load
from tests.e2e.restarts.scene import LONG, Event, Times, daemon_of, end_all, observe, quiet, serve
from tests.e2e.restarts.tally import Tally, merged
from tests.e2e.world import World

pytestmark = pytest.mark.usefixtures("forwarding", "nobody_left")

TIMES = 20


# of those that the first worker to die has accepted, or has in its queue
IN_FLIGHT = 30


def _unnoticed(tally: Tally) -> bool:
    return tally.unnoticed


def _cut_and_no_more(tally: Tally) -> bool:
    """What was open is lost; what comes after that waits, and nobody is refused."""
    refused = {"ECONNREFUSED", "timed out"} & tally.failed.keys()
    return not refused and sum(tally.failed.values()) <= IN_FLIGHT and not (tally.lost or tally.udp_moved)


class Case(NamedTuple):
    """An event, how the daemon that it happens to is made, and what clients may notice."""

    event: Event
    args: tuple[str, ...] = ()
    kind: type[Daemon] = Daemon
    fine: Callable[[Tally], bool] = _unnoticed


CASES = {
    "nothing": Case(quiet),
    "take-over by hand": Case(events.take_over),
    "rolling update": Case(events.rolling_update, ("--on-exit", "leave"), ContainedDaemon),
    "restart": Case(events.restart, ("--on-exit", "leave")),
    "upgrade to another layout": Case(events.upgrade),
    "SIGKILL of the master": Case(events.kill_the_master),
    "SIGKILL of everybody": Case(events.kill_everybody, fine=_cut_and_no_more),
    "five take-overs": Case(events.five_take_overs),
}
SHORT = ("take-over by hand", "restart", "SIGKILL of the master")


@pytest.fixture
def nobody_left(world: World) -> Iterator[None]:  # noqa: ARG001 (before its end)
    yield
    end_all()


def _once(world: World, load: Load, case: Case, times: Times) -> Tally:
    with daemon_of(world, "first", *case.args, kind=case.kind) as daemon:
        return observe(world, load, daemon, case.event, times)


@pytest.mark.parametrize("name", SHORT)
def test_nobody_notices(world: World, figure: Callable[[str], None], name: str) -> None:
    case = CASES[name]
    tally = _once(world, serve(world), case, Times())
    figure(f"{name}: {tally}")
    assert case.fine(tally), tally


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_nobody_notices_twenty_times(world: World, figure: Callable[[str], None], name: str) -> None:
    case = CASES[name]
    load = serve(world)
    tallies = []
    for number in range(TIMES):
        tallies.append(_once(world, load, case, LONG))
        print(f"{name} {number}: {tallies[-1]}", flush=True)
    figure(f"{name}, {TIMES} times: {merged(tallies)}")
    assert [str(one) for one in tallies if not case.fine(one)] == []
