"""What a worker does when its master is gone: it serves on until another one has taken over.

The living master holds one of a few abstract sockets (`kpf.master.lock`): it accepts and closes a connection to it once
it has taken over all portals. A stranger may hold another one, and is not listened to.
"""

import contextlib
import select
import socket

from kpf.net import credentials

RETRY_MS = 500


class Orphan:
    """Waits for another master, of root or of the last one's user. `deadline_ms`: when to leave in any case."""

    def __init__(self, epoll: select.epoll, master_uid: int, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms
        self._epoll, self._master_uid = epoll, master_uid
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
        for name in credentials.NAMES:
            # nobody is there yet; its queue is full; descriptors or memory are short: there is a next time
            with contextlib.suppress(OSError):
                self._socket = self._connected(name)
            if self._socket is not None:
                return

    def _connected(self, name: str) -> socket.socket | None:
        """Raises OSError."""
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(name)
            if credentials.peer_of(sock).is_trusted(self._master_uid):
                self._epoll.register(sock, select.EPOLLIN)
                return sock
        except OSError:
            sock.close()
            raise
        sock.close()
        return None

    def is_relieved(self) -> bool:
        """epoll says so of its descriptor: True if another master has taken over, False if that one died before."""
        assert self._socket is not None
        relieved = False
        # a reset: it died with the connection in its queue
        with contextlib.suppress(OSError):
            relieved = self._socket.recv(1) == b""
        self._socket.close()
        self._socket = None
        return relieved
