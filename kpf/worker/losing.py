"""Dials that another one has beaten: they run on for a while, and teach what is normal for their endpoints.

An answer says that the endpoint lives, and how long it takes; it is reset then, and has seen no byte. Silence beside
another endpoint that answered ejects it; already after twice its attempt delay it is suspected, and picks pass over it.
"""

import errno

from kpf.shm.balancer import Balancer
from kpf.shm.health import LOSING_DIAL_MS, attempt_delay_ms
from kpf.shm.region import Words
from kpf.worker.attempt import UNDER_WAY, Attempt, answer, discard, reason_of
from kpf.worker.clock import Clock
from kpf.worker.half import Half
from kpf.worker.retry import EJECTING
from kpf.worker.sessions import Sessions
from kpf.worker.timers import NEVER, Timers

# of a worker at a time: each holds a descriptor. What loses while there are so many teaches nothing
LOSING_DIALS = 256


class LosingDial:
    """`host`: the client, and `winner`: who answered it."""

    __slots__ = ("attempt", "due_ms", "frontend", "host", "verdict_ms", "winner")

    def __init__(self, attempt: Attempt, frontend: int, host: str, winner: int, verdict_ms: int) -> None:
        self.attempt, self.frontend, self.host, self.winner = attempt, frontend, host, winner
        self.verdict_ms, self.due_ms = verdict_ms, NEVER


class LosingDials:
    """All losing dials of this worker, `LOSING_DIALS` at most: a dial that would be one more is reset at once."""

    def __init__(self, sessions: Sessions, balancer: Balancer, words: Words, clock: Clock, timers: Timers) -> None:
        self._sessions, self._balancer, self._words = sessions, balancer, words
        self._clock, self._timers = clock, timers
        self._by_descriptor: dict[int, LosingDial] = {}

    def begin(self, attempt: Attempt, frontend: int, host: str, winner: int) -> None:
        """This dial has lost against the winner's."""
        if len(self._by_descriptor) >= LOSING_DIALS:
            self._words[attempt.choice.active] -= 1
            discard(self._sessions, attempt.backend)
            return
        now_ms = self._clock.now_ms
        losing = LosingDial(attempt, frontend, host, winner, now_ms + LOSING_DIAL_MS)
        self._by_descriptor[attempt.backend.fd] = losing
        self._sessions.extra += 1
        suspicious_ms = attempt.began_ms + 2 * attempt_delay_ms(self._words[attempt.choice.connect_time])
        self._timers.at(losing, min(max(now_ms, suspicious_ms), losing.verdict_ms))

    def answered(self, backend: Half, error: int) -> None:
        """epoll says so: it is connected, or has failed with this errno; 0: connected."""
        self._end(self._by_descriptor[backend.fd], error)

    def look_at(self, losing: LosingDial) -> None:
        """Its time has come: the member is suspected, and `LOSING_DIAL_MS` after its dial has lost ejected."""
        error = answer(losing.attempt.backend)
        if error not in UNDER_WAY:
            # it is this process that was late
            self._end(losing, error)
        elif self._clock.now_ms < losing.verdict_ms:
            self._balancer.suspect(losing.frontend, losing.attempt.choice.identity, losing.verdict_ms)
            self._timers.at(losing, losing.verdict_ms)
        else:
            self._end(losing, errno.ETIMEDOUT)

    def _end(self, losing: LosingDial, error: int) -> None:
        attempt, words, now_ms = losing.attempt, self._words, self._clock.now_ms
        choice, losing.due_ms = attempt.choice, NEVER
        del self._by_descriptor[attempt.backend.fd]
        self._sessions.extra -= 1
        if error:
            reason = reason_of(error)
            words[choice.failures + reason] += 1
            if reason in EJECTING:
                self._balancer.failed(losing.frontend, choice.identity, losing.host, now_ms)
                self._balancer.adopt(losing.frontend, losing.winner, losing.host, now_ms)
        else:
            self._balancer.answered(
                losing.frontend, choice.identity, attempt.took_ms(now_ms, words[choice.connect_time])
            )
        # not before: the session may be over and the frontend gone, and then nothing else keeps the member's place
        words[choice.active] -= 1
        discard(self._sessions, attempt.backend)
