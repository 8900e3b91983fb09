"""Restarts and upgrades that nobody notices: once each here, 20 times each by `make soak`."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

from kpf.lab.daemon import Daemon
from tests.e2e.restarts import events
from tests.e2e.restarts.changing_over import kube_proxys_rules, there_and_back
from tests.e2e.restarts.contained import ContainedDaemon
from tests.e2e.restarts.load import Load
from tests.e2e.restarts.scene import LONG, SHORT, Event, Times, daemon_of, observe, quiet, serve
from tests.e2e.restarts.tally import Tally, merged
from tests.e2e.rulesets import loaded
from tests.e2e.world import World

pytestmark = pytest.mark.usefixtures("forwarding", "nobody_left")

TIMES = 20

Fine = Callable[[Tally], bool]


# of those that the first worker to die has accepted, or has in its queue
IN_FLIGHT = 30


def _unnoticed(tally: Tally) -> bool:
    return tally.unnoticed


def _cut_and_no_more(tally: Tally) -> bool:
    """What was open is lost; what comes after that waits, and nobody is refused."""
    refused = {"ECONNREFUSED", "timed out"} & tally.failed.keys()
    return not refused and sum(tally.failed.values()) <= IN_FLIGHT and not (tally.lost or tally.udp_moved)


def _nothing_lost(tally: Tally) -> bool:
    """Of what kube-proxy and kpf have served in turn, each with pods of its own."""
    return replace(tally, moved=0, broken=0, udp_moved=0).unnoticed


class Case(NamedTuple):
    """An event, how the daemon that it happens to is made, and what clients may notice."""

    event: Event
    args: tuple[str, ...] = ()
    kind: type[Daemon] = Daemon
    fine: Fine = _unnoticed


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
QUICK = ("take-over by hand", "restart", "SIGKILL of the master")


def _once(world: World, load: Load, case: Case, times: Times) -> Tally:
    with daemon_of(world, "first", *case.args, kind=case.kind) as daemon:
        return observe(world, load, daemon, case.event, times)


def _there_and_back(world: World, load: Load, times: Times) -> Tally:
    with loaded(kube_proxys_rules()):
        return observe(world, load, daemon_of(world, "first"), there_and_back, times)


def test_to_kpf_and_back_to_kube_proxy(world: World, figure: Callable[[str], None]) -> None:
    tally = _there_and_back(world, serve(world), SHORT)
    figure(f"kube-proxy, kpf, kube-proxy: {tally}")
    assert _nothing_lost(tally), tally


@pytest.mark.parametrize("name", QUICK)
def test_nobody_notices(world: World, figure: Callable[[str], None], name: str) -> None:
    case = CASES[name]
    tally = _once(world, serve(world), case, SHORT)
    figure(f"{name}: {tally}")
    assert case.fine(tally), tally


def _twenty_times(name: str, once: Callable[[], Tally], fine: Fine, figure: Callable[[str], None]) -> None:
    """What is noticed on a machine that stands still itself does not count, and is tried again."""
    tallies: list[Tally] = []
    void = 0
    while len(tallies) < TIMES and void < TIMES:
        tally = once()
        is_void = tally.says_nothing and not fine(tally)
        print(f"{name} {len(tallies)}: {'says nothing: ' * is_void}{tally}", flush=True)
        void += is_void
        tallies += [tally] * (not is_void)
    assert len(tallies) == TIMES
    figure(f"{name}, {TIMES} times ({void} more on a machine that stood still): {merged(tallies)}")
    assert [str(one) for one in tallies if not fine(one)] == []


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_nobody_notices_twenty_times(world: World, figure: Callable[[str], None], name: str) -> None:
    load, case = serve(world), CASES[name]
    _twenty_times(name, lambda: _once(world, load, case, LONG), case.fine, figure)


@pytest.mark.soak
def test_to_kpf_and_back_to_kube_proxy_twenty_times(world: World, figure: Callable[[str], None]) -> None:
    load = serve(world)
    _twenty_times("kube-proxy, kpf, kube-proxy", lambda: _there_and_back(world, load, LONG), _nothing_lost, figure)
