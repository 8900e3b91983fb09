"""Carries bytes between the two sockets of a session: the hot path.

Small data by recv and send, bulk by splice. Registered once with epoll, edge-triggered: who is woken reads until the
socket is dry or the other side is full. Rules that are not obvious:
- Never splice into a pipe that holds bytes. With an empty one, EAGAIN can only mean that the socket is dry.
- A short read means dry only without EPOLLRDHUP. With it, it means that the end comes next: what epoll says was so
  before the read. Neither is so with an error, or with urgent data.
- At an urgent mark a splice goes no further and says EAGAIN, or 0 if the end has come (tcp_read_sock in Linux); only a
  read passes over it. EPOLLPRI tells of the mark, if need be in an event of its own that is still to come.
- The urgent byte is not passed on, unless a later mark has made an ordinary one of it; the mark is not carried over.
- A send that raises EAGAIN has sent nothing, and lost nothing.
- The end of a stream is passed on once, after all its bytes; shutdown may raise ENOTCONN while data is still unread,
  which is no reason to close.
- A backend's socket gets TCP_NODELAY before the client sends for the second time: the first send never waits, for
  Nagle's rule is about small segments behind a small one that is not acknowledged (tcp_nagle_check in Linux).
"""

import contextlib
import os
import select
import socket
from collections.abc import Callable

from kpf.shm.region import Words
from kpf.worker.half import (
    DEAD,
    DIALLING,
    EITHER,
    NAGLING,
    PASSED,
    PENDING,
    PIPED,
    RESTING,
    SEEN,
    SPLICING,
    URGENT,
    Half,
)
from kpf.worker.pipes import PIPE_SIZE, PipePool
from kpf.worker.sessions import Sessions

READ_SIZE = 1 << 16
# where splicing is not possible; once the other side was full, READ_SIZE: what it does not take has to be kept
COPY_SIZE = 1 << 18
# a splice below this is small data again
SPLICE_WORTH = 1 << 16
# rounds in one direction before others get their turn
ROUNDS = 16

EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR = select.EPOLLIN, select.EPOLLPRI, select.EPOLLOUT, select.EPOLLERR
EPOLLHUP, EPOLLRDHUP = select.EPOLLHUP, select.EPOLLRDHUP
LAST = EPOLLIN | EPOLLRDHUP
# as integers: the enum's own `|` is a function of Python
DONTWAIT, MORE = int(socket.MSG_DONTWAIT), int(socket.MSG_MORE)
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds


class Relay:
    """Moves what sockets have to say. `on_dial` is told of backends' sockets that are not connected yet.

    `again`: directions that have used up their rounds, and go on in the next turn.
    """

    on_dial: Callable[[Half, int], None]

    def __init__(self, sessions: Sessions, words: Words, pipes: PipePool) -> None:
        self._sessions, self._words, self._pipes = sessions, words, pipes
        self._buffer = memoryview(bytearray(COPY_SIZE))
        self.again: list[Half] = []

    # the hot path

    def carry(self, batch: list[tuple[int, int]]) -> list[int]:
        """Serve the sessions among what epoll says is ready. Returns the other descriptors."""
        halves, others = self._sessions.halves, []
        for descriptor, events in batch:
            half = halves[descriptor]
            if half is None:
                others.append(descriptor)
                continue
            if events != EPOLLIN or half.state:
                if events & EPOLLOUT and not half.state & DIALLING and not half.peer.state & PENDING:
                    # sockets that were waited for, or full, go on being told of room; nobody needs it
                    events ^= EPOLLOUT
                if events & ~EPOLLHUP == LAST and not half.state & ~NAGLING:
                    self._last(half)
                    continue
                if events != EPOLLIN or half.state:
                    self._attend(half, events)
                    continue
            data = b""
            try:
                data = half.recv(READ_SIZE, DONTWAIT)
                if not data:
                    self._sessions.end(half)
                    continue
                size = len(data)
                half.moved += size
                sent = half.peer.send(data, DONTWAIT)
                if sent < size:
                    self._keep(half, data, sent)
                elif size == READ_SIZE:
                    self._in_bulk(half)
            except BlockingIOError:
                if data:
                    self._keep(half, data, 0)
            except OSError:
                self.fail(half)
        return others

    def _last(self, half: Half) -> None:
        """Pass on the last of a direction, its last bytes and its end in one segment."""
        try:
            data = half.recv(READ_SIZE, DONTWAIT)
            size = len(data)
            half.moved += size
            if size == READ_SIZE:
                self._send(half, data, 0)
                self.pump(half)
                return
            if size:
                self._send(half, data, MORE if half.peer.end != PASSED else 0)
            if half.state & PENDING:
                half.end = SEEN
            else:
                self._sessions.end(half)
        except BlockingIOError:
            return
        except OSError:
            self.fail(half)

    # off the hot path

    def _attend(self, half: Half, events: int) -> None:
        if half.state & DIALLING:
            self.on_dial(half, events)
            if half.state & (DIALLING | DEAD) or not events & EPOLLPRI:
                return
        if events & EPOLLPRI:
            half.state |= URGENT
        if events & EPOLLERR and half.state & PENDING:
            # no use in waiting for room on the other side
            self.fail(half)
            return
        if events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP):
            self.pump(half)
        if events & EPOLLERR and half.end:
            # after a FIN, a read says nothing of the reset (sock_error comes after SOCK_DONE in tcp_recvmsg)
            self.fail(half)
        if events & EPOLLOUT and not half.state & DEAD and half.peer.state & PENDING:
            self.pump(half.peer)

    def pump(self, half: Half) -> None:
        """Move bytes in this direction until the source is dry or the other side is full."""
        if half.state & (DEAD | RESTING):
            return
        try:
            if half.state & NAGLING:
                half.state &= ~NAGLING
                half.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(ROUNDS):
                if half.state & PENDING and not self._flush(half):
                    return
                if half.end:
                    self._sessions.end(half)
                    return
                if not (self._splice(half) if half.state & SPLICING else self._copy(half)):
                    return
            half.state |= RESTING
            self.again.append(half)
        except OSError:
            self.fail(half)

    def _flush(self, half: Half) -> bool:
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

    def _copy(self, half: Half) -> bool:
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
            self._keep(half, bytes(self._buffer[sent:size]), 0)
        elif size >= READ_SIZE and self._pipes.has_room:
            self._begin_to_splice(half)
        return True

    def _splice(self, half: Half) -> bool:
        """Fill an empty pipe, for `_flush`. False if there is nothing to do for now."""
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

    def _in_bulk(self, half: Half) -> None:
        if self._pipes.has_room:
            self._begin_to_splice(half)
        self.pump(half)

    def _begin_to_splice(self, half: Half) -> None:
        half.state |= SPLICING
        # SPLICE_F_NONBLOCK is about the pipe only; a backend's socket is made non-blocking, a client's is not
        for one in (half, half.peer):
            if one.gettimeout() != 0:
                one.setblocking(False)

    def _send(self, half: Half, data: bytes, flags: int) -> None:
        try:
            sent = half.peer.send(data, DONTWAIT | flags)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._keep(half, data, sent)

    def _keep(self, half: Half, data: bytes, sent: int) -> None:
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

    # beginning and end

    def watch_again(self, now_ms: int) -> None:
        """Try again to have all sockets watched, and end the sessions for which that has taken too long."""
        for half in self._sessions.watch_again(now_ms):
            self.fail(half)

    def begin(self, client: Half, backend: Half) -> None:
        """They are a session from now on; what is known of the client so far is passed on first."""
        client.peer, backend.peer = backend, client
        try:
            if client.state & PENDING:
                self._flush(client)
        except OSError:
            self.fail(client)
            return
        client.state |= NAGLING
        self._sessions.watch(client)

    def fail(self, half: Half) -> None:
        """Reading from `half` or writing to its peer has failed: reset both, after what the other way still holds."""
        if half.state & DEAD:
            return
        half.state |= DEAD
        peer = half.peer
        if not peer.state & DEAD:
            peer.state &= ~RESTING
            self.pump(peer)
            if peer.state & DEAD:
                # the other way has failed too, or was the last to end
                return
        for one in (half, peer):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._sessions.close(half)

    def settle(self) -> bool:
        """The end of a batch: budgets renewed, ends passed on, sockets closed. True if there is more to do at once."""
        if self.again:
            again, self.again = self.again, []
            for half in again:
                half.state &= ~RESTING
                self.pump(half)
        self._sessions.settle()
        return bool(self.again)
