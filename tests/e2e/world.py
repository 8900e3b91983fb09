"""What an end-to-end test plays with: the lab, servers for pods, manifests, and the daemon when the test starts one."""

import contextlib
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from kpf.lab.backends import Backends, Mode
from kpf.lab.clients import Address, connect, names
from kpf.lab.daemon import Daemon
from kpf.lab.machine import Machine, wait_until
from kpf.lab.manifests import Manifests, Object, endpoint_slice, service
from kpf.lab.topology import Lab, pod_address

POD_PORT = 8080
METRICS = "127.0.0.1:10249"
# how many pod addresses the pods' host has, of each family
PODS = 60


def scrape(accept: str = "") -> str:
    """All metrics at `METRICS`, as text."""
    request = urllib.request.Request(f"http://{METRICS}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        text: bytes = answer.read()
    return text.decode()


class LastingDaemon(Daemon):
    """The one daemon of those tests of a module that need no new one; `manifests` are those of all of its tests.

    As a context it has the manifests and the configuration that have been written by now, and is not stopped after it.
    """

    def __init__(self, machine: Machine, *args: str) -> None:
        # a Unix socket's path has 107 bytes at most, so not pytest's tmp_path
        self._directory = tempfile.TemporaryDirectory(prefix="kpf-")
        directory = Path(self._directory.name)
        self.manifests = Manifests(directory / "manifests")
        self._said = 0
        metrics = ("--metrics-bind-address", METRICS)
        super().__init__(machine, directory, manifests=self.manifests.directory, args=(*metrics, *args))

    @property
    def runs(self) -> bool:
        """It has been started, and has not ended."""
        return self.process is not None and self.exit_status() is None

    def log(self) -> str:
        """What it has written since the last test."""
        return super().log()[self._said :]

    def __enter__(self) -> Self:
        if self.runs:
            said = len(self.log())
            self.signal(signal.SIGHUP)
            # what the sync before had not read yet is in force with the next one
            read = "configuration and manifests are read anew"
            eventually(lambda: ", in full" in self.log()[said:].partition(read)[2])
        else:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def forget(self) -> None:
        """The manifests of a test that is over, and what was said."""
        for path in self.manifests.directory.iterdir():
            path.unlink()
        if self.runs:
            eventually(lambda: self.status()["services"] == [])
        self._said += len(self.log())

    def close(self) -> None:
        """Stop it if it runs."""
        if self.runs:
            self.stop()
        self._directory.cleanup()


class World:
    """`lasting`: for a test that needs no new daemon, it saves the start; with `daemon`, it is stopped first."""

    def __init__(self, lab: Lab, backends: Backends, directory: Path, lasting: LastingDaemon) -> None:
        self.lab = lab
        self.backends = backends
        self.directory = directory
        self.lasting = lasting
        self.manifests = lasting.manifests

    def pods(self, numbers: Iterable[int], *, family: int = 4, port: int = POD_PORT, mode: Mode = "greet") -> list[str]:
        """Servers on these pods, named by their addresses."""
        addresses = [pod_address(number, family) for number in numbers]
        for address in addresses:
            self.backends.open(address, port, mode=mode)
        return addresses

    def serve(self, name: str, cluster_ip: str, addresses: Sequence[str], **spec: Any) -> None:
        """A file with a Service of one port and its endpoints; see `manifests.service`."""
        self.manifests.write(f"{name}.yaml", *shop(name, cluster_ip, addresses, **spec))

    def daemon(self, *args: str, workers: int = 2) -> Daemon:
        """A daemon for these manifests, not started; as a context it is ready inside and stopped after it."""
        if self.lasting.runs:
            self.lasting.stop()
        return Daemon(self.lab.node, self.directory, manifests=self.manifests.directory, workers=workers, args=args)

    def answers(self, target: Address, count: int = 1, timeout_s: float = 10.0) -> dict[str, int]:
        """Who answers how many connections from outside."""
        return names(self.lab.outside.call(connect, target, count, timeout_s=timeout_s))


def shop(name: str, cluster_ip: str, addresses: Sequence[str], **spec: Any) -> list[Object]:
    """A Service of one port and its EndpointSlice, without one if there are no addresses."""
    spec.setdefault("ports", [{"port": 80}])
    protocol = spec["ports"][0].get("protocol", "TCP")
    slices = [endpoint_slice(name, addresses, port=POD_PORT, protocol=protocol)] if addresses else []
    return [service(name, cluster_ips=[cluster_ip], **spec), *slices]


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> float:
    """Seconds until it held; the test fails if it does not within a time that is no claim, but for a slow machine."""
    return wait_until(condition, timeout_s=timeout_s)


def stopped_child(daemon: Daemon, former: int, *, timeout_s: float = 20.0) -> int:
    """The worker that comes after that one, stopped before it has begun to listen to the master."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        for child in psutil.Process(daemon.pid).children():
            # one may end while it is looked at
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid != former and "kpf.worker" in child.cmdline():
                    child.suspend()
                    return child.pid
    raise TimeoutError("no worker came")
