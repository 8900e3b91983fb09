"""Connections that are kept: each is free or has a question under way; one that fails is opened anew."""

import errno
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from itertools import cycle

from perf.load.client import (
    CHUNK,
    PAUSE_S,
    TICK_S,
    TIMEOUT_S,
    Answers,
    WrongAnswerError,
    dial,
    ended,
    get,
    name_of,
)
from perf.load.result import Address, Tally

MAX_DIALS = 100


class Kept:
    """One of them. `since_s`: from when the latency of its question, or its dial's time-out, counts."""

    __slots__ = ("received", "since_s", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.since_s = time.monotonic()
        self.received = b""


class Pool:
    """`missing` connections are still to be opened, `dialled` are being opened, `asked` wait for an answer."""

    def __init__(self, target: Address, connections: int, *, sources: Sequence[str], path: str) -> None:
        self.tally = Tally()
        self.missing = connections
        self.dialled: dict[int, Kept] = {}
        self.free: deque[Kept] = deque()
        self.asked: dict[int, Kept] = {}
        self._all: dict[int, Kept] = {}
        self._target = target
        self._sources = cycle(sources)
        self._request = get(target, path)
        self._answers = Answers()
        self._poll = select.epoll()
        self._dial_s = self._look_s = 0.0

    def open(self) -> None:
        """Open what is missing; what is not open after a while is left for later. Failures are counted."""
        until_s = time.monotonic() + TIMEOUT_S
        while (self.missing or self.dialled) and time.monotonic() < until_s:
            self.wait(PAUSE_S)
        self._time_out(until_s)

    def ask(self, kept: Kept, since_s: float) -> None:
        """Ask on a connection that was taken from the free ones."""
        kept.since_s = since_s
        kept.received = b""
        self.asked[kept.sock.fileno()] = kept
        try:
            kept.sock.send(self._request)
        except OSError as error:
            self._fail(kept, name_of(error))

    def wait(self, timeout_s: float) -> None:
        """Go on with whatever is ready, within `timeout_s`, in steps of 1 ms; open what is missing."""
        now_s = time.monotonic()
        while self.missing and len(self.dialled) < MAX_DIALS and now_s >= self._dial_s:
            self._dial()
        for descriptor, _ in self._poll.poll(min(timeout_s, PAUSE_S if self.missing else TICK_S)):
            self._go_on(descriptor)
        if now_s > self._look_s:
            self._look_s = now_s + TICK_S
            self._time_out(now_s - TIMEOUT_S)

    def wait_finely(self, timeout_s: float) -> None:
        """The same in steps of microseconds, for what must begin in time."""
        ready, _, _ = select.select([self._poll], [], [], max(min(timeout_s, TICK_S), 0.0))
        if ready or self.missing or time.monotonic() > self._look_s:
            self.wait(0)

    def close(self) -> None:
        for kept in self._all.values():
            kept.sock.close()

    def _dial(self) -> None:
        try:
            kept = Kept(dial(self._target, next(self._sources)))
        except OSError as error:
            self._dial_s = time.monotonic() + PAUSE_S
            self.tally.failed(name_of(error))
            return
        self.missing -= 1
        descriptor = kept.sock.fileno()
        self._all[descriptor] = self.dialled[descriptor] = kept
        self._poll.register(descriptor, select.EPOLLOUT)

    def _go_on(self, descriptor: int) -> None:
        kept = self._all[descriptor]
        try:
            if descriptor in self.asked:
                self._read(descriptor, kept)
            elif descriptor in self.dialled:
                self._connected(descriptor, kept)
            else:
                kept.sock.recv(CHUNK)
                raise WrongAnswerError("closed while idle")
        except (OSError, WrongAnswerError) as error:
            self._fail(kept, name_of(error))

    def _read(self, descriptor: int, kept: Kept) -> None:
        data = kept.sock.recv(CHUNK)
        kept.received = kept.received + data if kept.received else data
        if not data:
            raise ended(kept.received)
        if self._answers.is_whole(kept.received):
            self.tally.done(kept.since_s)
            del self.asked[descriptor]
            self.free.append(kept)

    def _connected(self, descriptor: int, kept: Kept) -> None:
        if code := kept.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, errno.errorcode[code])
        del self.dialled[descriptor]
        self.free.append(kept)
        self._poll.modify(descriptor, select.EPOLLIN)

    def _time_out(self, before_s: float) -> None:
        for kept in [one for group in (self.dialled, self.asked) for one in group.values() if one.since_s < before_s]:
            self._fail(kept, "timed out")

    def _fail(self, kept: Kept, why: str) -> None:
        self.tally.failed(why)
        descriptor = kept.sock.fileno()
        del self._all[descriptor]
        if not (self.dialled.pop(descriptor, None) or self.asked.pop(descriptor, None)):
            self.free.remove(kept)
        kept.sock.close()
        self.missing += 1
        self._dial_s = time.monotonic() + PAUSE_S
