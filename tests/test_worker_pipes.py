"""Pipes for splicing: few, lent while bytes are in them, and back when somebody else needs them."""

import contextlib
import fcntl
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kpf.worker import lender
from kpf.worker.half import Half
from kpf.worker.lender import KEEPS_PIPE
from kpf.worker.pipes import PIPE_SIZE, PipePool
from kpf.worker.states import PENDING, PIPED, SPLICING
from kpf.worker.sweeper import ROUND_MS, STEPS
from tests.strangers import UID
from tests.worker_driver import Established, established, eventually


def test_pipes_are_few_and_as_large_as_they_must_be() -> None:
    assert [PipePool(workers).limit for workers in (1, 2, 4, 60, 100)] == [32, 30, 15, 1, 0]
    pool = PipePool(30)
    first, second = pool.take(), pool.take()
    assert first
    assert second
    assert pool.take() is None
    assert not pool.has_room
    assert fcntl.fcntl(first[1], fcntl.F_GETPIPE_SZ) == 1 << 20
    pool.give(first)
    assert pool.take() == first
    pool.discard(second)
    assert pool.has_room
    pool.discard(first)


def test_pipes_that_nobody_needs_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pool = PipePool(1)
    taken = [pool.take() for _ in range(3)]
    for pipe in taken:
        assert pipe is not None
        pool.give(pipe)
    pool.trim()
    assert len(os.listdir("/proc/self/fd")) == before + 6, "they were in use a moment ago"
    pipe = pool.take()
    assert pipe is not None
    pool.give(pipe)
    pool.trim()
    assert len(os.listdir("/proc/self/fd")) == before + 2, "one of them was in use again"
    pool.trim()
    assert len(os.listdir("/proc/self/fd")) == before
    assert pool.has_room


def test_a_system_that_gives_no_pipe_is_asked_again_a_round_later() -> None:
    """EMFILE."""
    pool = PipePool(1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert pool.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not pool.has_room, "not before the round is over: to ask costs more than to copy"
    assert pool.take() is None
    pool.trim()
    assert pool.has_room
    pipe = pool.take()
    assert pipe is not None
    pool.discard(pipe)


# a worker and the orphan of another one, of the same user: what one holds of fs.pipe-user-pages-soft, the other lacks
BUDGET = """
import os, sys
from kpf.worker.pipes import PipePool
try:
    os.setresuid({uid}, {uid}, {uid})
except OSError:
    print("no other id")
    sys.exit()
soft = int(open("/proc/sys/fs/pipe-user-pages-soft").read()) * 4096
orphans = [PipePool(1) for _ in range(soft // (32 << 20) + 1)]
held = [(pool, pipe) for pool in orphans for _ in range(32) if (pipe := pool.take())]
pool = PipePool(1)
print(pool.take(), pool.has_room)
for orphan, pipe in held:
    orphan.discard(pipe)
pool.trim()
print(pool.has_room, sum(pool.take() is not None for _ in range(33)))
"""


def test_the_pipes_that_orphans_held_come_back() -> None:
    with open("/proc/sys/fs/pipe-user-pages-soft", encoding="ascii") as file:
        if file.read() == "0\n":
            pytest.skip("this machine has no such limit")
    done = subprocess.run(
        [sys.executable, "-c", BUDGET.format(uid=UID + 1)], capture_output=True, text=True, check=True
    )
    if done.stdout.startswith("no other id"):
        pytest.skip(done.stdout)
    assert done.stdout.splitlines() == ["None False", "True 32"]


# readers that do not read, in this process


@pytest.fixture
def session() -> Iterator[Established]:
    for made in established():
        # the only pipe there is
        made.relay._pipes.limit = 1
        yield made


def turn(session: Established) -> None:
    session.relay.carry(session.sessions.epoll.poll(0))
    session.relay.settle()


def stuffed(session: Established) -> int:
    """The client sends, and nobody reads, until no more goes. Returns how many bytes it was."""
    sent, quiet = 0, 0
    session.far_client.setblocking(False)
    while quiet < 3 or not session.client.state & PIPED:
        try:
            sent += session.far_client.send(bytes(1 << 20))
            quiet = 0
        except BlockingIOError:
            quiet += 1
        turn(session)
    return sent


def steps(session: Established, number: int) -> None:
    for _ in range(number):
        session.clock.now_ms += ROUND_MS // STEPS
        session.sweeper.sweep()


def drained(session: Established, size: int) -> bool:
    got = 0
    session.far_backend.setblocking(False)

    def all_is_there() -> bool:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            while got < size:
                got += len(session.far_backend.recv(1 << 20))
        turn(session)
        return got == size

    eventually(all_is_there, within_s=20)
    return True


def splices(session: Established) -> bool:
    """Bulk the other way, whose reader reads: was there a pipe for it?"""
    real, pipes = session.relay._transfer.splice, []

    def splice(half: Half) -> bool:
        more = real(half)
        if half is session.backend:
            pipes.append(half.state & PIPED)
        return more

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.relay._transfer, "splice", splice)
        got, size = 0, 4 << 20
        session.far_client.setblocking(False)
        sender = threading.Thread(target=session.far_backend.sendall, args=(bytes(size),))
        sender.start()
        while got < size:
            turn(session)
            with contextlib.suppress(BlockingIOError):
                got += len(session.far_client.recv(1 << 20))
        sender.join()
    return any(pipes)


def test_the_pipe_of_a_reader_that_does_not_read_comes_back_and_no_byte_is_lost(session: Established) -> None:
    size = stuffed(session)
    assert not splices(session), "there is no other pipe"
    steps(session, 2)
    assert session.client.state & (PENDING | PIPED | SPLICING) == PENDING
    assert len(session.client.pending) <= PIPE_SIZE
    assert splices(session)
    assert drained(session, size)
    assert not session.client.state & PENDING


def test_a_reader_that_reads_keeps_its_pipe(session: Established) -> None:
    size = stuffed(session)
    for _ in range(3):
        steps(session, 1)
        assert session.client.state & PIPED, session.client.piped
        taken = len(os.read(session.client.pipe[0], KEEPS_PIPE))
        assert taken == KEEPS_PIPE
        session.client.piped -= taken
        size -= taken
    steps(session, 2)
    assert not session.client.state & PIPED
    assert drained(session, size)


def test_while_there_are_other_pipes_nobody_needs_this_one(session: Established) -> None:
    session.relay._pipes.limit = 2
    size = stuffed(session)
    steps(session, 4)
    assert session.client.state & PIPED
    assert drained(session, size)


def test_what_is_kept_in_memory_for_slow_readers_is_bounded(
    session: Established, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = stuffed(session)
    monkeypatch.setattr(lender, "MEMORY_LIMIT", session.client.piped - 1)
    steps(session, 4)
    assert session.client.state & PIPED
    monkeypatch.undo()
    steps(session, 1)
    assert not session.client.state & PIPED
    assert drained(session, size)
