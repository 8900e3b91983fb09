"""Finds a backend for a client: pick, dial; what is not answered at once is `racing`'s. Never blocks.

A dial that completes inside connect(), as on loopback and veth, is used at once and saves a wake-up: connect() says
EINPROGRESS all the same, but a send tells how it is. It sends what the client has sent so far, if only nothing; where
the dial is not through or has failed, that is kept for the backend that answers. A server may speak first.
"""

import contextlib
import errno
import socket
from collections.abc import Sequence

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.layout import F_BYTES_IN, F_DIALS, F_TOTAL, Reason
from kpf.shm.region import Words
from kpf.worker.attempt import answer
from kpf.worker.clock import Clock
from kpf.worker.connector import Connector
from kpf.worker.half import Half
from kpf.worker.listening import ListeningSocket
from kpf.worker.racing import Racing
from kpf.worker.relay import RESET, Relay
from kpf.worker.sessions import Sessions
from kpf.worker.states import PENDING
from kpf.worker.transfer import DONTWAIT

# of what a client has sent before its backend answers, kept meanwhile: thousands may wait for a black hole
EARLY_DATA_BYTES = 1 << 14


class Dialer:
    """All dials of this worker. `expire`: to be called at every look around. `client_of`: whose a dial is."""

    def __init__(self, sessions: Sessions, relay: Relay, balancer: Balancer, words: Words, clock: Clock) -> None:
        self._sessions, self._balancer, self._words, self._clock = sessions, balancer, words, clock
        self._connector = Connector(sessions, relay, balancer, words)
        self._racing = Racing(sessions, relay, balancer, words, clock, self._connector)
        self.expire = self._racing.expire
        self.client_of = self._racing.client_of

    def begin(self, listener: ListeningSocket, accepted: Sequence[tuple[int, str]]) -> None:
        """Clients were accepted, and counted as active by who accepted them: their descriptors and their addresses."""
        self._words[listener.counters + F_TOTAL] += len(accepted)
        self._sessions.make_room(max(accepted)[0])
        now_ms = self._clock.now_ms
        choices = self._balancer.pick_all(listener.frontend, [host for _, host in accepted], now_ms)
        for (descriptor, host), choice in zip(accepted, choices, strict=True):
            client = Half(listener.family, socket.SOCK_STREAM, 0, descriptor)
            client.join(descriptor, listener.counters + F_BYTES_IN, None)
            client.began_ms = now_ms
            if choice is None:
                self._connector.give_up(client, listener, Reason.NO_ENDPOINT)
            else:
                self._dial_first(client, host, choice, listener)

    def refuse(self, listener: ListeningSocket, accepted: Sequence[tuple[int, str]]) -> None:
        """The same, and there are too many of them."""
        self._words[listener.counters + F_TOTAL] += len(accepted)
        self._sessions.make_room(max(accepted)[0])
        for descriptor, _ in accepted:
            client = Half(listener.family, socket.SOCK_STREAM, 0, descriptor)
            client.join(descriptor, listener.counters + F_BYTES_IN, None)
            self._connector.give_up(client, listener, Reason.RESOURCES)

    def _dial_first(self, client: Half, host: str, choice: Choice, listener: ListeningSocket) -> None:
        backend, error = self._connector.open(choice, listener.counters)
        data, sent = b"", 0
        try:
            # its request is there most of the time
            data = client.recv(EARLY_DATA_BYTES, DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            self._abandon(client, backend, choice, listener)
            return
        if backend is not None:
            try:
                sent = backend.send(data, DONTWAIT)
            except OSError as failure:
                error = failure.errno or errno.EIO
        client.moved = len(data)
        if sent < client.moved:
            client.pending, client.state = memoryview(data)[sent:], PENDING
        if backend is not None and not error:
            # within this iteration: in no time
            self._words[listener.counters + F_DIALS] += 1
            self._connector.connected(client, backend, listener, 0)
            return
        self._racing.begin(client, host, listener, choice, backend, error)

    def _abandon(self, client: Half, backend: Half | None, choice: Choice, listener: ListeningSocket) -> None:
        """The client has reset its connection before it had a backend: the dial's answer counts all the same."""
        if backend is not None:
            if self._words[choice.health] and not answer(backend):
                self._balancer.answered(listener.frontend, choice.identity, 0)
            with contextlib.suppress(OSError):
                backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            backend.close()
        self._words[choice.active] -= 1
        self._connector.bury(client, listener)
