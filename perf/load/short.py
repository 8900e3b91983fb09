"""New connections, one request each."""

import select
import socket
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Literal

from perf.load.client import (
    CHUNK,
    PAUSE_S,
    READABLE,
    TICK_S,
    TIMEOUT_S,
    Answers,
    WrongAnswerError,
    dial,
    ended,
    get,
    name_of,
)
from perf.load.result import Address, Result, Tally


def connections(
    target: Address,
    *,
    seconds: float,
    at_once: int,
    sources: Sequence[str] = ("",),
    closes: Literal["server", "client"] = "server",
    path: str = "/",
) -> Result:
    """One GET on each connection, `at_once` under way for so many seconds; sources take turns.

    Who `closes` first: the server, asked by `Connection: close`, or the client, once it has the whole answer. A latency
    is from connect() to the last byte. Those under way at the end are waited for.
    """
    return Connections(target, sources=sources, closes=closes, path=path).run(seconds, at_once)


class Connection:
    """One of them, under way since `began_s`."""

    __slots__ = ("asked", "began_s", "received", "sock")

    def __init__(self, sock: socket.socket, began_s: float) -> None:
        self.sock = sock
        self.began_s = began_s
        self.asked = False
        self.received = b""


class Connections:
    """The load itself, to be run once; `finished` is told of every connection that is done."""

    def __init__(
        self,
        target: Address,
        *,
        sources: Sequence[str] = ("",),
        closes: Literal["server", "client"] = "server",
        path: str = "/",
    ) -> None:
        self._target = target
        self._sources = cycle(sources)
        self._to_the_end = closes == "server"
        self._request = get(target, path, close=self._to_the_end)
        self._answers = Answers()
        self._poll = select.epoll()
        self._tally = Tally()
        # in the order of their beginning
        self._under_way: dict[int, Connection] = {}

    def run(self, seconds: float, at_once: int) -> Result:
        """Bear so many at once for so long."""
        self._tally.begin()
        until_s = self._tally.began_s + seconds
        look_s = 0.0
        while (now_s := time.monotonic()) < until_s or self._under_way:
            while now_s < until_s and len(self._under_way) < at_once:
                if not self._begin():
                    break
            wait_s = TICK_S if len(self._under_way) >= at_once or now_s >= until_s else PAUSE_S
            for descriptor, event in self._poll.poll(wait_s):
                self._go_on(descriptor, event)
            if now_s > look_s:
                look_s = now_s + TICK_S
                self._time_out(now_s - TIMEOUT_S)
        return self._tally.result()

    def finished(self, connection: Connection) -> None:
        """It has its whole answer."""
        self._tally.done(connection.began_s)

    def _begin(self) -> bool:
        began_s = time.monotonic()
        try:
            sock = dial(self._target, next(self._sources))
        except OSError as error:
            self._tally.failed(name_of(error))
            return False
        connection = self._under_way[sock.fileno()] = Connection(sock, began_s)
        try:
            # between namespaces of one machine connect() is over before it returns, though it says EINPROGRESS
            sock.send(self._request)
        except BlockingIOError:
            self._poll.register(sock, select.EPOLLOUT)
            return True
        except OSError as error:
            self._fail(connection, name_of(error))
            return False
        connection.asked = True
        self._poll.register(sock, READABLE)
        return True

    def _go_on(self, descriptor: int, event: int) -> None:
        connection = self._under_way[descriptor]
        try:
            if not connection.asked:
                connection.sock.send(self._request)
                connection.asked = True
                self._poll.modify(descriptor, READABLE)
            elif self._is_over(connection, event):
                self.finished(connection)
                del self._under_way[descriptor]
                connection.sock.close()
        except (OSError, WrongAnswerError) as error:
            self._fail(connection, name_of(error))

    def _is_over(self, connection: Connection, event: int) -> bool:
        data = connection.sock.recv(CHUNK)
        received = connection.received = connection.received + data if connection.received else data
        # with EPOLLRDHUP the end was there before the reading, so a short one has reached it
        at_end = not data or (event & select.EPOLLRDHUP and len(data) < CHUNK)
        whole = (at_end or not self._to_the_end) and self._answers.is_whole(received)
        if at_end and not whole:
            raise ended(received)
        return bool(whole)

    def _time_out(self, before_s: float) -> None:
        for connection in list(self._under_way.values()):
            if connection.began_s > before_s:
                break
            self._fail(connection, "timed out")

    def _fail(self, connection: Connection, why: str) -> None:
        self._tally.failed(why)
        del self._under_way[connection.sock.fileno()]
        connection.sock.close()
