"""One socket of a session, and the direction that reads from it."""

from __future__ import annotations

import select
import socket

from kpf.shm.balancer import Choice

# EPOLLPRI: a read stops short where urgent data is, so what is told with it is read until dry
READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
EITHER = READABLE | select.EPOLLOUT

# Half.state: 0 is the plain relay with nothing in hand; anything else is looked at off the hot path.
# PENDING: there are bytes that the other side had no room for; PIPED: they are in a pipe.
# NAGLING: the client has sent only once, and the backend's socket does not have TCP_NODELAY yet.
# URGENT: there may be an urgent mark, where a splice stops as if there were no more.
# RESTING: it has had its rounds, and goes on in the next turn.
DIALLING, PENDING, PIPED, SPLICING, DEAD, NAGLING, URGENT, RESTING = 1, 2, 4, 8, 16, 32, 64, 128

# Half.end: whether this side may still send; its end was seen; all bytes and the end were passed on.
OPEN, SEEN, PASSED = 0, 1, 2


class Half(socket.SocketType):
    """One side of a session, and the socket itself: an object less for each. Its bytes go to `peer`.

    `pending`, or `piped` bytes in `pipe`: what `state` says of them. `mask`: what epoll watches for, 0 before it does.
    `counter`: the word that counts the bytes of this direction; `moved`: those that it does not count yet. `choice`:
    the member behind a backend's half, None on the client's. Attributes that are rarely used are set when they are.
    """

    __slots__ = ("choice", "counter", "end", "fd", "mask", "moved", "peer", "pending", "pipe", "piped", "state")

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
