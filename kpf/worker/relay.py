"""Carries bytes between the two sockets of a session: the hot path.

Small data by recv and send, bulk by splice. Registered once with epoll, edge-triggered: who is woken reads until the
socket is dry or the other side is full. Rules that are not obvious:
- A short read means dry only without EPOLLRDHUP. With it, it means that the end comes next: what epoll says was so
  before the read. Neither is so with an error, or with urgent data.
- The end of a stream is passed on once, after all its bytes; shutdown may raise ENOTCONN while data is still unread,
  which is no reason to close.
- A backend's socket gets TCP_NODELAY before the client sends for the second time: the first send never waits, for
  Nagle's rule is about small segments behind a small one that is not acknowledged (tcp_nagle_check in Linux).
"""

import contextlib
import select
import socket
from collections.abc import Callable

from kpf.shm.region import Words
from kpf.worker.half import Half
from kpf.worker.pipes import PipePool
from kpf.worker.sessions import Sessions
from kpf.worker.states import DEAD, DIALLING, NAGLING, PASSED, PENDING, RESTING, SEEN, SPLICING, URGENT
from kpf.worker.transfer import DONTWAIT, READ_SIZE, Transfer

# rounds in one direction before others get their turn
ROUNDS = 16

EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR = select.EPOLLIN, select.EPOLLPRI, select.EPOLLOUT, select.EPOLLERR
EPOLLHUP, EPOLLRDHUP = select.EPOLLHUP, select.EPOLLRDHUP
LAST = EPOLLIN | EPOLLRDHUP
# as an integer: the enum's own `|` is a function of Python
MORE = int(socket.MSG_MORE)
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds


class Relay:
    """Moves what sockets have to say. `on_dial` is told of backends' sockets that are not connected yet.

    `again`: directions that have used up their rounds, and go on in the next iteration.
    """

    on_dial: Callable[[Half, int], None]

    def __init__(self, sessions: Sessions, words: Words, pipes: PipePool) -> None:
        self._sessions, self._pipes, self._transfer = sessions, pipes, Transfer(sessions, words, pipes)
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
                    self._transfer.keep(half, data, sent)
                elif size == READ_SIZE:
                    self._in_bulk(half)
            except BlockingIOError:
                if data:
                    self._transfer.keep(half, data, 0)
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
                self._transfer.send(half, data, 0)
                self.pump(half)
                return
            if size:
                self._transfer.send(half, data, MORE if half.peer.end != PASSED else 0)
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
            transfer = self._transfer
            for _ in range(ROUNDS):
                if half.state & PENDING and not transfer.flush(half):
                    return
                if half.end:
                    self._sessions.end(half)
                    return
                if not (transfer.splice(half) if half.state & SPLICING else transfer.copy(half)):
                    return
            half.state |= RESTING
            self.again.append(half)
        except OSError:
            self.fail(half)

    def _in_bulk(self, half: Half) -> None:
        if self._pipes.has_room:
            self._transfer.begin_to_splice(half)
        self.pump(half)

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
                self._transfer.flush(client)
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
