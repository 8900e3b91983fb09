"""What a worker does when its master is gone: it serves on until another one has taken over.

A living master holds one of a few abstract sockets (`kpf.master.lock`): it accepts and closes a connection to it once
it has taken over all portals. A stranger may hold another one, and is not listened to. Unless one that serves says so
at once, orphans accept where their master was asked to hand over, and hand over what they have
(`kpf.worker.conversation`): each to one successor at a time, which is the one that starts and holds the name by then.
"""

import contextlib
import select
import socket
from collections.abc import Callable

from kpf.net import credentials
from kpf.worker.conversation import Conversation, Estate
from kpf.worker.sessions import Sessions

# cheap: a few sockets that connect to nothing. And as long has a master that serves to say so
RETRY_MS = 100


class Orphan:
    """Waits for another master, of root or of the last one's user, for `timeout_ms` at most.

    `handover`: the listening socket for successors, whose owner it is; None if there is none. `is_relieved`: another
    one has taken over, and this worker is to leave, if it has not left before its master. `deadline_ms`: when to end in
    any case.
    """

    def __init__(
        self,
        sessions: Sessions,
        estate: Estate,
        handover: socket.socket | None,
        *,
        master_uid: int,
        now_ms: int,
        timeout_ms: int,
        is_relieved: bool,
    ) -> None:
        self._sessions, self._estate, self._master_uid = sessions, estate, master_uid
        self._timeout_ms, self.deadline_ms = timeout_ms, now_ms + timeout_ms
        self._handover = handover
        self._listens = self._stays_paused = False
        self._lock: socket.socket | None = None
        self._successor: Conversation | None = None
        self._next_ms, self._listen_from_ms = now_ms, now_ms + RETRY_MS
        self.is_relieved = False
        if is_relieved:
            self._relieve(now_ms)

    @property
    def is_paused(self) -> bool:
        """A successor wants nothing to be accepted."""
        return self._stays_paused or (self._successor is not None and self._successor.is_paused)

    @property
    def due_ms(self) -> int:
        """When to call `tick`."""
        times = [self.deadline_ms]
        if self._successor is not None:
            if self._successor.is_unsettled:
                times.append(self._next_ms)
            if self._successor.deadline_ms is not None:
                times.append(self._successor.deadline_ms)
        elif not self.is_relieved and (self._lock is None or (self._handover is not None and not self._listens)):
            times.append(self._next_ms)
        return min(times)

    def resets(self) -> list[tuple[str, ...]]:
        """Addresses whose clients the new master wants to be reset."""
        if self._successor is None:
            return []
        due, self._successor.resets = self._successor.resets, []
        return due

    def left(self) -> None:
        """Nothing is accepted any more, and nothing will be."""
        self._converse(lambda successor: successor.leave())

    def tick(self, now_ms: int) -> None:
        """Look for another master when it is time; give up a successor that is silent."""
        if self._successor is not None:
            limit_ms = self._successor.deadline_ms
            if limit_ms is not None and now_ms >= limit_ms:
                self._hang_up()
            elif now_ms >= self._next_ms:
                self._next_ms = now_ms + RETRY_MS
                self._converse(Conversation.settle)
        if self.is_relieved or self._successor or now_ms < self._next_ms:
            return
        self._next_ms = now_ms + RETRY_MS
        if self._lock is None:
            self._lock = self._look_for_master()
        self._listen(now_ms >= self._listen_from_ms)

    def _look_for_master(self) -> socket.socket | None:
        for name in credentials.NAMES:
            # nobody is there yet; its queue is full; descriptors or memory are short: there is a next time
            with contextlib.suppress(OSError):
                if (found := self._connected(name)) is not None:
                    return found
        return None

    def _connected(self, name: str) -> socket.socket | None:
        """Raises OSError."""
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(name)
            if credentials.peer_of(sock).is_trusted(self._master_uid):
                self._watch(sock)
                return sock
        except OSError:
            sock.close()
            raise
        sock.close()
        return None

    def ready(self, descriptor: int, now_ms: int) -> None:
        """epoll says so of a descriptor, which may be another's."""
        if self._lock is not None and descriptor == self._lock.fileno():
            self._hear_lock(now_ms)
        elif self._listens and self._handover is not None and descriptor == self._handover.fileno():
            self._accept(now_ms)
        elif self._successor is not None and descriptor == self._successor.descriptor:
            self._converse(lambda successor: successor.receive(now_ms))
            if self._successor is not None and self._successor.has_taken and not self.is_relieved:
                self._relieve(now_ms)

    def _hear_lock(self, now_ms: int) -> None:
        assert self._lock is not None
        relieved = False
        # a reset: it died with the connection in its queue
        with contextlib.suppress(OSError):
            relieved = self._lock.recv(1) == b""
        self._lock.close()
        self._lock = None
        if relieved:
            self._relieve(now_ms)

    def _accept(self, now_ms: int) -> None:
        assert self._handover is not None
        try:
            connection, _ = self._handover.accept()
        except BlockingIOError:
            # another orphan has it
            return
        except OSError:
            # a shortage: until the next tick, or it would be ready, and fail, without a pause
            self._listen(False)
            return
        connection.setblocking(False)
        try:
            if not credentials.peer_of(connection).is_trusted(self._master_uid):
                connection.close()
                return
            self._watch(connection)
        except OSError:
            connection.close()
            return
        self._listen(False)
        self._successor = Conversation(connection, self._estate, now_ms)

    def _converse(self, act: Callable[[Conversation], None]) -> None:
        """If there is a successor; and that may be the end of it."""
        if self._successor is not None:
            try:
                act(self._successor)
            except EOFError:
                self._hang_up()

    def _hang_up(self) -> None:
        assert self._successor is not None
        self._successor.close()
        self._successor = None

    def _relieve(self, now_ms: int) -> None:
        if self._successor is not None and not self._successor.has_taken:
            # it comes too late: what it would be handed is closed below, and not up to date any more
            self._hang_up()
        self.is_relieved, self._stays_paused = True, self.is_paused
        self.deadline_ms = now_ms + self._timeout_ms
        self._listen(False)
        if self._handover is not None:
            # where nobody accepts any more, a successor is not to wait
            self._handover.close()
            self._handover = None

    def _listen(self, listens: bool) -> None:
        if self._handover is None or listens == self._listens:
            return
        if listens:
            # no more watches: there is a next time
            with contextlib.suppress(OSError):
                self._watch(self._handover)
                self._listens = True
        else:
            # others have it open as well: to close it would not be enough
            self._sessions.epoll.unregister(self._handover)
            self._listens = False

    def _watch(self, sock: socket.socket) -> None:
        """Raises OSError."""
        self._sessions.make_room(sock.fileno())
        self._sessions.epoll.register(sock, select.EPOLLIN)
