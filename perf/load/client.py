"""What all clients share: how a connection begins, which errors are counted, and what a whole answer is."""

import errno
import select
import socket

from perf.load.result import Address

# a connection on which nothing happens for so long has failed
TIMEOUT_S = 10.0
# how often clients look whether one has, and how long they wait after a connection that failed at once
TICK_S = 0.1
PAUSE_S = 0.01

CHUNK = 65536
READABLE = select.EPOLLIN | select.EPOLLRDHUP
MAX_HEAD = 16384
MAX_KNOWN_HEADS = 64

CONNECTION_ERRORS = {
    errno.EADDRNOTAVAIL,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ETIMEDOUT,
}


class WrongAnswerError(Exception):
    """The text is the name under which it is counted."""


def name_of(error: OSError | WrongAnswerError) -> str:
    """Under which name it is counted. Raises what is not the fault of a connection."""
    if isinstance(error, WrongAnswerError):
        return str(error)
    if error.errno not in CONNECTION_ERRORS:
        raise error
    return errno.errorcode[error.errno]


def dial(target: Address, source: str = "", *, receive_buffer: int | None = None) -> socket.socket:
    """A connection under way, not waited for. Raises `OSError`."""
    sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    code = _bind(sock, source) or sock.connect_ex(target)
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, f"{target[0]} port {target[1]}")
    return sock


def _bind(sock: socket.socket, source: str) -> int:
    if source:
        # the port is chosen at connect(), so that one source has as many ports for every target
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    return 0


def get(target: Address, path: str, *, close: bool = False) -> bytes:
    """A request; with `close` the server closes after its answer."""
    return _head(f"GET {path}", target, "Connection: close\r\n" if close else "")


def put(target: Address, length: int) -> bytes:
    """The head of a request with a body of so many bytes."""
    return _head("PUT /", target, f"Content-Length: {length}\r\n")


def _head(what: str, target: Address, more: str) -> bytes:
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    return f"{what} HTTP/1.1\r\nHost: {host}:{target[1]}\r\nUser-Agent: kpf-perf\r\n{more}\r\n".encode()


class Answers:
    """How long answers are; heads that are like an earlier one are not read again."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def split(self, data: bytes) -> tuple[int, int] | None:
        """Lengths of the head and of the body of the answer that begins with `data`; None while the head has no end.

        Raises `WrongAnswerError` for anything but status 200 with a Content-Length.
        """
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                raise WrongAnswerError("wrong answer")
            return None
        head = data[:end]
        body = self._known.get(head)
        if body is None:
            body = self._read(head)
        return end + 4, body

    def is_whole(self, data: bytes) -> bool:
        """Whether `data` is one whole answer, and not less. Raises `WrongAnswerError`, also if it is more."""
        lengths = self.split(data)
        if lengths is None:
            return False
        missing = lengths[0] + lengths[1] - len(data)
        if missing < 0:
            raise WrongAnswerError("wrong answer")
        return not missing

    def _read(self, head: bytes) -> int:
        status, *fields = head.lower().split(b"\r\n")
        lengths = [value for name, _, value in (field.partition(b":") for field in fields) if name == b"content-length"]
        if status.split(b" ")[1:2] != [b"200"] or len(lengths) != 1 or not lengths[0].strip().isdigit():
            raise WrongAnswerError("wrong answer")
        # a Date makes a new head every second
        if len(self._known) >= MAX_KNOWN_HEADS:
            self._known.clear()
        self._known[head] = length = int(lengths[0])
        return length


def ended(received: bytes) -> WrongAnswerError:
    """The server has closed before the end of its answer."""
    return WrongAnswerError("answer cut short" if received else "closed without an answer")
