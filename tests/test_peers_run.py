"""The benchmark beside peers, run: a short one with whatever is installed, and what it leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from kpf.lab.machine import Machine
from perf.peers import record
from perf.peers.__main__ import main
from perf.peers.subjects import SUBJECTS, Site, SubjectFailedError
from perf.peers.subjects.base import process


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


def test_all_that_is_installed_is_measured(tmp_path: Path) -> None:
    missing = {subject.title: subject.missing() for subject in SUBJECTS if subject.missing()}
    if missing:
        print(f"not installed, so not measured: {missing}")
    assert "Short connections, closed by the server" in peers(tmp_path, "--only", "short-server")
    run = record.load(tmp_path / "peers.json")
    assert {turn.subject for turn in run.turns} == {
        subject.name for subject in SUBJECTS if subject.title not in missing and not subject.cases
    }
    assert not [turn for turn in run.turns if turn.errors or not turn.units]
    assert {one.title for one in run.left_out} == set(missing)
    # kernel-only paths have no process, all others have used CPU
    assert {turn.subject for turn in run.turns if not turn.total_s} <= {"nftables", "direct"}


def test_kpf_alone_is_measured_too(kpf_alone: tuple[Path, str]) -> None:
    directory, said = kpf_alone
    assert "noise: kpf again to kpf" in said
    run = record.load(directory / "peers.json")
    assert not [turn for turn in run.turns if turn.errors or not turn.units]
    assert [(one.subject, one.begun, one.failed) for one in run.transfers] == [("kpf", 100, 0), ("direct", 100, 0)]
    assert [(one.subject, one.errors) for one in run.memory] == [("kpf", {})]


def test_tables_and_plots_are_made_from_the_record_alone(kpf_alone: tuple[Path, str], tmp_path: Path) -> None:
    directory, _ = kpf_alone
    assert main(["--plot", str(directory / "peers.json"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "peers.md").read_text() == (directory / "peers.md").read_text()
    pytest.importorskip("matplotlib", reason="make perf installs it")
    made = {f"peers-{what}.{kind}" for what in ("cpu", "latency", "rounds") for kind in ("png", "svg")}
    for place in (directory, tmp_path):
        assert made <= {path.name for path in place.iterdir()}


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
