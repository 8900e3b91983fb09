"""What a worker does when its master is gone: it serves on until another one has taken over.

The abstract socket `kpf` is the lock of the living master (`kpf.master.lock`): that one accepts and closes a
connection to it once it has taken over all portals.
"""

import contextlib
import errno
import select
import socket

ADDRESS = "\0kpf"
RETRY_MS = 500

# nobody is there yet; its queue is full
NOT_YET = {errno.ECONNREFUSED, errno.EAGAIN, errno.ENOENT}


class Orphan:
    """Waits for another master. `deadline_ms`: when to leave in any case."""

    def __init__(self, epoll: select.epoll, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms
        self._epoll = epoll
        self._socket: socket.socket | None = None
        self._next_ms = 0

    @property
    def descriptor(self) -> int:
        """Of the connection to the other master; -1 while there is none."""
        return self._socket.fileno() if self._socket else -1

    def tick(self, now_ms: int) -> None:
        """Look for another master when it is time."""
        if self._socket is not None or now_ms < self._next_ms:
            return
        self._next_ms = now_ms + RETRY_MS
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(ADDRESS)
        except OSError as error:
            sock.close()
            if error.errno not in NOT_YET:
                raise
            return
        self._socket = sock
        self._epoll.register(sock, select.EPOLLIN)

    def is_relieved(self) -> bool:
        """epoll says so of its descriptor: True if another master has taken over, False if that one died before."""
        assert self._socket is not None
        relieved = False
        # a reset: it died with the connection in its queue
        with contextlib.suppress(ConnectionResetError):
            relieved = self._socket.recv(1) == b""
        self._socket.close()
        self._socket = None
        return relieved
