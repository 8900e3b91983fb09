"""The kernel carries out one transaction at a time: behind another program's kpf goes on, says so, can be stopped."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from kpf.lab.daemon import Daemon, DaemonFailedError
from kpf.lab.tables import list_tables
from tests.busy_kernel import TRANSACTION_S, busy
from tests.e2e.world import World, eventually, stopped_child

SHOP = ("10.96.0.10", 80)
HEALTH = "127.0.0.1:10256"
WAITS = "waiting for the kernel to carry out a transaction"


@pytest.fixture
def lock(world: World) -> Path:
    """While this file is locked, the daemon's transactions wait."""
    return world.directory / "transactions"


@pytest.fixture
def daemon(world: World, lock: Path) -> Iterator[Daemon]:
    """Not started."""
    world.serve("shop", SHOP[0], world.pods([1]))
    daemon = world.daemon("--healthz-bind-address", HEALTH)
    assert daemon.argv[1:3] == ["-m", "kpf"]
    daemon.argv[2:3] = ["tests.busy_kernel", str(lock)]
    yield daemon
    assert daemon.exit_status() is not None


def _is_served() -> bool:
    with urllib.request.urlopen(f"http://{HEALTH}/livez", timeout=2.0) as answer:
        return bool(answer.status == 200)


def test_while_it_runs(world: World, lock: Path, daemon: Daemon) -> None:
    more = world.pods([2])
    with daemon:
        with busy(lock):
            world.serve("more", "10.96.0.11", more)
            daemon.wait_for_log(WAITS)
            assert _is_served()
            victim = daemon.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: len(set(daemon.worker_pids()) - {victim}) == 2)
            assert world.answers(SHOP) != {}
        eventually(lambda: world.answers(("10.96.0.11", 80)) == {more[0]: 1})
        daemon.wait_for_log("s for the kernel to carry out a transaction")
        assert daemon.log().count(WAITS) == 1


def test_when_it_is_told_to_stop_before_it_has_started(lock: Path, daemon: Daemon) -> None:
    """What waits is the trial, which changes nothing: there is nothing to take away."""
    with ThreadPoolExecutor() as pool, busy(lock):
        starting = pool.submit(daemon.start)
        daemon.wait_for_log(WAITS, timeout_s=10.0)
        daemon.wait_for_log("waiting for the first sync")
        daemon.signal(signal.SIGINT)
        with pytest.raises(DaemonFailedError, match="ended with status 0"):
            starting.result()
    assert list_tables() == []


def test_a_signal_is_obeyed_before_the_workers_are_ready(daemon: Daemon) -> None:
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(daemon.start)
        eventually(lambda: daemon.process is not None)
        newborn = stopped_child(daemon, former=0)
        daemon.wait_for_log("waiting for the workers to be ready")
        daemon.signal(signal.SIGTERM)
        with pytest.raises(DaemonFailedError, match="ended with status 0"):
            starting.result()
    assert not psutil.pid_exists(newborn)


def test_when_it_is_to_stop(lock: Path, daemon: Daemon) -> None:
    with daemon:
        pids = daemon.worker_pids()
        with busy(lock):
            began_s = time.monotonic()
            assert daemon.stop(how=signal.SIGINT) == 1
            assert TRANSACTION_S < time.monotonic() - began_s < TRANSACTION_S + 5.0
        daemon.wait_for_log(WAITS)
        daemon.wait_for_log("table inet kpf is still there, `kpf cleanup` takes it away")
        assert not any(map(psutil.pid_exists, pids))
    assert list_tables() == ["kpf"]
    assert subprocess.run([sys.executable, "-m", "kpf", "cleanup"], check=False).returncode == 0
    assert list_tables() == []


def test_when_it_is_to_stop_amidst_a_transaction(world: World, lock: Path, daemon: Daemon) -> None:
    with daemon:
        with busy(lock):
            world.serve("more", "10.96.0.11", world.pods([2]))
            daemon.wait_for_log(WAITS)
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_log("new connections are refused, not dropped", timeout_s=8.0)
        # once the kernel is free, all ends well
        assert daemon.stop(how=signal.SIGINT) == 0
    assert list_tables() == []
