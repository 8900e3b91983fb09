"""Clients whose first dial was not answered at once: the next one where it failed, one more beside where it is silent.

Which member, how often and when, `kpf.worker.retry` says. Whoever waits for long is watched, and given up when it
leaves.
"""

import select
import socket

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.health import attempt_delay_ms, is_ejected
from kpf.shm.layout import F_DIALS_BY_BITS, F_DIALS_MS, F_RETRIES, PROBING, Reason
from kpf.shm.region import Words
from kpf.worker.attempt import UNDER_WAY, Attempt, Dial, answer, discard, reason_of
from kpf.worker.clock import Clock
from kpf.worker.connector import Connector
from kpf.worker.half import EITHER, Half
from kpf.worker.listening import ListeningSocket
from kpf.worker.losing import LosingDial, LosingDials
from kpf.worker.relay import EPOLLIN, Relay
from kpf.worker.retry import EJECTING, GIVE_UP_MS, LATER_MS, LOOK_AGAIN_MS, PARALLEL, Command, next_ms
from kpf.worker.sessions import Sessions
from kpf.worker.states import DEAD, DIALLING, PENDING
from kpf.worker.timers import NEVER, Timers
from kpf.worker.transfer import DONTWAIT

# next dials in one iteration of the loop, some 0.1 ms each: those beyond are made in the next iteration
DIALS_AN_ITERATION = 64

_FAILED = select.EPOLLERR | select.EPOLLHUP
_LEAVING = select.EPOLLRDHUP | select.EPOLLET
_PEEK = int(socket.MSG_PEEK)


class Racing:
    """All clients of this worker that wait for a backend."""

    def __init__(
        self,
        sessions: Sessions,
        relay: Relay,
        balancer: Balancer,
        words: Words,
        clock: Clock,
        connector: Connector,
    ) -> None:
        self._sessions, self._relay, self._balancer = sessions, relay, balancer
        self._words, self._clock, self._connector = words, clock, connector
        self._timers = Timers(clock)
        self._losing = LosingDials(sessions, balancer, words, clock, self._timers)
        # by the descriptors of backends, and of clients that are watched
        self._dials: dict[int, Dial] = {}
        self._budget = DIALS_AN_ITERATION
        relay.on_dial = self._ready

    def begin(
        self, client: Half, host: str, listener: ListeningSocket, choice: Choice, backend: Half | None, error: int
    ) -> None:
        """The client's first dial is under way, or has failed."""
        dial = Dial(client, listener, host, self._clock.now_ms + GIVE_UP_MS)
        if not self._is_under_way(dial, choice, backend, error):
            self._dial_on(dial)

    def client_of(self, backend: Half) -> Half | None:
        """Who waits for this dial; None if another dial of the same client is older, or nobody waits any more."""
        dial = self._dials.get(backend.fd)
        return dial.client if dial is not None and dial.attempts and dial.attempts[0].backend is backend else None

    def expire(self) -> None:
        """Look at whatever is due, as far as this iteration's budget goes."""
        self._budget = DIALS_AN_ITERATION
        while self._budget > 0 and (timed := self._timers.due()):
            self._budget -= 1
            if isinstance(timed, LosingDial):
                self._losing.look_at(timed)
            elif isinstance(timed, Dial):
                self._look_at(timed)
        if self._budget <= 0:
            self._clock.at(self._clock.now_ms)

    def _look_at(self, dial: Dial) -> None:
        now_ms = self._clock.now_ms
        for attempt in dial.attempts:
            error = answer(attempt.backend)
            if error not in UNDER_WAY:
                # the answer is there: it is this process that was late
                self._answered(dial, attempt, error)
                return
        if dial.attempts:
            if now_ms >= dial.deadline_ms:
                self._end_unanswered(dial)
                return
            if (due_ms := self._due_ms(dial)) > now_ms:
                # more is known by now of what is normal
                self._timers.at(dial, due_ms)
                return
            self._watch_client(dial)
        self._dial_on(dial)

    def _due_ms(self, dial: Dial) -> int:
        began_ms = [attempt.began_ms for attempt in dial.attempts]
        connect_time_ms = self._words[dial.attempts[0].choice.connect_time]
        return min(next_ms(began_ms, attempt_delay_ms(connect_time_ms)), dial.deadline_ms)

    def _dial_on(self, dial: Dial) -> None:
        """Dial one member after another, until one may answer or there is none left."""
        counters, now_ms = dial.listener.counters, self._clock.now_ms
        while True:
            if self._budget <= 0:
                self._timers.at(dial, now_ms)
                return
            self._budget -= 1
            choice = self._next(dial)
            if choice is None:
                if dial.attempts:
                    self._timers.at(dial, min(now_ms + LOOK_AGAIN_MS, dial.deadline_ms))
                else:
                    self._give_up_dial(dial, dial.retry.reason)
                return
            self._words[counters + F_RETRIES] += 1
            backend, error = self._connector.open(choice, counters)
            if backend is not None:
                error = answer(backend)
            if backend is not None and not error:
                self._won(dial, Attempt(backend, now_ms))
                return
            if self._is_under_way(dial, choice, backend, error):
                return

    def _next(self, dial: Dial) -> Choice | None:
        """The member to dial now: hedged where others are merely slow, else the next in turn."""
        frontend, retry, now_ms = dial.listener.frontend, dial.retry, self._clock.now_ms
        if not retry.may_retry:
            return None
        if dial.attempts:
            retry.is_hedged = True
            choice = self._balancer.pick_hedge(frontend, retry.tried, now_ms)
        else:
            choice = self._balancer.pick(frontend, dial.host, retry.tried, now_ms)
        if choice is not None:
            health = self._words[choice.health]
            retry.retried(is_ejected=is_ejected(health, now_ms) and not health & PROBING)
            if len(dial.attempts) == PARALLEL:
                oldest = dial.attempts[0]
                self._part(dial, oldest)
                discard(self._sessions, oldest.backend)
                self._count_failure(oldest.choice, Reason.TIMEOUT)
                retry.dial_failed(oldest.choice.identity, Reason.TIMEOUT)
        return choice

    def _is_under_way(self, dial: Dial, choice: Choice, backend: Half | None, error: int) -> bool:
        """Wait for the answer. False if there is no use in that, and the next member is to be dialled."""
        if backend is not None and error not in UNDER_WAY:
            backend.close()
            backend = None
        if backend is None:
            return self._is_settled(dial, choice, reason_of(error))
        backend.state = DIALLING
        backend.mask = EITHER
        self._sessions.watch(backend)
        self._dials[backend.fd] = dial
        self._sessions.extra += bool(dial.attempts)
        dial.attempts.append(Attempt(backend, self._clock.now_ms))
        dial.retry.tried.add(choice.identity)
        self._timers.at(dial, self._due_ms(dial))
        return True

    def _part(self, dial: Dial, attempt: Attempt) -> None:
        del self._dials[attempt.backend.fd]
        dial.attempts.remove(attempt)
        self._sessions.extra -= bool(dial.attempts)

    def _ready(self, half: Half, events: int) -> None:
        """epoll says so of a backend that is dialled, or of a client that is watched meanwhile."""
        if half.choice is None:
            dial = self._dials[half.fd]
            if events & _FAILED or self._has_left(half):
                self._end(dial)
                self._connector.bury(half, dial.listener)
            return
        error = half.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _FAILED else 0
        if not error and not events & select.EPOLLOUT:
            return
        if half.fd not in self._dials:
            self._losing.answered(half, error)
            return
        dial = self._dials[half.fd]
        self._answered(dial, next(one for one in dial.attempts if one.backend is half), error)
        if not error and events & EPOLLIN and not half.state & DEAD:
            self._relay.pump(half)

    def _answered(self, dial: Dial, attempt: Attempt, error: int) -> None:
        if not error:
            self._won(dial, attempt)
            return
        self._part(dial, attempt)
        self._sessions.bury(attempt.backend)
        if not self._is_settled(dial, attempt.choice, reason_of(error)):
            self._dial_on(dial)

    def _won(self, dial: Dial, attempt: Attempt) -> None:
        """This one has answered first; the others have lost, and tell what they can."""
        client, listener, retry, now_ms = dial.client, dial.listener, dial.retry, self._clock.now_ms
        frontend, identity = listener.frontend, attempt.choice.identity
        if attempt in dial.attempts:
            self._part(dial, attempt)
            attempt.backend.state = 0
        while dial.attempts:
            loser = dial.attempts[0]
            self._part(dial, loser)
            self._losing.begin(loser, frontend, dial.host, identity)
        for silent in retry.silent:
            self._balancer.failed(frontend, silent, dial.host, now_ms)
        if retry.is_hedged:
            self._balancer.adopt(frontend, identity, dial.host, now_ms)
        self._end(dial)
        waited_ms, counters = now_ms - client.began_ms, listener.counters
        self._words[counters + F_DIALS_BY_BITS[waited_ms.bit_length()]] += 1
        self._words[counters + F_DIALS_MS] += waited_ms
        took_ms = attempt.took_ms(now_ms, self._words[attempt.choice.connect_time])
        self._connector.connected(client, attempt.backend, listener, took_ms)

    def _is_settled(self, dial: Dial, choice: Choice, reason: Reason) -> bool:
        """Account for a dial that has failed. False if the next member is to be dialled."""
        self._count_failure(choice, reason)
        command = dial.retry.dial_failed(choice.identity, reason)
        if reason in EJECTING and reason is not Reason.TIMEOUT:
            self._balancer.failed(dial.listener.frontend, choice.identity, dial.host, self._clock.now_ms)
        if command is Command.DIAL_NEXT:
            return False
        if command is Command.GIVE_UP and not dial.attempts:
            self._give_up_dial(dial, reason)
        else:
            self._sessions.short = self._clock.is_restless = True
            self._timers.at(dial, self._clock.now_ms + LATER_MS)
        return True

    def _count_failure(self, choice: Choice, reason: Reason) -> None:
        self._words[choice.failures + reason] += 1
        self._words[choice.active] -= 1

    # clients that wait

    def _watch_client(self, dial: Dial) -> None:
        """From now on it is noticed if it leaves; who is served at once is spared the system call."""
        client = dial.client
        if client.state & DIALLING:
            return
        try:
            self._sessions.epoll.register(client.fd, _LEAVING)
        except OSError:
            # for lack of something; it is tried again
            return
        client.state |= DIALLING
        self._dials[client.fd] = dial
        self._sessions.halves[client.fd] = client

    def _has_left(self, client: Half) -> bool:
        """It has sent its end: half-closed with a request, it is served; who has said nothing is gone."""
        if client.state & PENDING:
            return False
        try:
            return not client.recv(1, DONTWAIT | _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _end(self, dial: Dial) -> None:
        """It waits no longer; whatever is still under way is given up."""
        dial.due_ms = NEVER
        while dial.attempts:
            attempt = dial.attempts[0]
            self._part(dial, attempt)
            self._words[attempt.choice.active] -= 1
            discard(self._sessions, attempt.backend)
        client = dial.client
        if client.state & DIALLING:
            client.state &= ~DIALLING
            del self._dials[client.fd]
            self._sessions.halves[client.fd] = None
            self._sessions.epoll.unregister(client.fd)

    def _end_unanswered(self, dial: Dial) -> None:
        for attempt in dial.attempts:
            self._words[attempt.choice.failures + Reason.TIMEOUT] += 1
        self._give_up_dial(dial, Reason.TIMEOUT)

    def _give_up_dial(self, dial: Dial, reason: Reason) -> None:
        self._end(dial)
        self._connector.give_up(dial.client, dial.listener, reason)
