"""Handovers that go wrong: whoever serves goes on, nothing is lost, and the log says who has failed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from kpf.lab.clients import connect, failures, hold, names
from kpf.lab.daemon import Daemon, DaemonFailedError
from kpf.lab.machine import Conversation
from kpf.lab.tables import list_tables
from kpf.net.handover import Refusal
from tests.e2e.restarts.impostors import FAILURES, LIES, Successor, predecessor
from tests.e2e.restarts.scene import LONG, daemon_of, observe, serve
from tests.e2e.restarts.tally import merged
from tests.e2e.world import World, eventually
from tests.strangers import UID

pytestmark = pytest.mark.usefixtures("nobody_left")

SHOP = ("10.96.0.10", 80)
KEPT = 20
MOMENTS = 20
# it stands still for as long as this: kpf.master.successor.MASTER_S, and the end of the process
STOPPED_S = 40.0


class Served:
    """A daemon with connections that are kept, and what has to be so again and again."""

    def __init__(self, world: World, daemon: Daemon, held: Conversation[Any, Any]) -> None:
        self.world, self.daemon, self.held = world, daemon, held
        self.path = world.directory / "handover.sock"
        self._workers, self._changes = daemon.worker_pids(), 0
        self._next = self._answers()[-1]

    def _answers(self) -> list[str]:
        return [one.name for one in self.world.lab.outside.call(connect, SHOP, 3)]

    def serves(self) -> None:
        """Turns, connections, workers."""
        answers = self._answers()
        # three pods: the one that was last is the last of the next three
        assert len(set(answers)) == 3
        assert answers[-1] == self._next
        assert failures(self.held.send("ping")) == []
        assert self.daemon.worker_pids() == self._workers

    def goes_on(self) -> None:
        """And it follows what changes."""
        self.serves()
        self._changes += 1
        self.world.serve("more", f"10.96.1.{self._changes}", ["10.244.1.1"])
        eventually(lambda: self.world.answers((f"10.96.1.{self._changes}", 80), timeout_s=0.3) == {"10.244.1.1": 1})
        assert "Traceback" not in self.daemon.log()


@contextmanager
def _serving(world: World) -> Iterator[Served]:
    world.serve("shop", SHOP[0], world.pods([1, 2, 3]))
    with daemon_of(world, "first") as daemon, world.lab.outside.converse(hold, SHOP, KEPT) as held:
        yield Served(world, daemon, held)


_STRANGER = f"""
import os, socket, sys
os.setresuid({UID}, {UID}, {UID})
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(5.0)
try:
    sock.connect(sys.argv[1])
    print("in" if sock.recv(100) else "dismissed")
except PermissionError:
    print("kept out")
"""


def _try_as_a_stranger(served: Served) -> str:
    """Skips the test where there is no other user."""
    command = [sys.executable, "-c", _STRANGER, str(served.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20.0)
    if "setresuid" in done.stderr:
        pytest.skip("there is no other user here")
    return done.stdout.strip()


def test_successors_that_fail_change_nothing(world: World) -> None:
    with _serving(world) as served:
        before = len(os.listdir(f"/proc/{served.daemon.pid}/fd"))
        for fail in FAILURES:
            said = served.daemon.log().count("has not taken over")
            with Successor(served.path) as one:
                fail(one)
            served.daemon.wait_for_log("has not taken over", times=said + 1)
            served.serves()
        served.goes_on()
        # one more listening socket for each worker, of the Service that came
        eventually(lambda: len(os.listdir(f"/proc/{served.daemon.pid}/fd")) <= before + 2)
        with Successor(served.path) as first, Successor(served.path) as second:
            first.take_everything()
            answer = second.ask()
            assert isinstance(answer, Refusal)
            assert "another one" in answer.reason
        world.directory.chmod(0o755)
        assert served.path.stat().st_mode & 0o777 == 0o600
        assert _try_as_a_stranger(served) == "kept out"
        # an administrator's mistake
        served.path.chmod(0o666)
        assert _try_as_a_stranger(served) == "dismissed"
        served.daemon.wait_for_log(f"of uid {UID} asked to take over")
        served.goes_on()


def test_one_that_is_stopped_while_it_hands_over_does_not_hand_over(world: World) -> None:
    with _serving(world) as served, Successor(served.path) as one:
        one.take_everything()
        served.daemon.signal(signal.SIGTERM)
        served.daemon.wait_for_log("new connections are dropped")
        with pytest.raises(EOFError):
            one.hear()
        assert failures(served.held.send("close")) == []
        assert served.daemon.process is not None
        assert served.daemon.process.wait(5.0) == 0
        assert list_tables() == []


@pytest.mark.soak
def test_of_two_successors_one_is_refused(world: World) -> None:
    with _serving(world) as served:
        with Successor(served.path) as first:
            first.take_everything()
            second = daemon_of(world, "second")
            with pytest.raises(DaemonFailedError, match="another one is taking over"):
                second.start()
            assert second.exit_status() == 1
        served.daemon.wait_for_log("has not taken over")
        served.goes_on()
        with daemon_of(world, "third") as third:
            assert third.status()["synced"]
            assert failures(served.held.send("close")) == []
            assert served.daemon.process is not None
            assert served.daemon.process.wait(5.0) == 0


@pytest.mark.soak
def test_a_successor_with_too_few_descriptors_fails_and_says_so(world: World) -> None:
    with _serving(world) as served:
        for number in range(60):
            world.serve(f"many-{number}", f"10.96.2.{number + 1}", ["10.244.1.2"])
        eventually(lambda: len(served.daemon.status()["services"]) == 61)
        for limit in (40, 60, 90, 120):
            second = daemon_of(world, f"limit{limit}", prefix=("prlimit", f"--nofile={limit}:{limit}"))
            with pytest.raises(DaemonFailedError, match=r"(?i)descriptor|too many open files"):
                second.start()
            assert second.exit_status() == 1
            served.goes_on()


@pytest.mark.soak
@pytest.mark.usefixtures("forwarding")
def test_a_successor_that_is_killed_at_any_moment_is_not_noticed(world: World, figure: Callable[[str], None]) -> None:
    load = serve(world)
    with daemon_of(world, "measured") as alone:
        ready_s = alone.ready_s
    tallies = []
    for number in range(MOMENTS):
        after_s = ready_s * 1.3 * (number + 1) / MOMENTS

        @contextmanager
        def killed(world: World, first: Daemon, after_s: float = after_s) -> Iterator[Daemon]:
            second = daemon_of(world, "second")
            began_s = time.monotonic()
            try:
                second.start(timeout_s=after_s)
                time.sleep(max(began_s + after_s - time.monotonic(), 0.0))
            except DaemonFailedError:
                pass
            second.kill()
            with daemon_of(world, "third") as third:
                yield third
                assert first.process is not None
                assert first.process.wait(5.0) == 0, first.log()

        with daemon_of(world, "first") as daemon:
            tallies.append(observe(world, load, daemon, killed, LONG))
        print(f"killed after {after_s:.2f} s of about {ready_s:.2f}: {tallies[-1]}", flush=True)
    figure(f"successors killed at {MOMENTS} moments: {merged(tallies)}")
    assert [str(one) for one in tallies if not one.unnoticed and not one.says_nothing] == []


@pytest.mark.soak
def test_a_predecessor_that_is_stopped_serves_on(world: World) -> None:
    with _serving(world) as served:
        served.daemon.signal(signal.SIGSTOP)
        second = daemon_of(world, "second")
        with pytest.raises(DaemonFailedError, match=rf"\b{served.daemon.pid}\b"):
            second.start(timeout_s=STOPPED_S)
        assert second.exit_status() == 1
        assert names(world.lab.outside.call(connect, SHOP, 3)) == dict.fromkeys(served._answers(), 1)
        served.daemon.signal(signal.SIGCONT)
        served.goes_on()


@pytest.mark.soak
def test_a_successor_that_never_serves_is_given_up(world: World) -> None:
    with _serving(world) as served, Successor(served.path) as one:
        one.take_everything()
        served.daemon.wait_for_log("has not taken over", timeout_s=70.0)
        served.goes_on()


@pytest.mark.soak
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("is_master", [True, False], ids=["a master", "an orphan"])
def test_a_predecessor_that_lies_is_not_believed(world: World, lie: str, is_master: bool) -> None:
    """Beside a master that lies nobody starts; orphans that lie are left alone."""
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    daemon = daemon_of(world, "first")
    with predecessor(world.directory / "handover.sock", LIES[lie], is_master=is_master):
        if is_master:
            with pytest.raises(DaemonFailedError, match=rf"cannot go on: .*\b{os.getpid()}\b"):
                daemon.start()
            assert daemon.exit_status() == 1
            assert list_tables() == []
        else:
            with daemon:
                assert "error" in daemon.log()
                assert world.answers(SHOP, 2) == {pods[0]: 2}
    assert "Traceback" not in daemon.log()
    assert psutil.pid_exists(os.getpid())
