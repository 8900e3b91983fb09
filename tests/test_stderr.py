"""Standard error that nobody reads, or that takes nothing: who writes goes on, and what is lost is counted."""

import contextlib
import fcntl
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from kpf.net import channel
from kpf.net.messages import Drain
from kpf.stderr import QUEUE_BYTES, StandardError

PIPE_BYTES = 64 << 10
NOTE = re.compile(r"(\d+) lines were dropped: nobody read standard error")


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """What is read from, what is written to."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for one in ends:
            os.close(one)


def let_go(end: int) -> None:
    """Close an end of a pipe, but keep its number: nobody else in this process must get it while it may be used."""
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), end)


def fill(descriptor: int) -> None:
    """Until not a byte more goes in. The flag is the description's: whoever shares it must not be using it."""
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"." * size)
    os.set_blocking(descriptor, True)


def read_until(descriptor: int, ending: bytes) -> list[str]:
    """Lines, whatever was there before the first one's end included. Raises `TimeoutError`."""
    data = b""
    while not data.endswith(ending):
        if not select.select([descriptor], [], [], 10.0)[0]:
            raise TimeoutError(f"after {len(data)} bytes nothing that ends with {ending!r}")
        data += os.read(descriptor, 1 << 16)
    return data.decode().splitlines()


def test_what_nobody_reads_is_dropped_and_counted_and_the_order_stays() -> None:
    lines = [f"line {number}" + " " * 100 for number in range(2 * QUEUE_BYTES // 100)]
    with pipe() as (reading, writing):
        fill(writing)
        stderr = StandardError(writing)
        for line in lines:
            print(line, file=stderr)
        first, *kept, note = read_until(reading, b"nobody read standard error\n")
        dropped = NOTE.fullmatch(note)
        assert dropped
        assert [first.lstrip("."), *kept] == lines[: len(lines) - int(dropped[1])]
        assert sum(len(line) + 1 for line in kept) > QUEUE_BYTES - 1000
        for line in lines[:10]:
            print(line, file=stderr)
        assert read_until(reading, f"{lines[9]}\n".encode()) == lines[:10]


def test_what_is_kept_does_not_overtake_what_was_dropped() -> None:
    with pipe() as (reading, writing):
        fill(writing)
        stderr = StandardError(writing)
        for _ in range(2 * QUEUE_BYTES // 100):
            print("early" + " " * 100, file=stderr)
        taken = 0
        # what was in the pipe, and so much more that the queue has room again
        while taken < PIPE_BYTES + QUEUE_BYTES // 4:
            taken += len(os.read(reading, 4096))
        print("late", file=stderr)
        *kept, note = read_until(reading, b"nobody read standard error\n")
        assert NOTE.fullmatch(note)
        assert "late" not in kept
        print("later", file=stderr)
        assert read_until(reading, b"later\n") == ["later"]


def test_a_record_of_several_lines_is_kept_or_dropped_as_a_whole() -> None:
    record = "error it broke\n" + "  a line of a traceback\n" * 3
    with pipe() as (reading, writing):
        fill(writing)
        stderr = StandardError(writing)
        for _ in range(2 * QUEUE_BYTES // len(record)):
            stderr.write(record)
        *kept, note = read_until(reading, b"nobody read standard error\n")
        dropped = NOTE.fullmatch(note)
        assert dropped
        assert len(kept) % 4 == int(dropped[1]) % 4 == 0


def test_a_reader_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpf.stderr.RETRY_S", 0.01)
    with pipe() as (gone, writing), pipe() as (reading, other):
        let_go(gone)
        stderr = StandardError(writing)
        for _ in range(3):
            print("who hears this?", file=stderr)
        began_s = time.monotonic()
        stderr.drain(0.1)
        assert time.monotonic() - began_s < 1.0
        # somebody reads again: a thread that went on trying would write to whatever had the number next
        os.dup2(other, writing)
        *kept, note = read_until(reading, b"nobody read standard error\n")
        dropped = NOTE.fullmatch(note)
        assert dropped
        assert len(kept) + int(dropped[1]) == 3


def test_a_full_disk_is_told_once_there_is_room() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pipe() as (reading, writing):
        descriptor = os.dup(full.fileno())
        try:
            stderr = StandardError(descriptor)
            print("lost", file=stderr)
            stderr.drain(0.1)
            os.dup2(writing, descriptor)
            assert read_until(reading, b"\n") == ["1 lines were dropped: nobody read standard error"]
            print("kept", file=stderr)
            assert read_until(reading, b"\n") == ["kept"]
        finally:
            os.close(descriptor)


def test_somebody_elses_flag_is_honoured_and_left_alone() -> None:
    """O_NONBLOCK belongs to the open file description, which others share."""
    with pipe() as (reading, writing):
        fill(writing)
        os.set_blocking(writing, False)
        stderr = StandardError(writing)
        print("kept", file=stderr)
        assert read_until(reading, b"kept\n")
        assert fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK
        os.set_blocking(writing, True)
        print("kept", file=stderr)
        assert read_until(reading, b"kept\n")
        assert not fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not read"])
def test_a_worker_that_dies_says_why_and_does_not_wait_for_a_reader(is_read: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, pipe() as (reading, writing):
        if not is_read:
            fill(writing)
        with theirs:
            command = [sys.executable, "-m", "kpf.worker", str(theirs.fileno())]
            worker = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=writing)
        let_go(writing)
        said: list[str] = []
        reader = Thread(target=lambda: said.extend(_to_the_end(reading)))
        if is_read:
            reader.start()
        channel.send(ours, Drain(1))
        try:
            assert worker.wait(10.0) == 1
        finally:
            worker.kill()
            worker.wait()
        if is_read:
            reader.join()
            assert said[-1] == "kpf.net.channel.ChannelError: Drain before Configure"


def _to_the_end(descriptor: int) -> list[str]:
    with os.fdopen(os.dup(descriptor)) as file:
        return file.read().splitlines()
