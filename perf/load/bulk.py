"""Many bytes on few connections, from a server as `perf.serve`, or to it.

What comes is thrown away in the kernel (MSG_TRUNC), so that the client costs as little as it can.
"""

import select
import socket
import time
from collections.abc import Sequence
from itertools import cycle

from perf.load.client import CHUNK, TICK_S, Answers, WrongAnswerError, dial, ended, get, name_of, put
from perf.load.result import Address, Result, Tally

BLOCK = bytes(1 << 20)
SINK = bytearray(1 << 20)


def download(
    target: Address, *, connections: int, bytes_each: int, sources: Sequence[str] = ("",), stall_s: float = 5.0
) -> Result:
    """GET /bytes/N on each connection, all at once; a latency-free result in bytes.

    A transfer is an error if it ends before its time, or after `stall_s` without a byte ("stalled").
    """
    return _transfer(target, [_Download] * connections, bytes_each, sources, stall_s)


def upload(
    target: Address, *, connections: int, bytes_each: int, sources: Sequence[str] = ("",), stall_s: float = 5.0
) -> Result:
    """PUT with a body of N bytes on each connection, all at once; the answer must be how many came."""
    return _transfer(target, [_Upload] * connections, bytes_each, sources, stall_s)


def both(
    target: Address, *, connections: int, bytes_each: int, sources: Sequence[str] = ("",), stall_s: float = 5.0
) -> Result:
    """So many downloads beside as many uploads; the bytes of both count."""
    return _transfer(target, [_Download, _Upload] * connections, bytes_each, sources, stall_s)


class _Transfer:
    """One connection. `awaits`: for which events; `go_on` returns how many bytes went, and sets `over` at the end."""

    def __init__(self, target: Address, source: str, length: int) -> None:
        self.awaits = select.EPOLLOUT
        self.over = False
        self.last_s = time.monotonic()
        self.sock = dial(target, source)
        self._target = target
        self._left = length
        self._length = length
        self._received = b""
        self._asked = False

    def go_on(self) -> int:
        """Raises `OSError`, `WrongAnswerError`."""
        raise NotImplementedError

    def _receive(self) -> None:
        data = self.sock.recv(CHUNK)
        if not data:
            raise ended(self._received)
        self._received += data


class _Download(_Transfer):
    def go_on(self) -> int:
        if not self._asked:
            self.sock.send(get(self._target, f"/bytes/{self._length}"))
            self._asked, self.awaits = True, select.EPOLLIN
            return 0
        before = self._left
        if self._left == self._length:
            self._begin()
        else:
            count = self.sock.recv_into(SINK, len(SINK), socket.MSG_TRUNC)
            if not count:
                raise WrongAnswerError("answer cut short")
            self._left -= count
        if self._left < 0:
            raise WrongAnswerError("wrong answer")
        self.over = not self._left
        return before - self._left

    def _begin(self) -> None:
        self._receive()
        lengths = Answers().split(self._received)
        if lengths is not None:
            head, body = lengths
            if body != self._length:
                raise WrongAnswerError("wrong answer")
            self._left -= len(self._received) - head


class _Upload(_Transfer):
    def go_on(self) -> int:
        if not self._asked:
            self.sock.send(put(self._target, self._length))
            self._asked = True
            return 0
        if self._left:
            count = self.sock.send(BLOCK if self._left >= len(BLOCK) else BLOCK[: self._left])
            self._left -= count
            if not self._left:
                self.awaits = select.EPOLLIN
            return count
        self._receive()
        if Answers().is_whole(self._received):
            if self._received.partition(b"\r\n\r\n")[2].strip() != b"%d" % self._length:
                raise WrongAnswerError("wrong answer")
            self.over = True
        return 0


def _transfer(
    target: Address, kinds: Sequence[type[_Transfer]], bytes_each: int, sources: Sequence[str], stall_s: float
) -> Result:
    poll = select.epoll()
    tally = Tally()
    under_way: dict[int, _Transfer] = {}
    for kind, source in zip(kinds, cycle(sources), strict=False):
        try:
            one = kind(target, source, bytes_each)
        except OSError as error:
            tally.failed(name_of(error))
            continue
        under_way[one.sock.fileno()] = one
        poll.register(one.sock, one.awaits)
    look_s = 0.0
    while under_way:
        now_s = time.monotonic()
        for descriptor, _ in poll.poll(TICK_S):
            _go_on(under_way, descriptor, poll, tally)
        if now_s > look_s:
            look_s = now_s + TICK_S
            for descriptor in [key for key, one in under_way.items() if one.last_s < now_s - stall_s]:
                tally.failed("stalled")
                under_way.pop(descriptor).sock.close()
    return tally.result()


def _go_on(under_way: dict[int, _Transfer], descriptor: int, poll: select.epoll, tally: Tally) -> None:
    one = under_way[descriptor]
    awaited = one.awaits
    try:
        count = one.go_on()
    except (OSError, WrongAnswerError) as error:
        tally.failed(name_of(error))
        under_way.pop(descriptor).sock.close()
        return
    one.last_s = time.monotonic()
    if count:
        tally.got(count)
    if one.over:
        under_way.pop(descriptor).sock.close()
    elif one.awaits != awaited:
        poll.modify(descriptor, one.awaits)
