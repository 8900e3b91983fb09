"""Accepts a few connections of each listener an iteration: fair between them, and seldom a call for nothing.

Listeners are level-triggered. At the connection limit, or short of descriptors or memory, a worker stops accepting:
clients wait in the kernel's queue, the master steers new ones away, and it goes on by itself. The master steers around
it, too, while it does not hear all of its listeners.
"""

import errno
import resource
import select

from kpf.net.channel import MAX_DESCRIPTORS
from kpf.shm.layout import ACTIVE, F_ENDED, F_TOTAL, PAUSED, PAUSES, TOTAL
from kpf.shm.region import Region
from kpf.worker.attempt import SHORTAGES
from kpf.worker.clock import Clock
from kpf.worker.dialer import Dialer
from kpf.worker.listening import ListeningSocket
from kpf.worker.sessions import NO_WATCHES, Sessions

NOBODY = {errno.EAGAIN}
# what may be pending on a connection by the time it is accepted: accept(2)
GONE = {
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EPERM,
}
# somebody has shut the listener down, or a security module is against it
SHUT_DOWN = {errno.EINVAL, errno.EACCES}

# beside sessions and listeners: channel, epoll, shared memory, standard streams
OWN_DESCRIPTORS = 32
# a message of the master's, for which there must be room at all times
MESSAGE_DESCRIPTORS = MAX_DESCRIPTORS
PAUSE_MS = 100
# of one listener in an iteration, before others get theirs
MAX_BURST = 32
# of this worker's sessions, as a divisor, that a frontend may have whose connections may come back
LOOPING_SHARE = 8
# for the sake of `close`: bursts before others get their turn
DRAINS_AN_ITERATION = 16
# of pauses without anything accepted, after which what is queued there is left to be reset
CLOSE_LIMIT_MS = 2_000


class Acceptor:
    """All `listeners` of this worker, by descriptor.

    `limit`: how many sessions fit into the descriptors that are left beside the reserve; there may be more of them,
    when listeners have come.
    """

    def __init__(
        self, sessions: Sessions, dialer: Dialer, clock: Clock, region: Region, *, worker: int, pipes: int
    ) -> None:
        self._sessions, self._dialer, self._clock, self._worker = sessions, dialer, clock, worker
        self._words, self._layout = region.words, region.layout
        self._record = region.layout.worker(worker)
        self.listeners: dict[int, ListeningSocket] = {}
        self._closing: dict[int, ListeningSocket] = {}
        self._shut_down: set[int] = set()
        self._unwatched: set[int] = set()
        self._watch_again_ms = 0
        self._lacks_listeners = False
        self._reserved = OWN_DESCRIPTORS + MESSAGE_DESCRIPTORS + 2 * pipes
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._total = region.words[self._record + TOTAL]
        self._paused_ms = 0
        self._is_held = False
        # since when nothing could be accepted, over pauses that follow on one another; 0: something could
        self._stalled_ms = 0
        self.limit = 0
        self._set_limit()

    @property
    def is_empty(self) -> bool:
        """True if there is nothing left to accept on."""
        return not self.listeners

    @property
    def is_unsettled(self) -> bool:
        """True while `settle` has to be called after every iteration."""
        return bool(self._paused_ms or self._closing or self._sessions.short or self._unwatched)

    @property
    def is_closing(self) -> bool:
        """True until what `close` asked for is done."""
        return bool(self._closing)

    def open(self, descriptor: int, frontend: int) -> None:
        """Accept on this listening socket from now on, and own it."""
        self._sessions.make_room(descriptor)
        self.listeners[descriptor] = ListeningSocket(descriptor, frontend, layout=self._layout, worker=self._worker)
        if not self._paused_ms:
            self._watch(descriptor)
        self._set_limit()

    def lack(self, lacks_listeners: bool) -> None:
        """There are listeners that the master could not hand over, or there are none any more."""
        self._lacks_listeners = lacks_listeners
        self._tell()

    def staying(self) -> list[ListeningSocket]:
        """Those listeners that are not being closed."""
        return [listener for descriptor, listener in self.listeners.items() if descriptor not in self._closing]

    def hold(self, is_held: bool) -> None:
        """Accept nothing until this is taken back, not even what is queued at listeners that are to be closed."""
        if is_held and not self._paused_ms:
            self._stop()
        elif self._is_held and not is_held:
            # that was no shortage, which would be given time to pass
            self._paused_ms -= PAUSE_MS
        self._is_held = is_held

    def close(self, frontends: set[int] | None = None) -> None:
        """Close the listeners of these frontends, of all if None.

        Not before what is queued there is accepted, or pauses have lasted too long: `settle`.
        """
        if not self._closing:
            self._stalled_ms = self._paused_ms
        self._closing |= {
            descriptor: listener
            for descriptor, listener in self.listeners.items()
            if frontends is None or listener.frontend in frontends
        }

    def ready(self, listener: ListeningSocket) -> None:
        """epoll says so of a listener: accept a few connections."""
        # still ready in the iteration after: there is a queue, and larger batches cost less. A lone connection is taken
        # without asking whether there is another one
        listener.burst = min(2 * listener.burst, MAX_BURST) if listener.iteration == self._clock.iteration - 1 else 1
        listener.iteration = self._clock.iteration
        accepted = self.accept(listener, listener.burst)
        if accepted < listener.burst:
            listener.burst = max(accepted, 1)

    def settle(self) -> bool:
        """At the end of an iteration: pause, go on, finish closing. True if there is more to do at once."""
        if self._paused_ms:
            self._resume()
        elif self._sessions.short:
            self._pause()
        elif self._unwatched:
            self._watch_again()
        if self._closing:
            self._drain()
        return self.is_closing and not self._paused_ms

    def _drain(self) -> None:
        for _ in range(DRAINS_AN_ITERATION):
            # others are told of nothing until this is done, so it may not take as long as a pause can
            late = self._clock.now_ms - self._stalled_ms >= CLOSE_LIMIT_MS
            gives_up = self._paused_ms and (late or self._is_held)
            if not self._closing or (self._paused_ms and not gives_up):
                return
            descriptor, listener = next(iter(self._closing.items()))
            if gives_up or (self.accept(listener, MAX_BURST) < MAX_BURST and not self._paused_ms):
                del self._closing[descriptor], self.listeners[descriptor]
                self._unwatch(descriptor)
                self._shut_down.discard(descriptor)
                listener.sock.close()
                self._set_limit()

    def accept(self, listener: ListeningSocket, most: int) -> int:
        """Accept up to so many connections. Returns how many there were, or room for."""
        sessions, words, active = self._sessions, self._words, self._record + ACTIVE
        accepted: list[tuple[int, str]] = []
        gone = 0
        while len(accepted) + gone < most:
            is_full = sessions.active + sessions.extra // 2 >= self.limit
            if is_full or self._paused_ms or sessions.unwatched:
                self._pause()
                break
            # counted before it is here: SIGKILL may come between the kernel's accept and any word of ours, and a
            # connection that dies uncounted with its worker would be a failure that nobody can explain
            sessions.active += 1
            words[active] = sessions.active
            try:
                descriptor, address = listener.sock._accept()  # type: ignore[attr-defined] # socket.accept's own
            except OSError as error:
                sessions.count(-1)
                if error.errno in GONE:
                    gone += 1
                    continue
                if error.errno in SHORTAGES:
                    self._pause()
                elif error.errno in SHUT_DOWN:
                    self._unwatch(listener.descriptor)
                    self._shut_down.add(listener.descriptor)
                elif error.errno not in NOBODY:
                    raise
                break
            accepted.append((descriptor, address[0]))
        if self._stalled_ms and (accepted or not self._paused_ms):
            self._stalled_ms = self._paused_ms
        if accepted:
            self._total += len(accepted)
            words[self._record + TOTAL] = self._total
            if words[listener.may_loop]:
                self._begin_share(listener, accepted)
            else:
                self._dialer.begin(listener, accepted)
        return len(accepted) + gone

    def _begin_share(self, listener: ListeningSocket, accepted: list[tuple[int, str]]) -> None:
        """One connection that comes back again and again would else take all sessions of all workers of two nodes."""
        words, counters = self._words, listener.counters
        active = words[counters + F_TOTAL] - words[counters + F_ENDED]
        room = max(self.limit // LOOPING_SHARE - active, 0)
        if accepted[:room]:
            self._dialer.begin(listener, accepted[:room])
        if accepted[room:]:
            self._dialer.refuse(listener, accepted[room:])

    def _pause(self) -> None:
        if self._paused_ms:
            return
        self._stop()
        self._words[self._record + PAUSES] += 1

    def _stop(self) -> None:
        for descriptor in self.listeners:
            self._unwatch(descriptor)
        self._paused_ms = self._clock.now_ms
        self._stalled_ms = self._stalled_ms or self._paused_ms
        self._clock.is_restless = True
        self._tell()

    def _resume(self) -> None:
        """Go on when there is room for more than one, and not at every iteration: there may be many listeners."""
        if self._is_held:
            return
        room = self.limit - self._sessions.active - self._sessions.extra // 2
        is_full = room <= self.limit // 64 or self._sessions.unwatched
        if self._clock.now_ms - self._paused_ms < PAUSE_MS or is_full:
            self._clock.at(self._clock.now_ms + PAUSE_MS)
            return
        self._paused_ms = 0
        self._sessions.short = False
        for descriptor in self.listeners:
            self._watch(descriptor)
        self._tell()

    def _watch(self, descriptor: int) -> None:
        if descriptor in self._shut_down:
            return
        try:
            self._sessions.epoll.register(descriptor, select.EPOLLIN)
        except OSError as error:
            if error.errno not in NO_WATCHES:
                raise
            self._unwatched.add(descriptor)
            self._clock.is_restless = True
            self._tell()

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._unwatched:
            self._unwatched.remove(descriptor)
        elif not self._paused_ms and descriptor not in self._shut_down:
            self._sessions.epoll.unregister(descriptor)

    def _watch_again(self) -> None:
        if self._clock.now_ms >= self._watch_again_ms:
            self._watch_again_ms = self._clock.now_ms + PAUSE_MS
            unwatched, self._unwatched = self._unwatched, set()
            for descriptor in unwatched:
                self._watch(descriptor)
            self._tell()
        self._clock.at(self._watch_again_ms)

    def _tell(self) -> None:
        """The master steers around a worker that says so."""
        self._words[self._record + PAUSED] = bool(self._paused_ms or self._unwatched or self._lacks_listeners)

    def _set_limit(self) -> None:
        self.limit = max((self._descriptors - self._reserved - len(self.listeners)) // 2, 1)
