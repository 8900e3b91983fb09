"""What the lab's clients are made of: a connection that asks and reads one line, and the epoll that drives many.

Plain sockets, so that what is measured is not the client.
"""

import errno
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Address = tuple[str, int]

# who is late starts no more at once, so that those under way are heard meanwhile
BURST = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one connection. Times in seconds; `name` is "" and `error` says why if nobody answered.

    `began_s`: when it began, on the monotonic clock, which all processes of the machine share. `connect_s`: until the
    connection stood. `first_byte_s`: from its beginning to the first byte of the answer, or to the failure.
    `client`: the client's address as the server saw it, from servers that tell.
    """

    source: str
    name: str
    error: str
    began_s: float
    connect_s: float
    first_byte_s: float
    client: str = ""


class Asking(Protocol):
    """What a `Crowd` can drive; `began_s` on the monotonic clock."""

    sock: socket.socket
    began_s: float
    finished: bool

    @property
    def awaits(self) -> int:
        """The event of `selectors` that it waits for."""

    def advance(self) -> None:
        """That event has come."""

    def fail(self, why: str) -> None:
        """It has finished without an answer."""


A = TypeVar("A", bound=Asking)


class Client:
    """One connection under way, non-blocking; `source`: its address, "" for whichever the kernel takes.

    `source_port`: several clients may have one, each with another target; 0 for whichever the kernel takes.

    `request`: a line that is sent once the connection stands; the server then has to say its name and send it back.
    `error`: "" as long as it goes well. Raises OSError if the source is not to be had.
    """

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

    def __init__(self, target: Address, source: str = "", source_port: int = 0, request: bytes = b"") -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.source = source
        self.error = ""
        self.finished = False
        self._answer, self._request = b"", request
        self._connected_s = self._first_byte_s = 0.0
        if source_port:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind((source, source_port))
        elif source:
            # the port is chosen at connect(), so that one source has as many ports for every target
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((source, 0))
        self.began_s = time.monotonic()
        code = self.sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self.fail(errno.errorcode[code])

    def ask(self, request: bytes) -> None:
        """One more exchange on a connection that stands: a line, which the server has to send back."""
        if self.error:
            return
        self.finished, self._answer, self._request, self._first_byte_s = False, b"", request, 0.0
        self.began_s = self._connected_s = time.monotonic()
        try:
            self.sock.send(request)
        except OSError as error:
            self.fail(error_name(error))

    def fail(self, why: str) -> None:
        """It has finished, at this moment and without an answer."""
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
            self.fail(error_name(error))

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
        self.finished = self.finished or self._answer.endswith(self._request or b"\n")

    @property
    def awaits(self) -> int:
        """EVENT_WRITE until the connection stands, then EVENT_READ."""
        return selectors.EVENT_READ if self._connected_s else selectors.EVENT_WRITE

    def outcome(self) -> Outcome:
        """Of the last exchange; the connection may stay open for another one."""
        name, _, client = ("" if self.error else self._answer.decode().split("\n")[0]).partition("\t")
        connect_s, first_byte_s = (max(at - self.began_s, 0.0) for at in (self._connected_s, self._first_byte_s))
        return Outcome(self.source, name, self.error, self.began_s, connect_s, first_byte_s, client)

    def close(self) -> Outcome:
        """Answered or not; the outcome is that of the last exchange."""
        self.sock.close()
        return self.outcome()


class Crowd:
    """Clients under way, and the one epoll that drives them."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._selector = selectors.EpollSelector()

    def run(self, clients: Iterator[A], *, at_once: int, pause_s: float = 0.0) -> Iterator[A]:
        """Start them one by one as there is room, at least `pause_s` apart; each comes out when it has finished."""
        under_way: dict[A, int] = {}
        next_s = time.monotonic()
        exhausted = False
        while True:
            for _ in range(BURST):
                if exhausted or len(under_way) >= at_once or time.monotonic() < next_s:
                    break
                client = next(clients, None)
                if client is None:
                    exhausted = True
                elif client.finished:
                    yield client
                else:
                    under_way[client] = client.awaits
                    self._selector.register(client.sock, client.awaits, client)
                next_s += pause_s
            if exhausted and not under_way:
                return
            wait_s = self._timeout_s if exhausted or len(under_way) >= at_once else max(next_s - time.monotonic(), 0.0)
            yield from self._advance(under_way, wait_s)

    def _advance(self, under_way: dict[A, int], wait_s: float) -> Iterator[A]:
        for key, _ in self._selector.select(min(wait_s, 0.1)):
            client: A = key.data
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

    def _leave(self, under_way: dict[A, int], client: A) -> A:
        del under_way[client]
        self._selector.unregister(client.sock)
        return client


def error_name(error: OSError) -> str:
    """As errno has it, "ECONNREFUSED"."""
    return errno.errorcode.get(error.errno or 0, str(error))
