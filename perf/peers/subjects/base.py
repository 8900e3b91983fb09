"""What every subject is: something in the node's place that answers at an address and sends on to the pods."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from kpf.lab.clients import Address
from kpf.lab.machine import Machine, wait_until

# an ordinary user's PATH is often without the places where daemons and nft are
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
WORKERS = 2
MAX_CONNECTIONS = 4000
BACKLOG = 4096
STOPPING_S = 5.0


class SubjectFailedError(RuntimeError):
    """A subject did not start, or does not answer; the text ends with what it said."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where subjects stand: the node, its address, a directory for their files, and the pods they send to."""

    node: Machine
    address: str
    directory: Path
    pods: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A subject at work; `pids` are all its processes by what they are, none where the kernel does it."""

    target: Address
    pids: dict[str, int]
    version: str
    how: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be measured. Two with the same `start` are one thing measured twice.

    `needed`: the packages without which it cannot be. `cases`: those it is there for, all if there are none.
    """

    name: str
    title: str
    start: Callable[[Site], AbstractContextManager[Running]]
    needed: tuple["Needed", ...] = ()
    cases: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The packages that are not there."""
        return [needed.package for needed in self.needed if not needed.there()]


@dataclass(frozen=True, slots=True)
class Needed:
    """A Debian package, and how to know whether what it brings is there."""

    package: str
    there: Callable[[], bool]


def find(program: str) -> str | None:
    """The path of a program, also of one that only root usually looks for."""
    return shutil.which(program, path=SEARCHED)


def program(name: str, package: str) -> Needed:
    return Needed(package, lambda: find(name) is not None)


def say(argv: Sequence[str]) -> str:
    """What a program prints. Raises `SubjectFailedError` if it fails."""
    done = subprocess.run([find(argv[0]) or argv[0], *argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SubjectFailedError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return (done.stdout + done.stderr).strip()


@contextmanager
def process(site: Site, name: str, argv: Sequence[str], port: int, *, children: int = 0) -> Iterator[dict[str, int]]:
    """A program on the node: its pids, once it accepts at the port and has so many children. Ended afterwards.

    Raises `SubjectFailedError` if it ends instead.
    """
    log = site.directory / f"{name}.log"
    with log.open("wb") as output:
        started = site.node.start([find(argv[0]) or argv[0], *argv[1:]], stdout=output, stderr=output)

    def ready() -> bool:
        return len(_children(started.pid)) >= children and _accepts((site.address, port))

    try:
        wait_until(lambda: started.poll() is not None or ready(), what=f"{name} at port {port}")
        if started.poll() is not None:
            raise SubjectFailedError(f"{name} ended with status {started.returncode}\n{log.read_text()}")
        workers = {f"worker {number}": pid for number, pid in enumerate(_children(started.pid))}
        yield {"master" if workers else name: started.pid, **workers}
    finally:
        started.terminate()
        try:
            started.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except ConnectionRefusedError:
        return False
    return True


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []
