"""Workers that are killed or stuck: who notices, and for how long."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kpf.lab.clients import connect, failures, hold, names, steady
from kpf.lab.daemon import Daemon
from kpf.master.supervisor import STUCK_S
from tests.e2e.world import World, eventually, stopped_child

SHOP = ("10.96.0.10", 80)


def _kill_each_second(daemon: Daemon, duration_s: float) -> int:
    """SIGKILL one worker a second, the slots in turn; how many were killed."""
    end_s = time.monotonic() + duration_s
    killed = 0
    while time.monotonic() < end_s:
        began_s = time.monotonic()
        pids = daemon.worker_pids()
        os.kill(pids[killed % len(pids)], signal.SIGKILL)
        killed += 1
        time.sleep(max(1.0 - (time.monotonic() - began_s), 0.0))
    return killed


@pytest.mark.parametrize("duration_s", [4.0, pytest.param(20.0, marks=pytest.mark.soak)])
def test_a_worker_killed_every_second(world: World, figure: Callable[[str], None], duration_s: float) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with world.daemon() as daemon:
        with world.lab.outside.begin(steady, SHOP, 400, duration_s + 1.0, timeout_s=5.0) as load:
            killed = _kill_each_second(daemon, duration_s)
            outcomes = load.result()
        eventually(lambda: len(daemon.active_at_deaths()) == killed)
        own = sum(daemon.active_at_deaths().values())
        restarts = sum(worker["restarts"] for worker in daemon.status()["workers"])
    failed = failures(outcomes)
    slowest_s = max(outcome.first_byte_s for outcome in outcomes)
    figure(
        f"{killed} workers killed: {len(failed)} of {len(outcomes)} failed, {own} were active at the deaths; slowest "
        f"{slowest_s * 1000:.0f} ms; {names(outcomes)}"
    )
    assert restarts == killed
    assert len(failed) <= own, names(failed)
    assert slowest_s < 1.5


def test_long_connections_of_the_other_worker_go_on(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1, 2, 3]))
    with world.lasting as daemon, world.lab.outside.converse(hold, SHOP, 60) as held:
        active = {worker["pid"]: worker["connectionsActive"] for worker in daemon.status()["workers"]}
        assert sum(active.values()) == 60
        assert min(active.values()) > 0
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in daemon.worker_pids() and len(daemon.worker_pids()) == 2)
        assert daemon.active_at_deaths() == {victim: active[victim]}
        assert len(failures(held.send("ping"))) == active[victim]
        eventually(lambda: daemon.service("shop")["connectionsActive"] == 60 - active[victim])


def test_a_process_is_called_what_log_and_status_call_it(world: World) -> None:
    with world.lasting as daemon:
        named = {worker["pid"]: f"kpf: worker {worker['slot']}" for worker in daemon.status()["workers"]}
        eventually(lambda: {pid: psutil.Process(pid).name() for pid in named} == named)
        assert psutil.Process(daemon.pid).name() == "kpf: master"
        pid, name = named.popitem()
        assert psutil.Process(pid).cmdline()[-1] == name.removeprefix("kpf: ")
        # when it was started, perhaps for another test
        assert f"{name.removeprefix('kpf: ')} (pid {pid}) is ready" in daemon.log_path.read_text()


def test_the_turn_is_exact_over_a_workers_death(world: World) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        assert world.answers(SHOP, 301) == {pods[0]: 101, pods[1]: 100, pods[2]: 100}
        os.kill(daemon.worker_pids()[1], signal.SIGKILL)
        assert world.answers(SHOP, 299) == {pods[0]: 99, pods[1]: 100, pods[2]: 100}


def test_a_stuck_worker_is_steered_around_and_replaced(world: World, figure: Callable[[str], None]) -> None:
    world.serve("shop", SHOP[0], world.pods([1, 2, 3]))
    with world.daemon() as daemon, world.lab.outside.begin(steady, SHOP, 100, 8.0, timeout_s=15.0) as load:
        time.sleep(0.5)
        ready = daemon.log().count("is ready")
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGSTOP)
        stopped_s = time.monotonic()
        noticed_s = stopped_s + daemon.wait_for_log("new connections go to workers")
        daemon.wait_for_log("is ready", times=ready + 1, timeout_s=8.0)
        outcomes = load.result()
        own = daemon.active_at_deaths()[victim]
    failed = failures(outcomes)
    slowest_s = max(outcome.first_byte_s for outcome in outcomes)
    later_s = max(outcome.first_byte_s for outcome in outcomes if outcome.began_s > noticed_s)
    figure(
        f"stuck worker noticed after {noticed_s - stopped_s:.2f} s; connections made after that took at most "
        f"{later_s * 1000:.0f} ms, those queued before {slowest_s:.2f} s; {len(failed)} failed, {own} were its own"
    )
    # before it is killed: around one that has died they go anyway
    assert noticed_s - stopped_s < STUCK_S
    assert later_s < 1.0
    assert slowest_s < 6.5
    assert len(failed) <= own


def test_a_worker_that_dies_at_once_again_and_again_does_not_stop_the_other(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.daemon() as daemon:
        for _ in range(3):
            victim = daemon.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            assert names(world.lab.outside.call(connect, SHOP, 20, timeout_s=5.0)) == {pods[0]: 20}
            eventually(lambda victim=victim: len(set(daemon.worker_pids()) - {victim}) == 2)  # type: ignore[misc]  # mypy cannot infer it


def test_a_newborn_that_wakes_late_serves_each_service_by_its_own_pods(world: World) -> None:
    pods = world.pods([1, 2])
    world.serve("old", SHOP[0], pods[:1])
    with world.daemon(workers=1) as daemon:
        (pid,) = daemon.worker_pids()
        os.kill(pid, signal.SIGKILL)
        newborn = stopped_child(daemon, pid)
        before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        world.manifests.remove("old.yaml")
        # it must not be closed for as long as the newborn, which is to be told of it, has not answered
        with contextlib.suppress(TimeoutError):
            eventually(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < before, timeout_s=2.0)
        world.serve("new", "10.96.0.11", pods[1:])
        eventually(lambda: [one["name"] for one in daemon.status()["services"]] == ["new"])
        with world.lab.outside.begin(connect, ("10.96.0.11", 80), 5, at_once=5) as clients:
            eventually(lambda: _queued() == 5)
            os.kill(newborn, signal.SIGCONT)
            assert names(clients.result()) == {pods[1]: 5}
        assert daemon.worker_pids() == [newborn]


def _queued() -> int:
    """Connections to proxy ports in our namespace that stand."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(local.rpartition(":")[2], 16) in range(20000, 30000) and state == "01" for _, local, _, state, *_ in lines
    )


def test_descriptors_are_back_after_load(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1, 2, 3]))
    with world.daemon() as daemon:
        world.answers(SHOP, 50)
        before = _descriptors(daemon)
        with world.lab.outside.converse(hold, SHOP, 500) as held:
            assert not failures(held.first)
            assert sum(_descriptors(daemon)[1:]) >= sum(before[1:]) + 1000
        world.answers(SHOP, 500)
        eventually(lambda: _descriptors(daemon) == before)
        eventually(lambda: daemon.service("shop")["connectionsActive"] == 0)


def _descriptors(daemon: Daemon) -> list[int]:
    """How many the master and each worker have open."""
    pids = [daemon.pid, *daemon.worker_pids()]
    # the master has one more for a moment: for the question above
    time.sleep(0.05)
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
