"""That the figures of a restart say what has happened: made-up outcomes, and a kpf that is harmed on purpose."""

import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from kpf.lab.crowd import BURST, Crowd, Outcome
from kpf.lab.daemon import Daemon
from kpf.lab.flows import Flow
from tests.e2e.restarts import scene
from tests.e2e.restarts.load import KEPT, ROUND, Kind, Report, in_turn
from tests.e2e.restarts.scene import Times, daemon_of, observe, serve
from tests.e2e.restarts.tally import Delays, Tally, broken, counted_off, merged, moved
from tests.e2e.world import World


def _outcome(began_s: float, took_s: float, name: str = "a", *, source: str = "", error: str = "") -> Outcome:
    return Outcome(source, "" if error else name, error, began_s, took_s, took_s)


def test_a_delay_is_told_from_a_machine_that_was_slow_at_that_moment() -> None:
    control = [_outcome(at / 100, 0.001) for at in range(1000) if at != 500] + [_outcome(5.0, 0.3)]
    at_that_moment, at_another_one = _outcome(5.1, 0.34), _outcome(8.0, 0.34)
    delays = Delays.of([at_that_moment, at_another_one, _outcome(8.1, 0.04)], control)
    assert (delays.number, delays.delayed, delays.worst_s) == (3, 1, 0.34)


def test_what_failed_is_no_delay() -> None:
    delays = Delays.of([_outcome(1.0, 10.0, error="timed out"), *[_outcome(1.0, 0.002)] * 999], [])
    assert delays == Delays(999, 0, 0.002, 0.002)


def test_a_pinned_client_moves_when_another_one_answers_it() -> None:
    answers = [("x", "a"), ("y", "b"), ("x", "a"), ("y", "a"), ("x", ""), ("x", "a"), ("y", "a")]
    outcomes = [_outcome(0.0, 0.0, name, source=source, error="" if name else "no") for source, name in answers]
    assert moved(outcomes) == 1


@pytest.mark.parametrize(
    ("answers", "number"),
    [
        ("abcabcabc", 0),
        ("abcababcabc", 1),  # one was left out
        ("abcabbcabc", 1),  # one came twice
        ("abcab abc", 0),  # whose turn it was is not known
        ("", 0),
    ],
)
def test_turns_that_are_not_the_next_ones(answers: str, number: int) -> None:
    assert broken([one.strip() for one in answers]) == number


def test_counters_are_compared_with_what_clients_had() -> None:
    assert counted_off({"a": 5, "b": 0}, {"a": 8, "b": 1}, {"a": 3, "b": 2}) == {"a": 0, "b": -1}


def test_a_round_has_everything_and_spreads_it() -> None:
    kinds = in_turn()
    assert {kind: kinds.count(kind) for kind in Kind} == ROUND
    assert {Kind.NEW, Kind.CONTROL, Kind.MESSAGE} <= set(kinds[:6])


def _tally(**changes: Any) -> Tally:
    report = Report(2)
    for kind in Kind:
        report.outcomes[kind].append(_outcome(1.0, 0.01))
    flow = Flow(sent=3, answered=3, servers=[(1.0, "a")])
    tally = Tally.of(report, [flow], {"shop": 0})
    return replace(tally, **changes)


def test_whatever_is_noticed_is_told() -> None:
    assert _tally().unnoticed
    bad: list[tuple[str, object]] = [
        *((name, 1) for name in ("cut", "moved", "broken", "lost", "udp_moved")),
        *((name, Delays(1, 1, 0.1, 0.1)) for name in ("new", "messages")),
        *((name, {"one": 1}) for name in ("failed", "off")),
    ]
    assert [name for name, value in bad if _tally(**{name: value}).unnoticed] == []
    several = merged([_tally(), _tally(cut=2, failed={"timed out": 1})])
    assert (several.cut, several.failed, several.turns, several.unnoticed) == (2, {"timed out": 1}, 2, False)


class _Ready:
    """A connection that has its answer as soon as somebody looks."""

    awaits = selectors.EVENT_WRITE

    def __init__(self) -> None:
        self.sock, self._other = socket.socketpair()
        self.began_s = time.monotonic()
        self.finished = False

    def advance(self) -> None:
        self.finished = True

    def fail(self, why: str) -> None:
        pytest.fail(why)

    def close(self) -> None:
        self.sock.close()
        self._other.close()


def test_who_is_late_hears_those_under_way_all_the_same() -> None:
    started: list[_Ready] = []

    def due() -> Iterator[_Ready]:
        while len(started) < 3 * BURST:
            started.append(_Ready())
            yield started[-1]

    # all of them are due at once
    finished = Crowd(1.0).run(due(), at_once=3 * BURST)
    next(finished)
    assert len(started) == BURST
    assert len([*finished]) == 3 * BURST - 1
    for one in started:
        one.close()


@pytest.mark.soak
@pytest.mark.usefixtures("forwarding")
def test_a_worker_that_is_killed_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # what it had not counted yet is never counted
    monkeypatch.setattr(scene, "COUNTED_S", 0.1)

    @contextmanager
    def kill_a_worker(_: World, daemon: Daemon) -> Iterator[Daemon]:
        os.kill(daemon.worker_pids()[0], signal.SIGKILL)
        yield daemon

    load = serve(world)
    with daemon_of(world, "first") as daemon:
        tally = observe(world, load, daemon, kill_a_worker, Times(0.3, 0.8, 1.0))
    assert 0 < tally.cut < KEPT
    assert (tally.moved, tally.lost, tally.kept) == (0, 0, KEPT)
    assert tally.datagrams > 100
    assert tally.messages.number > 300
