"""A real `kpf run` of the lab: started, waited for, asked, stopped, its log kept. Knows only what INTERFACE promises.

Readiness is READY=1 on $NOTIFY_SOCKET; its state is that of `kpf status --json`.
"""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGINT, Signals
from typing import Any

from kpf.lab.machine import Machine, wait_until
from kpf.observe.client import fetch

DEATH = re.compile(r"\(pid (\d+)\) died by .* with (\d+) active connections")


# of one that was killed, workers are not to be there for an hour
HANDOVER_TIMEOUT_S = 60


class DaemonFailedError(RuntimeError):
    """`kpf run` ended, or was not ready in time; the text ends with its log."""


class Daemon:
    """`kpf run` on a machine, with its files in `directory`; usable as a context, ready inside it.

    `args`: more flags; /healthz and /metrics are off unless they name an address. `handover_socket` and
    `control_socket`: where they are, if that is to be told, and if it is not in `directory`. `prefix`: a program that
    runs it. `env`: more of its environment.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        *,
        manifests: Path | None = None,
        workers: int = 2,
        args: Sequence[str] = (),
        handover_socket: Path | None = None,
        control_socket: Path | None = None,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._machine = machine
        self._env = dict(env or {})
        self.control_socket = control_socket or directory / "control.sock"
        self._notify_path = directory / "notify.sock"
        self.log_path = directory / "kpf.log"
        self.argv = [
            *(*prefix, sys.executable, "-m", "kpf", "run", "--control-socket", str(self.control_socket)),
            *("--healthz-bind-address", "", "--metrics-bind-address", "", "--workers", str(workers)),
            *(("--manifests", str(manifests)) if manifests is not None else ()),
            *(("--config", str(_config(directory, handover_socket))) if "--config" not in args else ()),
            *args,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_s = 0.0

    def start(self, timeout_s: float = 20.0) -> "Daemon":
        """Start it and wait for READY=1; `ready_s` is how long that took. Raises `DaemonFailedError`."""
        self._notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log_path.open("ab") as log:
            notify.bind(str(self._notify_path))
            began_s = time.monotonic()
            env = {**os.environ, **self._env, "NOTIFY_SOCKET": str(self._notify_path)}
            self.process = self._machine.start(self.argv, env=env, stdout=log, stderr=log)
            try:
                self._await_ready(notify, began_s + timeout_s)
            except BaseException:
                # and not killed: its workers would wait for another master
                self.stop()
                raise
            self.ready_s = time.monotonic() - began_s
        return self

    def _await_ready(self, notify: socket.socket, deadline_s: float) -> None:
        while time.monotonic() < deadline_s:
            if self.exit_status() is not None:
                raise DaemonFailedError(f"kpf run ended with status {self.exit_status()}\n{self.log()}")
            readable, _, _ = select.select([notify], [], [], 0.02)
            if readable and b"READY=1" in notify.recv(4096).split(b"\n"):
                return
        raise DaemonFailedError(f"kpf run was not ready in time\n{self.log()}")

    @property
    def pid(self) -> int:
        """The master's, once it has been started; still that one's after its end."""
        assert self.process is not None
        return self.process.pid

    def exit_status(self) -> int | None:
        """None while it runs, and before it is started; negative: minus the signal that ended it."""
        return None if self.process is None else self.process.poll()

    def log(self) -> str:
        """What it has written to standard error so far, over restarts."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def status(self) -> dict[str, Any]:
        """What `kpf status --json` prints. Raises `OSError` if the daemon does not answer."""
        return fetch(str(self.control_socket))

    def service(self, name: str) -> dict[str, Any]:
        """The status of a Service of one port, by its name. Raises ValueError if there is not just one, OSError."""
        (found,) = [service for service in self.status()["services"] if service["name"] == name]
        one: dict[str, Any] = found
        return one

    def worker_pids(self) -> list[int]:
        """The live workers' pids, in the order of their slots. Raises `OSError` if the daemon does not answer."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]

    def active_at_deaths(self) -> dict[int, int]:
        """How many connections each worker had that died so far, by pid, as the log tells."""
        return {int(pid): int(active) for pid, active in DEATH.findall(self.log())}

    def wait_for_log(self, text: str, *, timeout_s: float = 20.0, times: int = 1) -> float:
        """Seconds until its log has the text that often. Raises `TimeoutError`."""
        try:
            return wait_until(lambda: self.log().count(text) >= times, timeout_s=timeout_s, what=f"{text!r} in the log")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log()}") from None

    def signal(self, number: Signals) -> None:
        """To the master alone. Not after its end: the pid may be somebody else's then."""
        os.kill(self.pid, number)

    def stop(self, timeout_s: float = 10.0, *, how: Signals = SIGINT) -> int:
        """Stop it, by default at once, and return its exit status. Raises `DaemonFailedError` if it does not end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(how)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonFailedError(f"kpf run went on {timeout_s:g} s after {how.name}\n{self.log()}") from None

    def kill(self) -> None:
        """As if the machine's OOM killer had found it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()

    def __enter__(self) -> "Daemon":
        return self.start() if self.process is None else self

    def __exit__(self, *_: object) -> None:
        if self.exit_status() is None:
            self.stop()


def _config(directory: Path, handover_socket: Path | None) -> Path:
    """A configuration file of what has no flag."""
    fields: dict[str, object] = {"apiVersion": "kpf.io/v1alpha1", "kind": "KpfConfiguration"}
    fields["handoverTimeout"] = HANDOVER_TIMEOUT_S
    if handover_socket is not None:
        fields["handoverSocket"] = str(handover_socket)
    path = directory / "lab.yaml"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path
