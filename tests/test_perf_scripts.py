"""Each load script as a user runs it: in a world of its own, and on a TARGET."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kpf.lab.interrupts import INTERRUPTS
from kpf.lab.machine import Machine, wait_until
from kpf.lab.topology import Lab
from perf import address, kills, own
from perf.subject import Subject, SubjectError, worker_process
from tests.misbehaving import behaving, reset

LATENCY = {"p50", "p99", "max"}
CPU = {"cpu", "user", "system", "master", "workers"}
# how each is asked for something short, its cases, and its figures
SCRIPTS: dict[str, tuple[str, set[str], set[str]]] = {
    "connections": ("--seconds 0.2 --rounds 2", {""}, {*CPU, "rate", *LATENCY, "failed"}),
    "requests": ("--seconds 0.3 --rounds 1 --rate 300", {""}, {*CPU, "rate", *LATENCY, "failed"}),
    "bulk": (
        "--mib 1 --connections 2 --rounds 1",
        {"download", "upload", "both"},
        {*CPU, "rate", "transfers", "stalled", "failed"},
    ),
    "idle": ("--connections 300 --rounds 1", {""}, {"private_kib", "descriptors", "opened", *LATENCY, "failed"}),
    "slow": (
        "--seconds 0.3 --connections 5 --mib 1 --rounds 1",
        {"alone", "beside readers"},
        {*LATENCY, "rate", "private_mib", "failed"},
    ),
    "churn": (
        "--seconds 3.2 --changes-per-s 2 --at-once 2 --rounds 1",
        {""},
        {"changes", "added", "timed", "rate", *LATENCY, "failed"},
    ),
    "kills": ("--seconds 1 --every 0.3 --at-once 4 --rounds 1", {""}, {"deaths", "active", "failed", "rate", *LATENCY}),
}


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", f"perf.{script}", *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, *arguments: str) -> tuple[int, str, str]:
    with start(script, *arguments) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """All scripts at once, each in its own world: together they mostly wait."""
    processes = {
        name: start(name, *asked.split(), "--workers", "1", "--json", "-") for name, (asked, _, _) in SCRIPTS.items()
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            with process:
                process.kill()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_measures_in_a_world_of_its_own(name: str, started: "dict[str, subprocess.Popen[str]]") -> None:
    out, table = started[name].communicate(timeout=40)
    assert started[name].returncode == 0, table
    _, cases, figures = SCRIPTS[name]
    content = json.loads(out)
    assert content["question"].split()[0] in table
    assert table.isascii() or "µs" in table
    assert {case["case"] for case in content["cases"]} == cases
    for case in content["cases"]:
        for one in case["rounds"]:
            assert figures <= one.keys()
            assert one["fine"]
        assert figures <= case["median"].keys()
    check(name, {case["case"]: case["rounds"] for case in content["cases"]})


def check(name: str, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """What must be true of the figures, however slow the machine."""
    (first, *_), *_ = rounds.values()
    if name in ("connections", "requests"):
        assert first["cpu"] == pytest.approx(first["master"] + first["workers"])
        assert first["rate"] > 10
        assert 0 < first["p50"] <= first["p99"] <= first["max"]
        assert 0 <= first["master"] < first["workers"]
    elif name == "bulk":
        assert [rounds[way][0]["transfers"] for way in ("download", "upload", "both")] == [2, 2, 4]
    elif name == "idle":
        assert first["opened"] == 300
        assert first["descriptors"] == pytest.approx(2, abs=0.1)
        assert first["private_kib"] > 0
    elif name == "slow":
        assert rounds["beside readers"][0]["read_kb_per_s"] > 10
    elif name == "churn":
        assert first["changes"] >= 3
        assert 1 <= first["timed"] <= first["added"]
        assert 0 < first["new_p50"] <= first["new_max"]
    elif name == "kills":
        assert first["deaths"] >= 1
        assert first["failed"] <= first["active"]


@pytest.fixture
def resetting() -> Iterator[str]:
    """The address of a server that resets every connection that asks something."""
    with behaving(reset) as target:
        yield address.show(target)


@pytest.mark.parametrize("name", ["connections", "requests"])
def test_errors_of_a_target_are_counted_and_make_the_status_1(name: str, resetting: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    status, out, err = run(name, resetting, "--seconds", "0.1", "--rounds", "2", "--json", str(file))
    assert (status, err) == (1, "")
    content = json.loads(file.read_text())
    assert content["errors"].keys() == {"ECONNRESET"}
    assert content["errors"]["ECONNRESET"] > 2
    assert f"errors: {content['errors']['ECONNRESET']:,} ECONNRESET" in out
    (case,) = content["cases"]
    assert [one["fine"] for one in case["rounds"]] == [False, False]
    assert sum(one["failed"] for one in case["rounds"]) == content["errors"]["ECONNRESET"]
    assert content["parameters"]["target"] == resetting


def test_a_target_that_refuses_is_told_in_one_line() -> None:
    expected = "python -m perf.connections: 127.0.0.1:1: Connection refused\n"
    assert run("connections", "127.0.0.1:1") == (1, "", expected)


def test_a_kpf_that_does_not_answer_is_told_in_one_line(resetting: str) -> None:
    subject = Subject(address.parse(resetting), Machine(), control_socket="/nowhere/control.sock")
    with pytest.raises(SubjectError, match=r"^no kpf answers on /nowhere/control.sock: No such file or directory$"):
        subject.check()


def test_a_pid_that_is_somebody_else_here_is_no_worker() -> None:
    with pytest.raises(SubjectError, match="is no worker of kpf here"):
        worker_process(os.getpid())


@pytest.fixture(scope="module")
def shop() -> Iterator[Subject]:
    """A running kpf in our namespace."""
    with (
        Lab() as lab,
        tempfile.TemporaryDirectory(prefix="kpf-") as directory,
        own.shop(lab, Path(directory), 1) as subject,
    ):
        yield subject


def test_a_running_kpf_is_measured_with_and_without_its_control_socket(shop: Subject) -> None:
    target = address.show(shop.target)
    for more, known in (["--control-socket", shop.control_socket], CPU), ([], set()):
        status, out, table = run("connections", target, "--seconds", "0.1", "--rounds", "1", "--json", "-", *more)
        assert status == 0, table
        figures = json.loads(out)["cases"][0]["median"].keys()
        assert {"rate", *LATENCY} <= figures
        assert figures & CPU == known


@pytest.mark.parametrize("number", INTERRUPTS)
def test_a_manifest_is_put_back_when_churn_is_interrupted(shop: Subject, number: signal.Signals) -> None:
    assert shop.manifest is not None
    file = shop.manifest
    before = file.read_bytes()
    with start("churn", address.show(shop.target), "--manifest", str(file), "--changes-per-s", "10") as process:
        wait_until(lambda: file.read_bytes() != before)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert file.read_bytes() == before


def test_what_interrupts_first_is_not_interrupted_itself() -> None:
    code = """if True:
        from kpf.lab import interrupts
        interrupts.install()
        try:
            input()
        except KeyboardInterrupt as interrupt:
            print("cleaning up", flush=True)
            input()
            raise SystemExit(interrupts.exit_status(interrupt))
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        wait_until(lambda: _catches(process.pid, INTERRUPTS))
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "cleaning up\n"
        for number in INTERRUPTS:
            process.send_signal(number)
        process.communicate("done\n", timeout=10)
    assert process.returncode == 128 + signal.SIGHUP


def _catches(pid: int, numbers: Sequence[signal.Signals]) -> bool:
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return all(int(mask, 16) >> number - 1 & 1 for number in numbers)


def test_more_failed_connections_than_were_active_make_the_status_1(shop: Subject, resetting: str) -> None:
    asked = "--seconds 0.6 --every 0.2 --at-once 2 --rounds 1 --json -"
    # the workers that die are not those of this target, so they have none of its connections
    status, out, table = run("kills", resetting, "--control-socket", shop.control_socket, *asked.split())
    assert status == 1, table
    ((one,),) = [case["rounds"] for case in json.loads(out)["cases"]]
    assert one["deaths"] >= 1
    assert one["failed"] > one["active"] == 0
    assert not one["fine"]


def test_a_kpf_without_a_live_worker_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "status", lambda _: {"workers": [{"pid": 0}]})
    with pytest.raises(SubjectError, match=r"^the kpf on /nowhere/control.sock has no live worker$"):
        Subject(("127.0.0.1", 1), Machine(), control_socket="/nowhere/control.sock").workers()


def test_a_worker_that_gets_no_successor_ends_the_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "SUCCESSOR_S", 0.05)
    with subprocess.Popen([sys.executable, "-c", "input()", "kpf.worker"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(Subject, "status", lambda _: {"workers": [{"pid": process.pid, "connectionsActive": 3}]})
        with pytest.raises(SubjectError, match=rf"^worker {process.pid} has no successor within 0.05 s"):
            kills._kill(Subject(("127.0.0.1", 1), Machine()), 0)
        assert process.wait(10) == -signal.SIGKILL


def test_a_worker_alone_is_measured_beside_another_checkouts() -> None:
    status, out, err = run("worker", "--rounds", "1", "--seconds", "0.05", "--against", str(Path.cwd()))
    assert status == 0, err
    assert "to other" in out
    assert out.count("| kpf ") == 3
