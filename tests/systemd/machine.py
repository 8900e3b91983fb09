"""A Debian that runs systemd as its first process, on nothing of this machine's but a cgroup, which goes with it.

It needs root, the image (`tests.systemd.images`), and util-linux. Its network namespace has no link but `lo`.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil

from kpf.lab.machine import Machine, wait_until
from tests.systemd.images import CACHE, image, wheel

BOOT = Path(__file__).parent / "boot.sh"
BOOT_S = 60.0
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class DidNotBootError(RuntimeError):
    """systemd has not come up; the text says what was seen of it."""


class SystemdMachine:
    """Booted when it is made, and killed when it is closed; kpf of this checkout is in /opt/kpf.

    `node` is its network, `files` its root as it is seen from outside. Raises `DidNotBootError`, `CalledProcessError`
    if kpf cannot be installed, and ValueError if its wheel has not been made.
    """

    def __init__(self, release: str) -> None:
        with ExitStack() as made:
            folder = made.enter_context(tempfile.TemporaryDirectory(prefix=f"{release}-", dir=CACHE))
            cgroup = _cgroups() / f"kpf-test-{os.getpid()}-{release}"
            cgroup.mkdir()
            made.callback(_remove, cgroup)
            first = Machine().start(["sh", str(BOOT), str(image(release)), folder, str(cgroup)])
            made.callback(_end, first)
            self._first = first
            self._pid = self._booted()
            self.files = Path(f"/proc/{self._pid}/root")
            network = os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            made.callback(os.close, network)
            self.node = Machine(network)
            self._install()
            self._made = made.pop_all()

    def run(self, *argv: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """A program in it, whatever its status is. Raises `TimeoutExpired`."""
        command = [*self._enter(), *argv]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env={"PATH": PATH}
        )

    def output(self, *argv: str, timeout_s: float = 60.0) -> str:
        """What a program in it prints. Raises `CalledProcessError` unless its status is 0, `TimeoutExpired`."""
        done = self.run(*argv, timeout_s=timeout_s)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
        return done.stdout

    def begin(self, *argv: str) -> "subprocess.Popen[bytes]":
        """Start a program in it; it dies with us, and is not waited for."""
        return Machine().start([*self._enter(), *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """Kill all of it; its processes, mounts and cgroup are gone then, and what it has written."""
        self._made.close()

    def _enter(self) -> Sequence[str]:
        return ("nsenter", f"--target={self._pid}", *NAMESPACES)

    def _booted(self) -> int:
        """The pid of its systemd, here, once its default target is reached."""
        deadline_s = time.monotonic() + BOOT_S
        said = "nothing"
        while time.monotonic() < deadline_s and self._first.poll() is None:
            for child in psutil.Process(self._first.pid).children():
                self._pid = child.pid
                said = self.run("systemctl", "is-system-running").stdout.strip()
                if said in ("running", "degraded"):
                    return child.pid
            time.sleep(0.1)
        raise DidNotBootError(f"is-system-running: {said}; status {self._first.poll()}")

    def _install(self) -> None:
        (self.files / "srv" / wheel().name).write_bytes(wheel().read_bytes())
        pip = ("/opt/kpf/bin/pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall")
        self.output(*pip, f"/srv/{wheel().name}", timeout_s=120.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cgroups() -> Path:
    """Where version 2 of the cgroups is mounted. Raises `StopIteration` if it is nowhere."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return next(Path(line.split()[4]) for line in mounts if " - cgroup2 " in line)


def _end(first: "subprocess.Popen[bytes]") -> None:
    # the first process of its pid namespace dies with unshare, and all others with that one
    first.kill()
    first.wait()


def _remove(cgroup: Path) -> None:
    """Once nobody is in it: the dead are for a moment."""
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(encoding="ascii"), what="an empty cgroup")
    for folder, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(folder)
