"""One socket of a session, and the direction that reads from it."""

from __future__ import annotations

import select
import socket

from kpf.shm.balancer import Choice

# EPOLLPRI: a read stops short where urgent data is, so what is told with it is read until dry
READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
EITHER = READABLE | select.EPOLLOUT


class Half(socket.SocketType):
    """One side of a session, and the socket itself: an object less for each. Its bytes go to `peer`.

    `state` and `end`: see `kpf.worker.states`. `pending`, or `piped` bytes in `pipe`: what `state` says of them.
    `mask`: what epoll watches for, or is to. `counter`: the word that counts the bytes of this direction; `moved`:
    those that it does not count yet. `choice`: the member behind a backend's half, None on the client's. `began_ms`:
    when a client was accepted. Attributes that not all have, or rarely use, are set when they are.
    """

    __slots__ = (
        "began_ms",
        "choice",
        "counter",
        "end",
        "fd",
        "mask",
        "moved",
        "peer",
        "pending",
        "pipe",
        "piped",
        "state",
    )

    began_ms: int
    peer: Half
    pending: memoryview
    pipe: tuple[int, int]
    piped: int

    def join(self, fd: int, counter: int, choice: Choice | None) -> None:
        """To be called once, instead of an `__init__` that would have to call the socket's."""
        self.fd = fd
        self.counter = counter
        self.choice = choice
        self.mask = READABLE
        self.state = self.end = self.moved = 0
