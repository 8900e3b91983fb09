"""Clients of the lab: functions to be run on a machine (`Machine.call`), each bounded in number and in time.

A client connects, sends its request at once if it has one, and reads one line: who answers. They are made of epoll and
plain sockets, so that what is measured is not the client.
"""

import errno
import selectors
import socket
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Address = tuple[str, int]
EVERYWHERE = ("",)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one connection. Times in seconds; `name` is "" and `error` says why if nobody answered.

    `began_s`: when it began, on the monotonic clock, which all processes of the machine share. `connect_s`: until the
    connection stood. `first_byte_s`: from its beginning to the first byte of the answer, or to the failure.
    """

    source: str
    name: str
    error: str
    began_s: float
    connect_s: float
    first_byte_s: float


def names(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many connections each backend answered, in the order of their names; failures under their error."""
    return dict(sorted(Counter(outcome.name or outcome.error for outcome in outcomes).items()))


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.error]


def median_first_byte_ms(outcomes: Iterable[Outcome]) -> float:
    return median(outcome.first_byte_s for outcome in outcomes if not outcome.error) * 1000


def connect(
    target: Address,
    count: int = 1,
    *,
    sources: Sequence[str] = EVERYWHERE,
    at_once: int = 1,
    request: bytes = b"",
    timeout_s: float = 10.0,
) -> list[Outcome]:
    """`count` connections, at most `at_once` under way, each closed when it has its answer; sources take turns."""
    clients = (_Client(target, source, request) for source in _in_turn(sources, count))
    crowd = _Crowd(timeout_s)
    return [client.close() for client in crowd.run(clients, at_once=at_once)]


def alternate(targets: Sequence[Address], count: int, *, timeout_s: float = 10.0) -> list[list[Outcome]]:
    """`count` connections to each of the targets, one after another in turn: what disturbs one, disturbs all."""
    clients = (_Client(target, "", b"") for _ in range(count) for target in targets)
    outcomes = [client.close() for client in _Crowd(timeout_s).run(clients, at_once=1)]
    return [outcomes[place :: len(targets)] for place in range(len(targets))]


def each(targets: Sequence[Address], *, source: str = "", timeout_s: float = 10.0) -> dict[Address, Outcome]:
    """One connection to each of the targets, all at once."""
    clients = {target: _Client(target, source, b"") for target in targets}
    for _ in _Crowd(timeout_s).run(iter(clients.values()), at_once=len(targets)):
        pass
    return {target: client.close() for target, client in clients.items()}


def steady(
    target: Address,
    rate_per_s: float,
    duration_s: float,
    *,
    sources: Sequence[str] = EVERYWHERE,
    request: bytes = b"",
    timeout_s: float = 10.0,
) -> list[Outcome]:
    """New connections at a rate, for a time, whatever becomes of them."""
    count = int(rate_per_s * duration_s)
    clients = (_Client(target, source, request) for source in _in_turn(sources, count))
    crowd = _Crowd(timeout_s)
    return [client.close() for client in crowd.run(clients, at_once=count, pause_s=1 / rate_per_s)]


def hold(
    target: Address,
    count: int,
    *,
    sources: Sequence[str] = EVERYWHERE,
    at_once: int = 200,
    timeout_s: float = 10.0,
) -> Generator[list[Outcome], Literal["ping", "close"], None]:
    """Open that many connections and keep them; to be used with `Machine.converse`.

    At "ping" each sends a line, which a "greet" server sends back, and the outcomes are those of this exchange.
    At "close" all are closed.
    """
    crowd = _Crowd(timeout_s)
    clients = list(crowd.run((_Client(target, source, b"") for source in _in_turn(sources, count)), at_once=at_once))
    outcomes = [client.outcome() for client in clients]
    while (yield outcomes) == "ping":
        outcomes = [client.outcome() for client in crowd.run((_again(client) for client in clients), at_once=at_once)]
    yield [client.close() for client in clients]


def _in_turn(sources: Sequence[str], count: int) -> Iterator[str]:
    return (sources[number % len(sources)] for number in range(count))


def _again(client: "_Client") -> "_Client":
    client.ask(b"still here\n")
    return client


class _Client:
    """One connection under way."""

    __slots__ = (
        "_answer",
        "_connected_s",
        "_first_byte_s",
        "_request",
        "began_s",
        "error",
        "finished",
        "sock",
        "source",
    )

    def __init__(self, target: Address, source: str, request: bytes) -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.source = source
        self.error = ""
        self.finished = False
        self._request = request
        self._answer = b""
        self._connected_s = self._first_byte_s = 0.0
        if source:
            # the port is chosen at connect(), so that one source has as many ports for every target
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((source, 0))
        self.began_s = time.monotonic()
        code = self.sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self.fail(errno.errorcode[code])

    def ask(self, request: bytes) -> None:
        """One more exchange on a connection that stands."""
        if self.error:
            return
        self.finished, self._answer, self._first_byte_s = False, b"", 0.0
        self.began_s = self._connected_s = time.monotonic()
        try:
            self.sock.send(request)
        except OSError as error:
            self.fail(_name(error))

    def fail(self, why: str) -> None:
        self.error, self.finished = why, True
        self._first_byte_s = time.monotonic()

    def advance(self) -> None:
        """The socket is ready: connected, or with something to read."""
        try:
            if self._connected_s:
                self._read()
            else:
                self._connected()
        except OSError as error:
            self.fail(_name(error))

    def _connected(self) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "")
        self._connected_s = time.monotonic()
        if self._request:
            self.sock.send(self._request)

    def _read(self) -> None:
        data = self.sock.recv(4096)
        self._first_byte_s = self._first_byte_s or time.monotonic()
        self._answer += data
        if not data:
            self.fail("closed without an answer")
        self.finished = self.finished or self._answer.endswith(b"\n")

    @property
    def awaits(self) -> int:
        return selectors.EVENT_READ if self._connected_s else selectors.EVENT_WRITE

    def outcome(self) -> Outcome:
        name = "" if self.error else self._answer.strip().decode()
        connect_s, first_byte_s = (max(at - self.began_s, 0.0) for at in (self._connected_s, self._first_byte_s))
        return Outcome(self.source, name, self.error, self.began_s, connect_s, first_byte_s)

    def close(self) -> Outcome:
        self.sock.close()
        return self.outcome()


class _Crowd:
    """Clients under way, and the one epoll that drives them."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._selector = selectors.EpollSelector()

    def run(self, clients: Iterator[_Client], *, at_once: int, pause_s: float = 0.0) -> Iterator[_Client]:
        """Start them one by one as there is room, at least `pause_s` apart; each comes out when it has finished."""
        under_way: dict[_Client, int] = {}
        next_s = time.monotonic()
        exhausted = False
        while under_way or not exhausted:
            while not exhausted and len(under_way) < at_once and time.monotonic() >= next_s:
                client = next(clients, None)
                if client is None:
                    exhausted = True
                elif client.finished:
                    yield client
                else:
                    under_way[client] = client.awaits
                    self._selector.register(client.sock, client.awaits, client)
                next_s += pause_s
            wait_s = self._timeout_s if exhausted or len(under_way) >= at_once else max(next_s - time.monotonic(), 0.0)
            yield from self._advance(under_way, wait_s)

    def _advance(self, under_way: dict[_Client, int], wait_s: float) -> Iterator[_Client]:
        for key, _ in self._selector.select(min(wait_s, 0.1)):
            client: _Client = key.data
            client.advance()
            if client.finished:
                yield self._leave(under_way, client)
            elif client.awaits != under_way[client]:
                under_way[client] = client.awaits
                self._selector.modify(client.sock, client.awaits, client)
        oldest_s = time.monotonic() - self._timeout_s
        # in the order of their beginning, so the first one in time ends the search
        for client in list(under_way):
            if client.began_s > oldest_s:
                break
            client.fail("timed out")
            yield self._leave(under_way, client)

    def _leave(self, under_way: dict[_Client, int], client: _Client) -> _Client:
        del under_way[client]
        self._selector.unregister(client.sock)
        return client


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
