"""What the master does when a worker cannot be started, or cannot be spoken to."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kpf.master import process, supervisor, workers
from kpf.master.identity import worker_user
from kpf.master.listening import ListeningSockets
from kpf.master.process import WorkerGoneError, WorkerProcess
from kpf.master.supervisor import State
from kpf.master.workers import Workers
from kpf.net import channel
from kpf.net.messages import Configure, Drain, Listen, Message
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from kpf.worker import signals


def configure(slot: int) -> Configure:
    return Configure(0, slot, 1, os.getuid(), os.getgid(), 1.0)


def scene(play: Callable[[Workers], Coroutine[Any, Any, None]]) -> None:
    """One slot, and nobody left at the end."""

    async def run() -> None:
        made = Workers(Directory(Region.create()), ListeningSockets(1), newborn=configure, slots=range(1))
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


def test_who_is_stuck_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STUCK_S", supervisor.LATE_S)

    async def play(made: Workers) -> None:
        assert made.alive == 0
        await made.start()
        assert made.alive == 1
        # it is killed, and the kernel does not let go of it
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "kill", lambda _: None)
            os.kill(made.slots[0].pid, signal.SIGSTOP)
            watching = asyncio.create_task(made.supervise())
            await until(lambda: made.slots[0].killed)
            assert (made.alive, made.slots[0].state) == (0, State.LATE)
        watching.cancel()

    scene(play)


@pytest.mark.parametrize("others", [False, True])
def test_whose_the_dials_of_all_workers_are(others: bool) -> None:
    async def play() -> None:
        def newborn(slot: int) -> Configure:
            user = os.getuid() + slot * others
            return replace(configure(slot), workers=2, uid=user, gid=user)

        made = Workers(Directory(Region.create()), ListeningSockets(2), newborn=newborn, slots=range(2))
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
            raise OSError(errno.EBADF, "bad file descriptor")
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


@pytest.mark.parametrize("number", sorted(process.SHORTAGES), ids=lambda number: errno.errorcode[number])
def test_a_shortage_delays_what_is_said_and_kills_nobody(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, shortages = channel.send, iter(range(3))

    def short(to: Any, message: Message, descriptors: Any = ()) -> None:
        if isinstance(message, Listen) and next(shortages, None) is not None:
            raise OSError(number, os.strerror(number))
        real(to, message, descriptors)

    monkeypatch.setattr(channel, "send", short)
    monkeypatch.setattr(process, "RETRY_S", 0.01)

    async def play(made: Workers) -> None:
        await made.start()
        pid = made.slots[0].pid
        (worker,) = made._processes.values()
        first, second = worker.send(Listen(7, ())), worker.send(Listen(8, ()))
        await second
        assert first.done()
        assert made.slots[0].pid == pid

    scene(play)
    assert next(shortages, None) is None
    assert caplog.text.count(f"cannot be told anything yet: {os.strerror(number)}") == 1


def test_one_that_dies_while_there_is_a_shortage_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = channel.send

    def short(to: Any, message: Message, descriptors: Any = ()) -> None:
        if isinstance(message, Listen):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        real(to, message, descriptors)

    monkeypatch.setattr(channel, "send", short)

    async def play(made: Workers) -> None:
        await made.start()
        pid = made.slots[0].pid
        (worker,) = made._processes.values()
        answer = worker.send(Listen(7, ()))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerGoneError):
            await answer
        await until(lambda: made.slots[0].state is State.READY and made.slots[0].pid != pid)
        # the timer of the one that is gone would have spoken to a closed channel by now
        await asyncio.sleep(2 * process.RETRY_S)
        assert worker._again is None or worker._again.cancelled()

    scene(play)


def test_a_number_that_is_used_again_is_never_sent() -> None:
    statuses: list[int] = []

    async def run() -> None:
        worker = WorkerProcess(0, on_ready=lambda _: None, on_exit=lambda _, status: statuses.append(status))
        region = Region.create()
        worker.send(configure(0), [region.descriptor])
        first = socket.socket()
        number = first.fileno()
        answer = worker.send(Listen(1, (7,)), [first])
        first.close()
        with socket.socket() as other:
            assert other.fileno() == number
            with pytest.raises(WorkerGoneError):
                await asyncio.wait_for(answer, 10.0)

    asyncio.run(run())
    assert statuses == [-signal.SIGKILL]


@pytest.mark.parametrize(
    ("said", "times"),
    [
        ("[]", 1),
        ('["Done",{"number":7}]', 1),
        # a worker that has been taken over could have itself taken for a fresh one for ever
        ('["Ready",{"pid":1,"uid":0,"privileges":"none"}]', 2),
    ],
)
def test_a_worker_that_talks_nonsense_is_killed(said: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []

    def nonsense(theirs: Any) -> Any:
        sending = f"to = socket.socket(fileno={theirs.fileno()}); [to.send({said.encode()!r}) for _ in range({times})]"
        code = f"import socket, time; {sending}; time.sleep(20)"
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, pass_fds=[theirs.fileno()])

    monkeypatch.setattr(process, "_start", nonsense)

    async def run() -> None:
        WorkerProcess(0, on_ready=lambda _: None, on_exit=lambda _, status: statuses.append(status))
        await until(lambda: statuses != [])

    asyncio.run(run())
    assert statuses == [-signal.SIGKILL]


def test_one_that_is_stuck_while_all_finish_what_they_have_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "LATE_S", 0.8)
    monkeypatch.setattr(supervisor, "STUCK_S", 1.2)

    async def play(made: Workers) -> None:
        await made.start()
        os.kill(made.slots[0].pid, signal.SIGSTOP)
        await asyncio.wait_for(made.drain(), 10.0)

    scene(play)
    assert "is killed: no heartbeat" in caplog.text


def test_a_newborn_is_not_ended_by_what_goes_to_the_process_group() -> None:
    """Not even before the interpreter is up."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    async def play(made: Workers) -> None:
        made.tick()
        for number in signals.IGNORED:
            os.kill(made.slots[0].pid, number)
        await made.start()
        assert made.slots[0].restarts == 0
        blocked = Path(f"/proc/{made.slots[0].pid}/status").read_text().partition("SigBlk:")[2].split()[0]
        assert int(blocked, 16) == 0

    scene(play)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_who_is_killed_at_the_end_is_told_as_that(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(made: Workers) -> None:
        await made.start()
        pid, real = made.slots[0].pid, made._directory.worker
        monkeypatch.setattr(made._directory, "worker", lambda place: replace(real(place), active=3))
        await made.abort("the drain is over")
        assert f"worker 0 (pid {pid}) is killed, the drain is over: 3 connections are cut" in caplog.text

    scene(play)
    assert "died by" not in caplog.text


def test_who_is_killed_at_the_end_and_has_nothing_left_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def play(made: Workers) -> None:
        await made.start()
        await made.abort("the drain is over")

    scene(play)
    assert "died by" not in caplog.text
    assert "is killed" not in caplog.text


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
