"""Finds a backend for a client: pick, dial, and the next one when that fails. Never blocks.

A dial that completes inside connect(), as on loopback and veth, is used at once and saves a wake-up: connect() says
EINPROGRESS all the same, but a send tells how it is. It sends what the client has sent so far, if only nothing; where
the dial is not through or has failed, that is kept for the backend that answers. A server may speak first.
"""

import contextlib
import errno
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.layout import F_BYTES_IN, F_BYTES_OUT, F_ENDED, F_FAILED, F_RETRIES, F_TOTAL, Reason
from kpf.shm.region import Words
from kpf.worker.clock import Clock
from kpf.worker.half import DEAD, DIALLING, EITHER, PENDING, Half
from kpf.worker.listener import Listener
from kpf.worker.relay import DONTWAIT, EPOLLIN, RESET, Relay
from kpf.worker.session import DIAL_TIMEOUTS_MS, LATER_MS, SHUTS_OUT, Command, Session
from kpf.worker.sessions import Sessions

UNDER_WAY = {errno.EAGAIN}  # what send() says before connect() is through
REFUSALS = {errno.ECONNREFUSED, errno.ECONNRESET}
TIMEOUTS = {errno.ETIMEDOUT}
NO_PORTS = {errno.EADDRNOTAVAIL}
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# all others are UNREACHABLE: EHOSTUNREACH, ENETUNREACH, EPERM (a local packet filter), ...

# of what a client has sent before its backend answers, kept meanwhile: thousands may wait for a black hole
EARLY_SIZE = 1 << 14

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_FAILED = select.EPOLLERR | select.EPOLLHUP


class Dial:
    """A client without a backend yet. `attempt` tells the timers of earlier dials from this one's.

    `backend` is None while it waits for descriptors or memory.
    """

    __slots__ = ("attempt", "backend", "choice", "client", "host", "listener", "session")

    backend: Half | None
    choice: Choice

    def __init__(self, client: Half, listener: Listener, host: str) -> None:
        self.client, self.listener, self.host = client, listener, host
        self.session = Session()
        self.attempt = 0


class _Timer(NamedTuple):
    deadline_ms: int
    dial: Dial
    attempt: int


class Dialer:
    """All dials of this worker. `short`: there was lack of descriptors or memory."""

    def __init__(self, sessions: Sessions, relay: Relay, balancer: Balancer, words: Words, clock: Clock) -> None:
        self.short = False
        self._sessions, self._relay, self._balancer = sessions, relay, balancer
        self._words, self._clock = words, clock
        self._by_descriptor: dict[int, Dial] = {}
        # of equal timeouts the oldest is the first to end
        self._timers: dict[int, deque[_Timer]] = {delay_ms: deque() for delay_ms in (LATER_MS, *DIAL_TIMEOUTS_MS)}
        relay.on_dial = self._answered

    def begin(self, listener: Listener, accepted: Sequence[tuple[int, str]]) -> None:
        """Clients were accepted, and counted as active by who accepted them: their descriptors and their addresses."""
        self._words[listener.counters + F_TOTAL] += len(accepted)
        self._sessions.make_room(max(accepted)[0])
        choices = self._balancer.pick_all(listener.frontend, [host for _, host in accepted], self._clock.now_ms)
        for (descriptor, host), choice in zip(accepted, choices, strict=True):
            client = Half(listener.family, socket.SOCK_STREAM, 0, descriptor)
            client.join(descriptor, listener.counters + F_BYTES_IN, None)
            if choice is None:
                self._give_up(client, listener, Reason.NO_ENDPOINT)
            else:
                self._dial_first(client, host, choice, listener)

    def refuse(self, listener: Listener, accepted: Sequence[tuple[int, str]]) -> None:
        """The same, and there are too many of them."""
        self._words[listener.counters + F_TOTAL] += len(accepted)
        self._sessions.make_room(max(accepted)[0])
        for descriptor, _ in accepted:
            client = Half(listener.family, socket.SOCK_STREAM, 0, descriptor)
            client.join(descriptor, listener.counters + F_BYTES_IN, None)
            self._give_up(client, listener, Reason.RESOURCES)

    def _dial_first(self, client: Half, host: str, choice: Choice, listener: Listener) -> None:
        backend, error = self._open(choice, listener.counters)
        data, sent = b"", 0
        try:
            # its request is there most of the time
            data = client.recv(EARLY_SIZE, DONTWAIT)
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
            self._connected(client, backend, listener)
            return
        dial = Dial(client, listener, host)
        if not self._is_under_way(dial, choice, backend, error):
            self._pursue(dial)

    def expire(self) -> None:
        """End the dials whose time is over."""
        now_ms = self._clock.now_ms
        for timers in self._timers.values():
            while timers and (timers[0].deadline_ms <= now_ms or timers[0].attempt != timers[0].dial.attempt):
                _, dial, attempt = timers.popleft()
                if attempt != dial.attempt:
                    continue
                if dial.backend is not None and not _answer(dial.backend):
                    # the answer is there: it is this process that was late
                    self._answered(dial.backend, select.EPOLLOUT)
                    continue
                dial.attempt += 1
                if dial.backend is not None:
                    self._drop(dial.backend)
                    if self._is_settled(dial, Reason.TIMEOUT):
                        continue
                self._pursue(dial)
            if timers:
                self._clock.at(timers[0].deadline_ms)

    def _pursue(self, dial: Dial) -> None:
        """Dial one member after another, until one may answer or there is none left."""
        listener, session = dial.listener, dial.session
        while True:
            choice = self._balancer.pick(listener.frontend, dial.host, session.tried, self._clock.now_ms)
            if choice is None:
                if session.none_left() is Command.DIAL_NEXT:
                    continue
                self._give_up(dial.client, listener, session.reason)
                return
            self._words[listener.counters + F_RETRIES] += 1
            backend, error = self._open(choice, listener.counters)
            if backend is not None:
                error = _answer(backend)
            if backend is not None and not error:
                self._connected(dial.client, backend, listener)
                return
            if self._is_under_way(dial, choice, backend, error):
                return

    def _open(self, choice: Choice, counters: int) -> tuple[Half | None, int]:
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

    def _connected(self, client: Half, backend: Half, listener: Listener) -> None:
        choice = backend.choice
        assert choice is not None
        words = self._words
        words[choice.total] += 1
        if words[choice.health]:
            self._balancer.succeeded(listener.frontend, choice.identity)
        if not backend.mask & select.EPOLLOUT:
            self._sessions.watch(backend)
        self._relay.begin(client, backend)

    def _is_under_way(self, dial: Dial, choice: Choice, backend: Half | None, error: int) -> bool:
        """Wait for the answer. False if there is no use in that, and the next member is to be dialled."""
        if backend is not None and error not in UNDER_WAY:
            backend.close()
            backend = None
        dial.choice, dial.backend = choice, backend
        if backend is None:
            return self._is_settled(dial, _reason(error))
        backend.state = DIALLING
        backend.mask = EITHER
        self._sessions.watch(backend)
        self._by_descriptor[backend.fd] = dial
        self._wait(dial, dial.session.timeout_ms)
        return True

    def _wait(self, dial: Dial, delay_ms: int) -> None:
        deadline_ms = self._clock.now_ms + delay_ms
        self._timers[delay_ms].append(_Timer(deadline_ms, dial, dial.attempt))
        self._clock.at(deadline_ms)

    def _answered(self, backend: Half, events: int) -> None:
        error = backend.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _FAILED else 0
        if not error and not events & select.EPOLLOUT:
            return
        dial = self._by_descriptor[backend.fd]
        dial.attempt += 1
        if error:
            self._drop(backend)
            if not self._is_settled(dial, _reason(error)):
                self._pursue(dial)
            return
        del self._by_descriptor[backend.fd]
        backend.state = 0
        self._connected(dial.client, backend, dial.listener)
        if events & EPOLLIN and not backend.state & DEAD:
            self._relay.pump(backend)

    def _drop(self, backend: Half) -> None:
        del self._by_descriptor[backend.fd]
        self._sessions.bury(backend)

    def _is_settled(self, dial: Dial, reason: Reason) -> bool:
        """Account for a dial that has failed. False if the next member is to be dialled."""
        choice, words = dial.choice, self._words
        words[choice.active] -= 1
        words[choice.failures + reason] += 1
        if reason in SHUTS_OUT:
            self._balancer.failed(dial.listener.frontend, choice.identity, dial.host, self._clock.now_ms)
        command = dial.session.dial_failed(choice.identity, reason)
        if command is Command.GIVE_UP:
            self._give_up(dial.client, dial.listener, reason)
        elif command is Command.DIAL_LATER:
            self.short = self._clock.is_restless = True
            dial.backend = None
            self._wait(dial, LATER_MS)
        return command is not Command.DIAL_NEXT

    def _abandon(self, client: Half, backend: Half | None, choice: Choice, listener: Listener) -> None:
        """The client has reset its connection before it had a backend: the dial's answer counts all the same."""
        if backend is not None:
            if self._words[choice.health] and not _answer(backend):
                self._balancer.succeeded(listener.frontend, choice.identity)
            with contextlib.suppress(OSError):
                backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            backend.close()
        self._words[choice.active] -= 1
        self._bury(client, listener)

    def _give_up(self, client: Half, listener: Listener, reason: Reason) -> None:
        """A reset tells the client that this is not an answer."""
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._words[listener.counters + F_FAILED + reason] += 1
        self._bury(client, listener)

    def _bury(self, client: Half, listener: Listener) -> None:
        self._sessions.bury(client)
        self._words[listener.counters + F_ENDED] += 1
        self._sessions.count(-1)


def _reason(error: int) -> Reason:
    if error in REFUSALS:
        return Reason.REFUSED
    if error in TIMEOUTS:
        return Reason.TIMEOUT
    if error in NO_PORTS:
        return Reason.PORTS
    return Reason.RESOURCES if error in SHORTAGES else Reason.UNREACHABLE


def _answer(backend: Half) -> int:
    """0 if it is connected, else what the errno is."""
    try:
        backend.send(b"", DONTWAIT)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
