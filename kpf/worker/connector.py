"""The ends of a dial: a backend's socket on its way, a session, or a client that is reset."""

import contextlib
import errno
import select
import socket

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.health import ATTEMPT_DELAY_MS
from kpf.shm.layout import F_BYTES_OUT, F_ENDED, F_FAILED, Reason
from kpf.shm.region import Words
from kpf.worker.half import Half
from kpf.worker.listening import ListeningSocket
from kpf.worker.relay import RESET, Relay
from kpf.worker.sessions import Sessions

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class Connector:
    """What a worker does for each of its dials."""

    def __init__(self, sessions: Sessions, relay: Relay, balancer: Balancer, words: Words) -> None:
        self._sessions, self._relay, self._balancer, self._words = sessions, relay, balancer, words

    def open(self, choice: Choice, counters: int) -> tuple[Half | None, int]:
        """A backend's half, connected or on the way; else None and why not."""
        try:
            backend = Half(choice.family, _STREAM, 0)
        except OSError as error:
            return None, error.errno or errno.ENOBUFS
        error_number = backend.connect_ex(choice.address)
        if error_number and error_number != errno.EINPROGRESS:
            backend.close()
            return None, error_number
        backend.join(backend.fileno(), counters + F_BYTES_OUT, choice)
        return backend, 0

    def connected(self, client: Half, backend: Half, listener: ListeningSocket, took_ms: int) -> None:
        """The backend has answered after `took_ms`: bytes may go.

        Shared memory learns of it only where it is news: the member was not healthy, is slow, or was.
        """
        choice = backend.choice
        assert choice is not None
        words = self._words
        words[choice.total] += 1
        if words[choice.health] or words[choice.connect_time] or took_ms > ATTEMPT_DELAY_MS:
            self._balancer.answered(listener.frontend, choice.identity, took_ms)
        if not backend.mask & select.EPOLLOUT:
            self._sessions.watch(backend)
        self._relay.begin(client, backend)

    def give_up(self, client: Half, listener: ListeningSocket, reason: Reason) -> None:
        """A reset tells the client that this is not an answer."""
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._words[listener.counters + F_FAILED + reason] += 1
        self.bury(client, listener)

    def bury(self, client: Half, listener: ListeningSocket) -> None:
        """The connection has ended: the client is closed with the batch, and no longer counted as active."""
        self._sessions.bury(client)
        self._words[listener.counters + F_ENDED] += 1
        self._sessions.count(-1)
