"""What the master does when a worker cannot be started, or cannot be spoken to."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from kpf.master import process, workers
from kpf.master.identity import worker_user
from kpf.master.listeners import Listeners
from kpf.master.process import WorkerGoneError, WorkerProcess
from kpf.master.supervisor import State
from kpf.master.workers import Workers
from kpf.net import channel
from kpf.net.messages import Configure, Drain, Listen, Message
from kpf.shm.directory import Directory
from kpf.shm.region import Region


def configure(slot: int) -> Configure:
    return Configure(0, slot, 1, os.getuid(), os.getgid(), 1.0)


def scene(play: Callable[[Workers], Coroutine[Any, Any, None]]) -> None:
    """One slot, and nobody left at the end."""

    async def run() -> None:
        made = Workers(Directory(Region.create(1)), Listeners(1), newborn=configure, count=1)
        try:
            await asyncio.wait_for(play(made), 20.0)
        finally:
            await made.abort()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("step", ["_start", "_pidfd_of"])
def test_a_worker_that_cannot_be_started_is_tried_again(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = getattr(process, step), iter([errno.EMFILE, errno.EAGAIN])

    def scarce(one: Any) -> Any:
        if number := next(failures, 0):
            if step == "_pidfd_of":
                one.kill()
                one.wait()
            raise OSError(number, os.strerror(number))
        return real(one)

    monkeypatch.setattr(process, step, scarce)

    async def play(made: Workers) -> None:
        await made.start()
        assert made.slots[0].state is State.READY
        assert made.slots[0].restarts == 2

    scene(play)


@pytest.mark.parametrize("others", [False, True])
def test_whose_the_dials_of_all_workers_are(others: bool) -> None:
    async def play() -> None:
        def newborn(slot: int) -> Configure:
            user = os.getuid() + slot * others
            return replace(configure(slot), workers=2, uid=user, gid=user)

        made = Workers(Directory(Region.create(2)), Listeners(2), newborn=newborn, count=2)
        try:
            await made.start()
            assert made.uid() == (None if others else os.getuid())
        finally:
            await made.abort()

    if others and (os.getuid() or worker_user(1) != 1):
        pytest.skip("nobody else is to be had")
    asyncio.run(play())


def test_a_worker_that_dies_before_it_is_ready_does_not_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    real, born = process._start, []

    def fragile(theirs: Any) -> Any:
        born.append(real(theirs))
        if len(born) == 1:
            born[0].kill()
        return born[-1]

    monkeypatch.setattr(process, "_start", fragile)

    async def play(made: Workers) -> None:
        await made.start()
        assert len(born) == 2

    scene(play)


def test_workers_that_never_get_ready_end_the_start_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_S", 0.0)

    async def play(made: Workers) -> None:
        with pytest.raises(TimeoutError, match="not ready within 0 s"):
            await made.start()

    scene(play)


def test_a_worker_that_a_message_cannot_be_sent_to_is_replaced_and_told_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Message] = []
    real = channel.send

    def refusing(to: Any, message: Message, descriptors: Any = ()) -> None:
        sent.append(message)
        if isinstance(message, Listen) and sum(isinstance(one, Listen) for one in sent) == 1:
            raise OSError(errno.ETOOMANYREFS, "too many references")
        real(to, message, descriptors)

    monkeypatch.setattr(channel, "send", refusing)

    async def play(made: Workers) -> None:
        await made.start()
        first = made.slots[0].pid
        (answer,) = [one.send(Listen(7, ()), []) for one in made._processes.values()]
        with pytest.raises(WorkerGoneError):
            await answer
        await until(lambda: made.slots[0].state is State.READY and made.slots[0].pid != first)

    scene(play)
    assert "cannot be spoken to" in caplog.text


def test_a_worker_that_talks_nonsense_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []

    def nonsense(theirs: Any) -> Any:
        code = f"import socket, time; socket.socket(fileno={theirs.fileno()}).send(b'[]'); time.sleep(20)"
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, pass_fds=[theirs.fileno()])

    monkeypatch.setattr(process, "_start", nonsense)

    async def run() -> None:
        WorkerProcess(0, on_ready=lambda _: None, on_exit=lambda _, status: statuses.append(status))
        await until(lambda: statuses != [])

    asyncio.run(run())
    assert statuses == [-signal.SIGKILL]


def test_a_death_by_any_signal_or_none_is_told_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def play(made: Workers) -> None:
        await made.start()
        for number in (signal.SIGRTMIN + 1, signal.SIGKILL):
            pid = made.slots[0].pid
            os.kill(pid, number)
            await until(lambda pid=pid: made.slots[0].pid not in (0, pid))  # type: ignore[misc]
            await until(lambda: made.slots[0].state is State.READY)
        (worker,) = made._processes.values()
        worker.send(Drain(99))
        await until(lambda: made.slots[0].pid not in (0, worker.pid))

    scene(play)
    assert "died by status 0" in caplog.text
    assert f"died by signal {signal.SIGRTMIN + 1}" in caplog.text
