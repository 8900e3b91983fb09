"""What is under load, and from where."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kpf.lab.machine import Machine
from kpf.observe.client import fetch
from perf import address
from perf.load.result import Address

TIMEOUT_S = 5.0


class SubjectError(RuntimeError):
    """It cannot be measured; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A Service or server at `target`, with clients on a machine and at its addresses `sources`.

    `control_socket` is that of the kpf before it, "" if there is none to be asked. `manifest` is the file with the
    Service's EndpointSlice that this kpf reads, in a world of our own.
    """

    target: Address
    clients: Machine
    sources: Sequence[str] = ("",)
    control_socket: str = ""
    manifest: Path | None = None

    def check(self) -> None:
        """Raises `SubjectError` if it does not accept connections, or if the kpf does not answer."""
        try:
            socket.create_connection(self.target, timeout=TIMEOUT_S).close()
        except OSError as error:
            raise SubjectError(f"{address.show(self.target)}: {error.strerror or error}") from None
        if self.control_socket:
            self.workers()

    def status(self) -> dict[str, Any]:
        """What `kpf status --json` prints. Raises `SubjectError`."""
        try:
            return fetch(self.control_socket)
        except OSError as error:
            raise SubjectError(f"no kpf answers on {self.control_socket}: {error.strerror or error}") from None

    def workers(self) -> list[psutil.Process]:
        """The live workers of the kpf, in the order of their slots: one or more. Raises `SubjectError`."""
        found = [worker_process(one["pid"]) for one in self.status()["workers"] if one["pid"]]
        if not found:
            raise SubjectError(f"the kpf on {self.control_socket} has no live worker")
        return found

    def master(self) -> psutil.Process:
        """Raises `SubjectError`."""
        parent = self.workers()[0].parent()
        if parent is None:
            raise SubjectError("the workers of kpf have lost their master")
        return parent


def worker_process(pid: int) -> psutil.Process:
    """Raises `SubjectError`: a pid of another namespace is somebody else here."""
    try:
        process = psutil.Process(pid)
        if "kpf.worker" in process.cmdline():
            return process
    except psutil.NoSuchProcess:
        pass
    raise SubjectError(f"pid {pid} is no worker of kpf here: does that kpf run in another pid namespace?")
