"""`kpf demo` as people run it: its claims hold, it is quick, and it leaves nothing; also with one user id only."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpf.lab import namespace

PLAY = "from kpf.demo import main; raise SystemExit(main())"
# as an ordinary user has it: root in a user namespace of one id, in which nobody else can be become
ONE_ID = f"from kpf.lab import namespace; namespace.enter_user_namespace(); {PLAY}"


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo has its temporary files, alone; a Unix socket's path must be short, so not pytest's tmp_path."""
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@pytest.mark.parametrize("code", [PLAY, ONE_ID], ids=["as we are", "one user id"])
def test_every_claim_holds(scratch: Path, code: str) -> None:
    began_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if "does not let us" in done.stderr:
        pytest.skip(f"the kernel refuses a nested user namespace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    assert done.stdout.isascii()
    assert time.monotonic() - began_s < 30
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    code = f"from kpf.lab import namespace; namespace.enter_user_namespace(); {forbid}; {PLAY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "network namespace" in done.stderr
    assert "Traceback" not in done.stderr
    assert namespace.may_administer_network()
