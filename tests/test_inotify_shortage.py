"""inotify is short of something: files are looked at all the same, and what is short is said.

In a user namespace with limits of its own (namespaces(7), /proc/sys/user), so that nobody else is short of anything.
"""

import asyncio
import logging
import os
import resource
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from pathlib import Path

import pytest
from asyncinotify import Inotify
from pyroute2 import IPRoute

from kpf.lab import namespace
from kpf.lab.daemon import Daemon
from kpf.lab.machine import CallFailedError, Machine, wait_until
from kpf.lab.manifests import Manifests, service
from kpf.sources import inotify
from kpf.sources.inotify import changes_of

LIMITS = {name: Path(f"/proc/sys/user/max_inotify_{name}") for name in ("instances", "watches")}
ENOUGH = 64
LOOK_S = 0.2


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("kpf").addHandler(self)
        logging.getLogger("kpf").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


async def _next(changes: AsyncIterator[None]) -> float:
    """Seconds until the next notice."""
    began_s = time.monotonic()
    await asyncio.wait_for(anext(changes), 10.0)
    return time.monotonic() - began_s


async def _scene(directory: str, take: Callable[[], None], give_back: Callable[[], None]) -> list[float]:
    inotify.LOOK_S = LOOK_S
    take()
    changes = changes_of(directory, lambda _: True)
    took_s = [await _next(changes) for _ in range(3)]
    give_back()
    # it is watched again
    took_s.append(await _next(changes))
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(noticed := asyncio.ensure_future(anext(changes))), 1.5 * LOOK_S)
        raise AssertionError("nothing has changed")
    began_s = time.monotonic()
    Path(directory, "new").touch()
    await asyncio.wait_for(noticed, 10.0)
    took_s.append(time.monotonic() - began_s)
    return took_s


def short_of_kernel(what: str) -> tuple[list[str], list[float]]:
    namespace.enter_user_namespace()
    said = Lines()
    with tempfile.TemporaryDirectory() as directory:
        took_s = asyncio.run(
            _scene(directory, lambda: _limit(what, 0), lambda: _limit(what, ENOUGH)),
        )
        return [line.replace(directory, "DIR") for line in said.lines], took_s


def _limit(what: str, number: int) -> None:
    LIMITS[what].write_text(str(number), encoding="ascii")


def short_of_descriptors() -> tuple[list[str], list[float]]:
    said, taken = Lines(), list[int]()

    def take() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        # enough for one of the two that the library takes
        os.close(taken.pop())

    def give_back() -> None:
        while taken:
            os.close(taken.pop())

    with tempfile.TemporaryDirectory() as directory:
        before = len(os.listdir("/proc/self/fd"))
        took_s = asyncio.run(_scene(directory, take, give_back))
        # it is closed beside the loop
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, what="no descriptor was leaked")
        return [line.replace(directory, "DIR") for line in said.lines], took_s


def call(function: Callable[..., tuple[list[str], list[float]]], *args: str) -> tuple[list[str], list[float]]:
    try:
        return Machine().call(function, *args)
    except CallFailedError as error:
        if "NamespaceRefusedError" in str(error):
            pytest.skip("no user namespace of our own")
        raise


@pytest.mark.parametrize(
    ("short", "sysctl"),
    [("instances", "fs.inotify.max_user_instances"), ("watches", "fs.inotify.max_user_watches"), ("", "RLIMIT_NOFILE")],
)
def test_without_inotify_it_is_looked_again_and_again(short: str, sysctl: str) -> None:
    said, took_s = call(short_of_kernel, short) if short else call(short_of_descriptors)
    warning, info = said
    assert warning.startswith("WARNING DIR is looked at every 0.2 s, changes are not noticed at once: no ")
    assert sysctl in warning
    assert info == "INFO DIR is watched by inotify again"
    first, *looks, noticed = took_s
    assert first < LOOK_S
    assert all(0.9 * LOOK_S < one < 1.0 for one in looks)
    assert noticed < 1.0


def a_daemon(directory: Path) -> Generator[tuple[float, str], str, None]:
    """A real one, without any instance at first. Each time: seconds until it knew of a new Service, and its log."""
    namespace.enter_user_namespace()
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
    _limit("instances", 0)
    manifests = Manifests(directory / "manifests")
    with Daemon(Machine(), directory, manifests=manifests.directory, workers=1) as daemon:
        for number in range(2):
            manifests.write(f"{number}.yaml", service(f"web-{number}", cluster_ips=[f"10.96.0.{number + 1}"]))
            seen_s = wait_until(lambda: len(daemon.status()["services"]) > number)  # noqa: B023
            yield seen_s, daemon.log()
            _limit("instances", ENOUGH)
            daemon.wait_for_log("is watched by inotify again")


def test_a_daemon_starts_without_any_inotify_instance() -> None:
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        try:
            conversation = Machine().converse(a_daemon, Path(directory))
        except CallFailedError as error:
            if "NamespaceRefusedError" in str(error):
                pytest.skip("no user namespace of our own")
            raise
        with conversation:
            seen_s, said = conversation.first
            assert seen_s < 2.0
            assert said.count("fs.inotify.max_user_instances") == 1
            seen_s, said = conversation.send("go on")
            assert seen_s < 1.0
            assert said.count("fs.inotify.max_user_instances") == said.count("is watched by inotify again") == 1


def test_nobody_waits_until_the_kernel_lets_go_of_inotify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While any program is busy within the kernel, close(2) of an inotify instance takes as long."""
    let_go, is_closed = threading.Event(), threading.Event()

    class Slow(Inotify):
        def close(self) -> None:
            let_go.wait(10.0)
            super().close()
            is_closed.set()

    monkeypatch.setattr(inotify, "Inotify", Slow)

    async def scene() -> None:
        changes = changes_of(str(tmp_path), lambda _: True)
        await anext(changes)
        await changes.aclose()  # type: ignore[attr-defined]

    began_s = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - began_s < 2.0
    let_go.set()
    assert is_closed.wait(5.0)
