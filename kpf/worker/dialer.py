"""Finds a backend for a client: pick, dial, and the next one when that fails. Never blocks.

A dial that completes inside connect(), as on loopback and veth, is used at once and saves a wake-up. Otherwise nothing
is read from the client before the dial answers: what it sent early waits in the kernel, and a server may speak first.
"""

import contextlib
import errno
import select
import socket
from collections import deque
from typing import NamedTuple

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.layout import F_ACTIVE, F_BYTES_IN, F_BYTES_OUT, F_FAILED, F_RETRIES, F_TOTAL, TOTAL, Reason
from kpf.shm.region import Words
from kpf.worker.clock import Clock
from kpf.worker.half import DEAD, DIALLING, EITHER, READABLE, Half
from kpf.worker.listener import Listener
from kpf.worker.relay import DONTWAIT, EPOLLIN, RESET, Relay
from kpf.worker.session import DIAL_TIMEOUTS_MS, LATER_MS, SHUTS_OUT, Command, Session

REFUSALS = {errno.ECONNREFUSED, errno.ECONNRESET}
TIMEOUTS = {errno.ETIMEDOUT}
NO_PORTS = {errno.EADDRNOTAVAIL}
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# all others are UNREACHABLE: EHOSTUNREACH, ENETUNREACH, EPERM (a local packet filter), ...

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

    def __init__(self, relay: Relay, balancer: Balancer, words: Words, record: int, clock: Clock) -> None:
        self.short = False
        self._relay, self._balancer, self._words, self._clock = relay, balancer, words, clock
        self._record_total, self._total = record + TOTAL, words[record + TOTAL]
        self._by_descriptor: dict[int, Dial] = {}
        # of equal timeouts the oldest is the first to end
        self._timers: dict[int, deque[_Timer]] = {delay_ms: deque() for delay_ms in (LATER_MS, *DIAL_TIMEOUTS_MS)}
        relay.on_dial = self._answered

    def begin(self, listener: Listener, descriptor: int, host: str) -> None:
        """A client was accepted, and counted as active by who accepted it. `host` is its address."""
        words, counters, relay = self._words, listener.counters, self._relay
        if descriptor >= len(relay.halves):
            relay.make_room(descriptor)
        words[counters + F_TOTAL] += 1
        words[counters + F_ACTIVE] += 1
        self._total += 1
        words[self._record_total] = self._total
        sock = socket.SocketType(listener.family, socket.SOCK_STREAM, 0, descriptor)
        client = Half(sock, descriptor, counters + F_BYTES_IN, None, READABLE)
        choice = self._balancer.pick(listener.frontend, host, (), self._clock.now_ms)
        if choice is None:
            self._give_up(client, listener, Reason.NO_ENDPOINT)
            return
        backend, error = self._open(choice, counters)
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
                if dial.backend is not None and _is_connected(dial.backend.sock):
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
            if backend is not None and not error:
                self._connected(dial.client, backend, listener)
                return
            if self._is_under_way(dial, choice, backend, error):
                return

    def _open(self, choice: Choice, counters: int) -> tuple[Half | None, int]:
        """A backend's half and 0 if it is connected, or EINPROGRESS; else None and why not."""
        try:
            sock = socket.SocketType(choice.family, _STREAM, 0)
        except OSError as error:
            return None, error.errno or errno.ENOBUFS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error_number = sock.connect_ex(choice.address)
        if error_number == errno.EINPROGRESS:
            try:
                # connect() says so even when the answer is already there; an empty send says how it is
                error_number = sock.send(b"", DONTWAIT)
            except OSError as error:
                error_number = errno.EINPROGRESS if isinstance(error, BlockingIOError) else error.errno or errno.EIO
        if error_number and error_number != errno.EINPROGRESS:
            sock.close()
            return None, error_number
        return Half(sock, sock.fileno(), counters + F_BYTES_OUT, choice, READABLE), error_number

    def _connected(self, client: Half, backend: Half, listener: Listener) -> None:
        choice, relay = backend.choice, self._relay
        assert choice is not None
        words = self._words
        if words[choice.health]:
            self._balancer.succeeded(listener.frontend, choice.identity)
        words[choice.total] += 1
        client.peer, backend.peer = backend, client
        if not backend.mask & select.EPOLLOUT:
            relay.watch(backend)
        # its request is there most of the time; who registers later hears of less
        relay.ready(client, EPOLLIN)
        if not client.state & DEAD:
            relay.watch(client)

    def _is_under_way(self, dial: Dial, choice: Choice, backend: Half | None, error: int) -> bool:
        """Wait for the answer. False if there is no use in that, and the next member is to be dialled."""
        dial.choice, dial.backend = choice, backend
        if backend is None:
            return self._is_settled(dial, _reason(error))
        backend.state = DIALLING
        backend.mask = EITHER
        self._relay.watch(backend)
        self._by_descriptor[backend.fd] = dial
        self._wait(dial, dial.session.timeout_ms)
        return True

    def _wait(self, dial: Dial, delay_ms: int) -> None:
        deadline_ms = self._clock.now_ms + delay_ms
        self._timers[delay_ms].append(_Timer(deadline_ms, dial, dial.attempt))
        self._clock.at(deadline_ms)

    def _answered(self, backend: Half, events: int) -> None:
        error = backend.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _FAILED else 0
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
            self._relay.ready(backend, events & ~select.EPOLLOUT)

    def _drop(self, backend: Half) -> None:
        del self._by_descriptor[backend.fd]
        self._relay.bury(backend)

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

    def _give_up(self, client: Half, listener: Listener, reason: Reason) -> None:
        """A reset tells the client that this is not an answer."""
        with contextlib.suppress(OSError):
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._relay.bury(client)
        self._words[listener.counters + F_FAILED + reason] += 1
        self._words[listener.counters + F_ACTIVE] -= 1
        self._relay.count(-1)


def _reason(error: int) -> Reason:
    if error in REFUSALS:
        return Reason.REFUSED
    if error in TIMEOUTS:
        return Reason.TIMEOUT
    if error in NO_PORTS:
        return Reason.PORTS
    return Reason.RESOURCES if error in SHORTAGES else Reason.UNREACHABLE


def _is_connected(sock: socket.SocketType) -> bool:
    try:
        sock.send(b"", DONTWAIT)
    except OSError:
        return False
    return True
