"""A double of systemd's end of $NOTIFY_SOCKET: what it is told, in order."""

import contextlib
import socket
import time
from pathlib import Path


class FakeManager:
    """Listens at `path`. To be closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def next(self, timeout_s: float = 10.0) -> list[str]:
        """The assignments of one datagram. Raises `TimeoutError`."""
        self._socket.settimeout(timeout_s)
        # systemd's NOTIFY_BUFFER_MAX: what is longer is ignored
        data, _, flags, _ = self._socket.recvmsg(4096)
        assert not flags & socket.MSG_TRUNC
        return data.decode().split("\n")

    def until(self, assignment: str, timeout_s: float = 10.0) -> list[str]:
        """The first datagram from now on that has it, or that begins so. Raises `TimeoutError`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            told = self.next(max(deadline_s - time.monotonic(), 0.001))
            if any(one.startswith(assignment) for one in told):
                return told

    def drain(self) -> None:
        """Forget what has been said so far."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()
