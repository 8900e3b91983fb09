"""`python -m perf.serve ADDRESS...`: the backends of a measurement, in one process.

A small HTTP/1.1 server on epoll that costs as little as Python allows, so that it does not hide the proxy before it.

    GET /         the server's name, which is the ADDRESS (ip:port) that it listens on, padded to a body of 128 bytes
    GET /bytes/N  N zero bytes, at most 1 TiB
    PUT, POST     reads a body with a Content-Length and answers how many bytes came

Connections are kept unless the request says `Connection: close`; requests may be pipelined. A head has at most 8 KiB.
It says on standard output when it listens, and serves until it is killed.
"""

import errno
import select
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kpf.lab.forks import raise_descriptor_limit
from perf import address, options
from perf.load.result import Address

BODY_SIZE = 128
MAX_HEAD = 8192
MAX_BYTES = 1 << 40
MAX_KNOWN_REQUESTS = 256
BACKLOG = 4096
ACCEPTS_AT_ONCE = 64
CHUNK = 65536
BLOCK = bytes(1 << 18)
SINK = bytearray(1 << 20)

CLIENT_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH}


class BadRequestError(Exception):
    """What cannot be read; the text is the status of the answer, after which the connection is closed."""


@dataclass(frozen=True, slots=True)
class Request:
    """A head, read: the length of its body, whether to close after the answer, and what the answer is.

    `pour`: how many bytes "bytes" asks for. `status` is that of "status" alone.
    """

    body: int
    close: bool
    answer: Literal["name", "bytes", "count", "status"]
    pour: int = 0
    status: str = ""


def parse(head: bytes) -> Request:
    """Read a head, without the empty line at its end. Raises `BadRequestError`."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not all(b":" in line for line in lines):
        raise BadRequestError("400 Bad Request")
    method, path, version = words
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if b"transfer-encoding" in fields:
        raise BadRequestError("501 Not Implemented")
    length = fields.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BYTES:
        raise BadRequestError("400 Bad Request")
    connection = fields.get(b"connection", b"").lower()
    close = connection == b"close" or (version == b"HTTP/1.0" and connection != b"keep-alive")
    return _route(method, path, int(length), close)


def _route(method: bytes, path: bytes, body: int, close: bool) -> Request:
    if method in (b"PUT", b"POST"):
        return Request(body, close, "count")
    if method != b"GET":
        return Request(body, close, "status", status="405 Method Not Allowed")
    if path == b"/":
        return Request(body, close, "name")
    count = path.removeprefix(b"/bytes/")
    if count != path and count.isdigit() and int(count) <= MAX_BYTES:
        return Request(body, close, "bytes", pour=int(count))
    return Request(body, close, "status", status="404 Not Found")


def answer(body: bytes = b"", *, length: int | None = None, close: bool, status: str = "200 OK") -> bytes:
    """A head and a body, or only the head of a body of that length."""
    end = "Connection: close\r\n\r\n" if close else "\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{end}".encode() + body


class Site:
    """What is the same for all connections of one address; requests that are like an earlier one are not read again."""

    def __init__(self, name: str) -> None:
        body = name.encode().ljust(BODY_SIZE - 1) + b"\n"
        self._greetings = {close: answer(body, close=close) for close in (False, True)}
        self._known: dict[bytes, Request] = {}

    def read(self, head: bytes) -> Request:
        """Raises `BadRequestError`."""
        request = self._known.get(head)
        if request is None:
            request = parse(head)
            if len(self._known) >= MAX_KNOWN_REQUESTS:
                self._known.clear()
            self._known[head] = request
        return request

    def answer(self, request: Request) -> bytes:
        """What is sent first; the bytes that are asked for come after it."""
        if request.answer == "name":
            return self._greetings[request.close]
        if request.answer == "bytes":
            return answer(length=request.pour, close=request.close)
        if request.answer == "count":
            return answer(b"%d\n" % request.body, close=request.close)
        return answer(close=request.close, status=request.status)


class Connection:
    """One client. `_request` is the one whose body is being read or whose answer is being sent."""

    __slots__ = ("_body_left", "_out", "_pour", "_received", "_request", "_site", "awaits", "sock")

    def __init__(self, sock: socket.socket, site: Site) -> None:
        self.sock = sock
        self.awaits = select.EPOLLIN
        self._site = site
        self._received = b""
        self._request: Request | None = None
        self._body_left = 0
        self._out = b""
        self._pour = 0

    def go_on(self) -> int:
        """Go on as far as it goes; for which event to wait then, or 0 if the connection is over. Raises `OSError`."""
        if self.awaits == select.EPOLLIN and not self._read():
            return 0
        try:
            return self._serve()
        except BadRequestError as error:
            self._received = b""
            self._request = Request(0, True, "status", status=str(error))
            self._out = self._site.answer(self._request)
            return self._serve()

    def _read(self) -> bool:
        if self._body_left:
            count = self.sock.recv_into(SINK, min(self._body_left, len(SINK)), socket.MSG_TRUNC)
            self._body_left -= count
            return bool(count)
        data = self.sock.recv(CHUNK)
        self._received += data
        return bool(data)

    def _serve(self) -> int:
        while self._request is not None or self._next():
            request = self._request
            assert request is not None
            if self._body_left:
                return select.EPOLLIN
            if not (self._out or self._pour):
                self._out = self._site.answer(request)
                self._pour = request.pour
            if not self._flush():
                return select.EPOLLOUT
            if request.close:
                return 0
            self._request = None
        return select.EPOLLIN

    def _next(self) -> bool:
        """Take the next request from what was received, with what is there of its body."""
        if not self._received:
            return False
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise BadRequestError("431 Request Header Fields Too Large")
        if not end:
            return False
        self._request = request = self._site.read(head)
        self._body_left = request.body
        if request.body and rest:
            self._body_left -= min(request.body, len(rest))
            rest = rest[request.body :]
        self._received = rest
        return True

    def _flush(self) -> bool:
        """Send what is to be sent, of many bytes one block; whether that was all."""
        try:
            if self._out:
                self._out = self._out[self.sock.send(self._out) :]
            if self._pour and not self._out:
                self._pour -= self.sock.send(BLOCK if self._pour >= len(BLOCK) else BLOCK[: self._pour])
        except BlockingIOError:
            return False
        return not (self._out or self._pour)


class Server:
    """All addresses and their connections. Raises `OSError` if it cannot listen, or if descriptors run out."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._listeners: dict[int, tuple[socket.socket, Site]] = {}
        for one in addresses:
            listener = _listen(one)
            self._listeners[listener.fileno()] = (listener, Site(address.show(one)))
            self._poll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                connection = self._connections.get(descriptor)
                if connection is None:
                    self._accept(*self._listeners[descriptor])
                else:
                    self._go_on(descriptor, connection)

    def _accept(self, listener: socket.socket, site: Site) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            self._connections[sock.fileno()] = Connection(sock, site)
            self._poll.register(sock, select.EPOLLIN)

    def _go_on(self, descriptor: int, connection: Connection) -> None:
        try:
            awaits = connection.go_on()
        except OSError as error:
            if error.errno not in CLIENT_GONE:
                raise
            awaits = 0
        if not awaits:
            del self._connections[descriptor]
            connection.sock.close()
        elif awaits != connection.awaits:
            connection.awaits = awaits
            self._poll.modify(descriptor, awaits)


def _listen(where: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    listener = socket.create_server(where, family=family, backlog=BACKLOG)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def main() -> int:
    """Serve; 2 if an address is none or cannot be listened on."""
    parser = options.documented("serve", __doc__ or "")
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="ip:port or [ip]:port to listen on")
    raise_descriptor_limit()
    try:
        addresses = [address.parse(text) for text in parser.parse_args().addresses]
        server = Server(addresses)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("listening on", *(address.show(one) for one in addresses), flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
