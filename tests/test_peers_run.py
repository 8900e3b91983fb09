"""The benchmark beside peers, run: a short one with whatever is installed, and what it leaves behind."""

import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from kpf.lab.machine import Machine
from perf.load.result import Result
from perf.peers import record
from perf.peers.__main__ import main
from perf.peers.cases import closed_loop
from perf.peers.order import Place
from perf.peers.record import Turn
from perf.peers.runner import Runner
from perf.peers.subjects import SUBJECTS, Running, Site, SubjectFailedError
from perf.peers.subjects.base import WORKERS, process
from perf.peers.subjects.kpf import KPF
from perf.peers.world import World
from tests.stage import own_namespace


def peers(output: Path, *args: str) -> str:
    """What a run of one short round prints; its files are in `output`."""
    argv = [sys.executable, "-m", "perf.peers", "--rounds", "1", "--seconds", "0.05", "--output", str(output), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kpf_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run for which kpf and nothing else is needed: its files, and what it printed."""
    directory = tmp_path_factory.mktemp("peers")
    parts = ("requests", "fixed-rate", "memory", "transfers")
    return directory, peers(directory, "--only", *parts, "--subjects", "kpf", "kpf-again", "direct")


def test_all_that_is_installed_is_measured(tmp_path: Path, figure: Callable[[str], None]) -> None:
    missing = {subject.title: subject.missing() for subject in SUBJECTS if subject.missing()}
    if missing:
        figure(f"perf.peers: not installed, so not measured: {missing}")
    assert "Short connections, closed by the server" in peers(tmp_path, "--only", "short-server")
    run = record.load(tmp_path / "peers.json")
    assert {turn.subject for turn in run.turns} == {
        subject.name for subject in SUBJECTS if subject.title not in missing and not subject.cases
    }
    assert not [turn for turn in run.turns if turn.errors or not turn.units]
    assert {one.title for one in run.left_out} == set(missing)
    assert all(turn.p50_ms <= turn.p99_ms for turn in run.turns if turn.p50_ms and turn.p99_ms)
    assert all(turn.backends_s > 0 and turn.clients_s > 0 for turn in run.turns)
    # kernel-only paths have no process, all others have used CPU
    assert {turn.subject for turn in run.turns if not turn.total_s} <= {"nftables", "direct"}


def test_kpf_alone_is_measured_too(kpf_alone: tuple[Path, str]) -> None:
    directory, said = kpf_alone
    assert "noise: kpf again to kpf" in said
    run = record.load(directory / "peers.json")
    assert not [turn for turn in run.turns if turn.errors or not turn.units]
    assert [(one.subject, one.begun, one.failed) for one in run.transfers] == [("kpf", 100, 0), ("direct", 100, 0)]
    assert [(one.subject, one.errors) for one in run.memory] == [("kpf", {})]
    assert all(one.during > one.before > 0 for one in run.memory)
    assert run.sizes["kpf"].keys() == {"master", "worker 0", "worker 1"}


def test_tables_and_plots_are_made_from_the_record_alone(
    kpf_alone: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = kpf_alone
    tmp_path /= "new"
    assert main(["--plot", str(directory / "peers.json"), "--output", str(tmp_path)]) == 0
    (written,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: ")]
    assert written.startswith(f"written: {tmp_path}/peers.md, ")
    assert (tmp_path / "peers.md").read_text() == (directory / "peers.md").read_text()
    made = {f"peers-{what}.{kind}" for what in ("cpu", "latency", "rounds") for kind in ("png", "svg")}
    for place in (directory, tmp_path):
        assert made <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize(
    "argv", ["--rounds 16", "--seconds 0.2", "--seconds 31 --output /tmp", "--only memory", "--subjects kpf"]
)
def test_wrong_usage_is_said_before_anything_is_done(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv.split())
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_record_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "peers.json").write_text("{}")
    assert main(["--plot", str(tmp_path / "peers.json")]) == 1
    assert "date" in capsys.readouterr().err


def test_a_proxy_that_does_not_start_is_named_with_what_it_said(tmp_path: Path) -> None:
    site = Site(Machine(), "127.0.0.1", tmp_path, ())
    argv = ["sh", "-c", "echo no such thing; exit 3"]
    said = r"proxy ended with status 3\nno such thing"
    with pytest.raises(SubjectFailedError, match=said), process(site, "proxy", argv, 1):
        pass


def test_kpfs_processes_are_its_master_and_all_workers() -> None:
    with own_namespace(), World([KPF]) as world:
        running = world.running["kpf"]
        master = psutil.Process(running.pids["master"])
        assert sorted(running.pids.values()) == sorted(one.pid for one in (master, *master.children()))
        assert len(running.pids) == 1 + WORKERS


BURN = """
import sys, time
for line in sys.stdin:
    until_s = time.process_time() + float(line)
    print(flush=True)
    while time.process_time() < until_s: pass
    print(flush=True)
"""


class Burner:
    """A process that uses CPU when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid, self._orders, self._answers = process.pid, process.stdin, process.stdout

    def begin(self, cpu_s: float) -> None:
        self._orders.write(f"{cpu_s}\n")
        self._orders.flush()
        self._answers.readline()

    def finish(self) -> None:
        self._answers.readline()

    def burn(self, cpu_s: float) -> None:
        self.begin(cpu_s)
        self.finish()


@pytest.fixture
def burners() -> Iterator[list[Burner]]:
    """Two processes of a subject, the backends and the clients."""
    argv = [sys.executable, "-c", BURN]
    with ExitStack() as stack:
        made = []
        for _ in range(4):
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            made.append(Burner(process))
            # it is there, and what its start costs is over
            made[-1].burn(0)
        yield made


def _turn(burners: list[Burner], bear: Callable[[], None]) -> Turn:
    """A turn in a world in which these are at work, and whose load is this."""
    result = Result(100, 1.0, array("d", (number / 1000 for number in range(1, 101))), {})

    def bear_it(*_: object) -> Result:
        bear()
        return result

    master, worker, backends, clients = (one.pid for one in burners)
    running = {"some": Running(("127.0.0.1", 1), {"master": master, "worker": worker}, "", "")}
    world = SimpleNamespace(running=running, backends_pid=backends, clients_pid=clients, bear=bear_it)
    return Runner(cast(World, world)).turn(Place(1, "requests", "some"), closed_loop(0.0))


def test_a_turn_has_the_cpu_of_each_and_the_percentiles_of_its_result(burners: list[Burner]) -> None:
    spent_s = (0.02, 0.04, 0.08, 0.12)

    def bear() -> None:
        for burner, cpu_s in zip(burners, spent_s, strict=True):
            burner.burn(cpu_s)

    turn = _turn(burners, bear)
    assert (turn.total_s, turn.backends_s, turn.clients_s) == pytest.approx((0.06, 0.08, 0.12), abs=0.015)
    assert (turn.p50_ms, turn.p99_ms) == (50.0, 99.0)


def test_a_turn_waits_for_those_that_are_busy_after_the_clients(burners: list[Burner]) -> None:
    backends_s = 0.0
    # a busy machine may keep one from its CPU at the moment of a look
    for _ in range(10):
        backends_s = max(_turn(burners, lambda: burners[2].begin(0.1)).backends_s, backends_s)
        burners[2].finish()
        if backends_s > 0.05:
            return
    pytest.fail(f"of 0.1 s at most {backends_s} s were seen")
