"""A far end of a session: it sends what can be told byte for byte, and holds against the other one what it hears."""

import socket
from contextlib import suppress

from tests.worker_driver import reset

URGENT_BYTE = b"!"
_WHEEL = bytes(number for number in range(256) if number != ord(URGENT_BYTE))
_PATTERN = _WHEEL * (1 + (1 << 20) // len(_WHEEL))


def pattern(begin: int, size: int) -> bytes:
    begin %= len(_WHEEL)
    return _PATTERN[begin : begin + size]


class Far:
    """Our end of a socket. `sent`, `got`: how many bytes, urgent ones apart."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = self.got = 0
        self.has_shut = self.has_reset = self.saw_end = self.saw_reset = False
        sock.setblocking(False)

    @property
    def may_send(self) -> bool:
        return not (self.has_shut or self.has_reset or self.saw_reset)

    @property
    def is_through(self) -> bool:
        return self.has_reset or self.saw_end or self.saw_reset

    def send(self, size: int) -> None:
        """As much of it as there is room for."""
        while size > 0 and self.may_send:
            done = self._sends(pattern(self.sent, min(size, 1 << 18)))
            self.sent += done
            size = size - done if done else 0

    def send_marked(self, size: int) -> None:
        """So much, and an urgent byte."""
        self.send(size)
        if self.may_send:
            self._sends(URGENT_BYTE, socket.MSG_OOB)

    def _sends(self, data: bytes, flags: int = 0) -> int:
        try:
            return self.sock.send(data, flags)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            # it is told once: a read says that this is the end
            self.saw_reset = True
            return 0

    def read(self, size: int) -> bool:
        """So much at most. False if there was nothing."""
        if self.is_through:
            return False
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return False
        except (ConnectionResetError, BrokenPipeError):
            self.saw_reset = True
            return True
        self.saw_end = not data
        told = data.replace(URGENT_BYTE, b"")
        assert told == pattern(self.got, len(told)), "another byte than was sent"
        self.got += len(told)
        return True

    def read_all(self) -> bool:
        """False if there was nothing."""
        is_any = False
        while self.read(1 << 20):
            is_any = True
        return is_any

    def shut(self) -> None:
        """It sends no more."""
        if self.may_send:
            self.has_shut = True
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def send_last(self, size: int) -> None:
        """So much, and that is all."""
        self.send(size)
        self.shut()

    def reset(self) -> None:
        if not self.has_reset:
            self.has_reset = True
            reset(self.sock)
