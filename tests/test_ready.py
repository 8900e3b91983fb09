"""`kpf status --ready`: what a probe asks, what it is told, and what it makes of other answers."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kpf.commands import ready
from kpf.master.own_state import OwnState
from kpf.master.progress import Progress
from kpf.observe.http import Servers, ServerSockets


def state(*, in_charge: bool = True, synced: bool = True, troubles: tuple[str, ...] = (), **flags: bool) -> OwnState:
    """Of a kpf that serves, but for what is given."""
    may_close = asyncio.Event()
    if in_charge:
        may_close.set()
    parts: dict[str, Any] = dict.fromkeys(("node", "kernel", "directory", "workers"))
    # what is asked of them
    parts["source"] = SimpleNamespace(troubles=troubles)
    parts["effects"] = SimpleNamespace(may_close=may_close)
    parts["reconciler"] = SimpleNamespace(progress=Progress(synced=synced))
    made = OwnState(**parts, is_started=True)
    for name, value in flags.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("of", "status", "why"),
    [
        ({}, 200, "ready"),
        ({"is_started": False, "synced": False}, 503, "not all workers are ready"),
        ({"synced": False}, 503, "nothing has been synced yet"),
        ({"synced": False, "troubles": ("no route",)}, 503, "nothing has been synced yet; no route"),
        ({"in_charge": False}, 503, "the kpf before has not left yet"),
        ({"handed_over": True}, 503, "another kpf has taken over"),
        ({"draining": True}, 503, "it drains"),
        # it is known what it serves
        ({"troubles": ("no route",)}, 200, "ready"),
    ],
)
def test_who_is_ready(of: dict[str, Any], status: int, why: str) -> None:
    assert state(**of).ready() == (status, why)


@contextmanager
def served(path: Path, of: OwnState) -> Iterator[None]:
    """Its control socket, as the daemon has it."""
    is_over, begun = threading.Event(), threading.Event()

    async def serve() -> None:
        servers = Servers(ServerSockets())
        await servers.serve_unix(path, {"/ready": of.ready})
        begun.set()
        await asyncio.to_thread(is_over.wait)
        await servers.close()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        assert begun.wait(5.0)
        yield
    finally:
        is_over.set()
        thread.join()


def test_what_the_daemon_says_is_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "control.sock"
    with served(path, state()):
        assert ready.main(str(path)) == 0
    assert capsys.readouterr() == ("", "")
    with served(path, state(handed_over=True)):
        assert ready.main(str(path)) == 1
    assert capsys.readouterr() == ("", "kpf status: not ready: another kpf has taken over\n")
    assert ready.main(str(path)) == 1
    said = f"kpf status: not ready: no daemon answers on {path}: No such file or directory\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP", b"HTTP/1.0 404 Not Found\r\n\r\nwhat?", b"\xff\r\n\r\n", b"220 mail ESMTP\r\n", bytes(9999)],
)
def test_another_answer_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def give() -> None:
            with listener.accept()[0] as asked:
                asked.recv(4096)
                asked.sendall(answer)

        thread = threading.Thread(target=give)
        thread.start()
        assert ready.main(str(path)) == 1
        thread.join()
    assert capsys.readouterr().err == f"kpf status: not ready: what answers on {path} does not tell\n"


def test_who_does_not_answer_is_not_waited_for_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(ready, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert ready.main(str(path)) == 1
    assert capsys.readouterr().err == f"kpf status: not ready: no daemon answers on {path}: timed out\n"


def test_a_probe_loads_next_to_nothing() -> None:
    """The kubelet asks every few seconds, for as long as the node lives."""
    code = "import sys; from kpf import cli; cli.main(['status', '--ready']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "kpf.commands.ready" in loaded
    assert not {"aiohttp", "asyncio", "http.client", "orjson", "pydantic", "rich", "yaml"}.intersection(loaded)
