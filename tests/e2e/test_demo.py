"""`kpf demo` as people run it: its claims hold, it is quick, it says when one does not hold, and it leaves nothing.

Also with one user id only, as an ordinary user has it.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kpf.demo.numbers import errors, is_even, shares, times, window
from kpf.lab import namespace
from kpf.lab.clients import Outcome
from kpf.lab.interrupts import INTERRUPTS
from tests.e2e.sabotage import SABOTAGE
from tests.e2e.world import eventually

PLAY = "from kpf.demo import main; raise SystemExit(main())"
# as an ordinary user has it: root in a user namespace of one id, in which nobody else can be become
ONE_ID = f"from kpf.lab import namespace; namespace.enter_user_namespace(); {PLAY}"
KEEP = "from kpf.demo import main, show; show.ACTS = (); raise SystemExit(main(is_kept=True))"
NAMES = (
    "Exact fairness",
    "Session affinity",
    "Dead pods under load",
    "Dead worker under load",
    "Manifest edited under load",
    "SIGHUP under load",
    "The end",
)


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo has its temporary files, alone; a Unix socket's path must be short, so not pytest's tmp_path."""
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


def _run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def _acts(output: str) -> dict[str, str]:
    """What was shown, by the name of the act."""
    begins = re.compile(r"^\d+\. ([^:]+): ", re.MULTILINE)
    _, *parts = begins.split(output)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("code", [PLAY, ONE_ID], ids=["as we are", "one user id"])
def test_every_claim_holds(scratch: Path, code: str) -> None:
    began_s = time.monotonic()
    done = _run(code)
    if "does not let us" in done.stderr:
        pytest.skip(f"the kernel refuses a nested user namespace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    assert tuple(_acts(done.stdout)) == NAMES
    assert all("  ok     " in text for text in _acts(done.stdout).values())
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()
    assert time.monotonic() - began_s < 30
    assert list(scratch.iterdir()) == []


def test_claims_that_do_not_hold_are_told(scratch: Path) -> None:
    done = _run("from tests.e2e.sabotage import sabotaged; raise SystemExit(sabotaged())")
    assert done.returncode == 1, done.stdout + done.stderr
    told = {
        name: re.findall(r"^  BROKEN (.*(?:\n {9}.*)*)", text, re.MULTILINE)
        for name, text in _acts(done.stdout).items()
    }
    assert told.keys() == SABOTAGE.keys(), done.stdout + done.stderr
    kept = [
        (name, words)
        for name, sabotage in SABOTAGE.items()
        for words in sabotage.broken
        if not any(words in " ".join(claim.split()) for claim in told[name])
    ]
    assert kept == [], done.stdout + done.stderr
    assert re.search(r"^\d+ of 22 claims did not hold", done.stdout, re.MULTILINE)
    assert list(scratch.iterdir()) == []


def test_a_show_that_cannot_go_on_is_told(scratch: Path) -> None:
    kill = "lambda stage, scene: scene.daemon.kill()"
    done = _run(f"from kpf.demo import show; show.ACTS = ({kill},); raise SystemExit(show.play(kept_until=()))")
    assert done.returncode == 1
    assert "  BROKEN the show can go on\n" in done.stdout
    assert "1 of 1 claims did not hold" in done.stdout
    assert done.stderr == ""
    assert list(scratch.iterdir()) == []


def _do(command: str) -> str:
    """What a command of the demo prints when it is pasted into another terminal."""
    done = subprocess.run(
        command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _play_with_it(shown: Sequence[str]) -> None:
    """What it suggests, in the order in which it does."""
    commands = [line.strip() for line in shown if line.startswith("    ")]
    by_curl, by_node_port, by_python, shell, status, edit, configure, log, kill_pod, kill_worker = commands
    assert "-U" in shell
    if shutil.which("curl") is None:
        by_curl = by_node_port = by_python
    assert {_do(by_curl), _do(by_node_port), _do(by_python)} == {"pod-11\n", "pod-12\n", "pod-13\n"}
    assert _do(shell) == ""
    _do(edit)
    eventually(lambda: _do(by_curl) == "pod-14\n")
    _do(configure)
    eventually(lambda: _do(log).splitlines()[-1].startswith("{"))
    _do(kill_pod)
    assert {_do(by_curl) for _ in range(4)} == {"pod-12\n", "pod-14\n"}
    worker = kill_worker.split()[-1]
    assert worker in _do(status)
    _do(kill_worker)
    eventually(lambda: worker not in _do(status))


@pytest.mark.skipif(not (shutil.which("nsenter") and shutil.which("setpriv")), reason="needs nsenter and setpriv")
def test_it_can_be_kept_and_played_with(scratch: Path) -> None:
    # without this capability it makes a user namespace of its own, as for an ordinary user
    argv = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", KEEP]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("Ctrl-C here"):
                _play_with_it(shown)
                process.send_signal(signal.SIGINT)
                break
        output, problems = process.communicate(timeout=20)
    if "does not let us" in problems:
        pytest.skip(f"the kernel refuses a nested user namespace: {problems}")
    assert process.returncode == 0, "".join(shown) + output + problems
    assert "all 5 claims hold" in output
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", INTERRUPTS)
def test_interrupted_it_cleans_up(scratch: Path, number: signal.Signals) -> None:
    # as a shell starts it in the background, without job control
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {PLAY}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        # its first words come when the daemon is ready
        assert process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode == 128 + number
    assert list(scratch.iterdir()) == []


def test_where_namespaces_are_refused_it_says_so() -> None:
    forbid = "open('/proc/sys/user/max_net_namespaces', 'w').write('0')"
    done = _run(f"from kpf.lab import namespace; namespace.enter_user_namespace(); {forbid}; {PLAY}")
    assert done.returncode == 1
    assert "network namespace" in done.stderr
    assert "Traceback" not in done.stderr
    assert namespace.may_administer_network()


def _outcomes(*names_: str) -> list[Outcome]:
    """Connections a second apart; a name in capitals is an error."""
    return [
        Outcome("", "" if name.isupper() else name, name if name.isupper() else "", float(number), 0.0, 0.002)
        for number, name in enumerate(names_)
    ]


def test_figures() -> None:
    served = _outcomes("a", "b", "a", "b", "a")
    assert shares(served, ("a", "b", "c")) == (3, 2, 0, 0)
    assert is_even(served, ("a", "b"))
    assert not is_even(served, ("a", "b", "c"))
    assert not is_even(served, ("a",))
    assert not is_even(_outcomes("a", "b", "a", "a"), ("a", "b"))
    assert not is_even(_outcomes("a", "b", "ECONNRESET"), ("a", "b"))
    assert not is_even([], ("a", "b"))
    assert times(served) == ("2.00 ms", "2 ms")
    assert [one.began_s for one in window(served, 1.0, 3.0)] == [1.0, 2.0]
    failed = _outcomes("a", "ECONNRESET", "EPIPE", "ECONNRESET")
    assert shares(failed, ("a",)) == (1, 3)
    assert errors(failed) == "2 ECONNRESET, 1 EPIPE"
    assert errors(served) == ""
    assert times(_outcomes("EPIPE")) == ("-", "-")
