"""One socket of a session, and the direction that reads from it."""

from __future__ import annotations

import select
import socket

from kpf.shm.balancer import Choice

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
EITHER = READABLE | select.EPOLLOUT

# Half.state: 0 is the plain relay with nothing in hand; anything else is looked at off the hot path.
# PENDING: there are bytes that the other side had no room for; PIPED: they are in a pipe.
DIALLING, PENDING, PIPED, SPLICING, DEAD, FAILED = 1, 2, 4, 8, 16, 32

# Half.end: whether this side may still send; its end was seen; all bytes and the end were passed on.
OPEN, SEEN, PASSED = 0, 1, 2


class Half:
    """`sock` is one side of a session, `peer` the half of the other side: bytes go from `sock` to `peer.sock`.

    `pending`, or `piped` bytes in `pipe`: what `state` says of them. `mask`: what epoll watches for, 0 before it does.
    `counter`: the word that counts the bytes of this direction. `choice`: the member behind a backend's half, None on
    the client's. Attributes that are rarely used are set when they are: an instance costs each connection.
    """

    __slots__ = ("choice", "counter", "end", "fd", "mask", "peer", "pending", "pipe", "piped", "sock", "state")

    peer: Half
    pending: memoryview
    pipe: tuple[int, int]
    piped: int

    def __init__(self, sock: socket.SocketType, fd: int, counter: int, choice: Choice | None, mask: int) -> None:
        self.sock = sock
        self.fd = fd
        self.counter = counter
        self.choice = choice
        self.mask = mask
        self.state = self.end = 0
