"""What happens to a kpf that serves: restarts, upgrades and crashes, each as a context for `scene.observe`.

Each is given the daemon that serves; inside, another one has taken over, and clients go on; when it is left, clients
have gone, and nobody of the earlier daemon may be left.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM

import psutil

from kpf.lab.daemon import Daemon
from kpf.lab.machine import wait_until
from tests.e2e.restarts.contained import ContainedDaemon
from tests.e2e.restarts.layouts import of_another_layout
from tests.e2e.restarts.scene import daemon_of, processes
from tests.e2e.world import World

# systemd's RestartSec of the unit
RESTART_S = 1.0
END_S = 5.0


def status_at_the_end(daemon: Daemon, *, timeout_s: float = END_S) -> int:
    """Its exit status, once its last connections have ended. Raises `TimeoutExpired`."""
    assert daemon.process is not None
    return daemon.process.wait(timeout_s)


@contextmanager
def _relieved_by(successor: Daemon, predecessor: Daemon) -> Iterator[Daemon]:
    with successor:
        yield successor
        assert status_at_the_end(predecessor) == 0, predecessor.log()


@contextmanager
def take_over(world: World, daemon: Daemon) -> Iterator[Daemon]:
    """A second one is started by hand while the first one runs."""
    with _relieved_by(daemon_of(world, "second"), daemon) as successor:
        yield successor


@contextmanager
def rolling_update(world: World, daemon: Daemon) -> Iterator[Daemon]:
    """A new pod beside the old one, which gets SIGTERM once the new one is ready."""
    with _relieved_by(daemon_of(world, "second", kind=ContainedDaemon), daemon) as successor:
        daemon.signal(SIGTERM)
        yield successor


@contextmanager
def upgrade(world: World, daemon: Daemon) -> Iterator[Daemon]:
    """As a take-over, by a version whose shared memory has another layout."""
    env = of_another_layout(Path(world.directory) / "other")
    with _relieved_by(daemon_of(world, "second", env=env), daemon) as successor:
        yield successor


@contextmanager
def restart(_: World, daemon: Daemon) -> Iterator[Daemon]:
    """What `systemctl restart` does to a daemon with `--on-exit leave`: SIGTERM, and start once it has ended."""
    orphans = _workers(daemon)
    assert daemon.stop(how=SIGTERM) == 0, daemon.log()
    with daemon.start():
        yield daemon
        _await_end(orphans)


@contextmanager
def kill_the_master(_: World, daemon: Daemon) -> Iterator[Daemon]:
    """As the OOM killer does; the unit starts another one after `RESTART_S`."""
    orphans = _workers(daemon)
    daemon.kill()
    time.sleep(RESTART_S)
    with daemon.start():
        yield daemon
        _await_end(orphans)


@contextmanager
def kill_everybody(_: World, daemon: Daemon) -> Iterator[Daemon]:
    """The master first, or it would replace its workers."""
    workers = _workers(daemon)
    daemon.kill()
    for one in workers:
        one.send_signal(SIGKILL)
    time.sleep(RESTART_S)
    with daemon.start():
        yield daemon


def _workers(daemon: Daemon) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in daemon.worker_pids()]


def _await_end(workers: list[psutil.Process]) -> None:
    """Those of an earlier master end with their last connections."""
    assert psutil.wait_procs(workers, timeout=END_S)[1] == []


@contextmanager
def five_take_overs(world: World, daemon: Daemon) -> Iterator[Daemon]:
    """One after another; connections of all generations go on."""
    daemons = [daemon]
    try:
        for number in range(5):
            daemons.append(daemon_of(world, f"number{number}").start())
        yield daemons[-1]
        for former in daemons[:-1]:
            assert status_at_the_end(former) == 0, former.log()
        wait_until(lambda: len(processes("kpf.worker")) == 2, what="the earlier workers' end")
    finally:
        for one in daemons[1:]:
            if one.exit_status() is None:
                one.stop()
