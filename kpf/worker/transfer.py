"""One step of a direction: bytes out of its socket, into the other one, or in hand where there is no room.

Raises OSError where either socket has failed. Rules that are not obvious:
- Never splice into a pipe that holds bytes. With an empty one, EAGAIN can only mean that the socket is dry.
- At an urgent mark a splice goes no further and says EAGAIN, or 0 if the end has come (tcp_read_sock in Linux); only a
  read passes over it. EPOLLPRI tells of the mark, if need be in an event of its own that is still to come.
- The urgent byte is not passed on, unless a later mark has made an ordinary one of it; the mark is not carried over.
- A send that raises EAGAIN has sent nothing, and lost nothing.
"""

import os
import select
import socket

from kpf.shm.region import Words
from kpf.worker.half import EITHER, Half
from kpf.worker.pipes import PIPE_SIZE, PipePool
from kpf.worker.sessions import Sessions
from kpf.worker.states import PENDING, PIPED, SEEN, SPLICING, URGENT

READ_SIZE = 1 << 16
# where splicing is not possible; once the other side was full, READ_SIZE: what it does not take has to be kept
COPY_SIZE = 1 << 18
# a splice below this is small data again
SPLICE_WORTH = 1 << 16

EPOLLOUT = select.EPOLLOUT
# as an integer: the enum's own `|` is a function of Python
DONTWAIT = int(socket.MSG_DONTWAIT)
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Transfer:
    """What all directions of a worker share: a buffer, and the pipes."""

    def __init__(self, sessions: Sessions, words: Words, pipes: PipePool) -> None:
        self._sessions, self._words, self._pipes = sessions, words, pipes
        self._buffer = memoryview(bytearray(COPY_SIZE))

    def flush(self, half: Half) -> bool:
        """Pass on what is in hand. False if the other side is full."""
        peer = half.peer
        try:
            if half.state & PIPED:
                while half.piped:
                    half.piped -= os.splice(half.pipe[0], peer.fd, half.piped, flags=SPLICE_FLAGS)
                self._pipes.give(half.pipe)
            else:
                half.pending = half.pending[peer.send(half.pending, DONTWAIT) :]
                if half.pending:
                    self._want_room(peer)
                    return False
                del half.pending
        except BlockingIOError:
            self._want_room(peer)
            return False
        half.state &= ~(PENDING | PIPED)
        return True

    def copy(self, half: Half) -> bool:
        """Read and send once. False if there is nothing to do for now."""
        peer = half.peer
        try:
            size = half.recv_into(self._buffer, READ_SIZE if peer.mask & EPOLLOUT else COPY_SIZE, DONTWAIT)
        except BlockingIOError:
            # no mark that has come is ahead any more
            half.state &= ~URGENT
            return False
        if not size:
            half.end = half.end or SEEN
            return True
        self._words[half.counter] += size
        try:
            sent = peer.send(self._buffer[:size], DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < size:
            self.keep(half, bytes(self._buffer[sent:size]), 0)
        elif size >= READ_SIZE and self._pipes.has_room:
            self.begin_to_splice(half)
        return True

    def splice(self, half: Half) -> bool:
        """Fill an empty pipe, for `flush`. False if there is nothing to do for now."""
        pipe = self._pipes.take()
        if pipe is None:
            half.state &= ~SPLICING
            return True
        try:
            size = os.splice(half.fd, pipe[1], PIPE_SIZE, flags=SPLICE_FLAGS)
        except BlockingIOError:
            if not half.state & URGENT:
                self._pipes.give(pipe)
                return False
            size = 0
        except OSError:
            self._pipes.give(pipe)
            raise
        if not size:
            # the end, or a mark that epoll has not told of yet: a read knows
            self._pipes.give(pipe)
            half.state &= ~(URGENT | SPLICING)
            return True
        self._words[half.counter] += size
        if size < SPLICE_WORTH:
            half.state &= ~SPLICING
        half.pipe, half.piped = pipe, size
        half.state |= PENDING | PIPED
        return True

    def begin_to_splice(self, half: Half) -> None:
        """What comes is bulk."""
        half.state |= SPLICING
        # SPLICE_F_NONBLOCK is about the pipe only; a backend's socket is made non-blocking, a client's is not
        for one in (half, half.peer):
            if one.gettimeout() != 0:
                one.setblocking(False)

    def send(self, half: Half, data: bytes, flags: int) -> None:
        """Pass on what was read, and keep what there is no room for. Nothing may be in hand."""
        try:
            sent = half.peer.send(data, DONTWAIT | flags)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.keep(half, data, sent)

    def keep(self, half: Half, data: bytes, sent: int) -> None:
        """In hand is what is left of it, until there is room."""
        half.pending = memoryview(data)[sent:]
        half.state |= PENDING
        self._want_room(half.peer)

    def _want_room(self, half: Half) -> None:
        if half.mask & EPOLLOUT:
            return
        half.mask = EITHER
        # a client is watched only after what it has sent so far was passed on
        if self._sessions.halves[half.fd] is half:
            self._sessions.epoll.modify(half.fd, EITHER)
