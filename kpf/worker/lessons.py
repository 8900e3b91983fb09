"""Dials that another one has beaten: they run on for a while, and teach what is normal for their endpoints.

An answer says that the endpoint lives, and how long it takes; it is reset then, and has seen no byte. Silence beside
another endpoint that answered shuts it out; already after twice its patience it is suspected, and turns pass over it.
"""

import errno

from kpf.shm.balancer import Balancer
from kpf.shm.health import LESSON_MS, patience_ms
from kpf.shm.region import Words
from kpf.worker.agenda import NEVER, Agenda
from kpf.worker.attempt import UNDER_WAY, Attempt, answer, discard, reason_of
from kpf.worker.clock import Clock
from kpf.worker.half import Half
from kpf.worker.session import SHUTS_OUT
from kpf.worker.sessions import Sessions

# of a worker at a time: each holds a descriptor. What loses while there are so many teaches nothing
LESSONS = 256


class Lesson:
    """`host`: the client, and `winner`: who answered it."""

    __slots__ = ("attempt", "due_ms", "frontend", "host", "verdict_ms", "winner")

    def __init__(self, attempt: Attempt, frontend: int, host: str, winner: int, verdict_ms: int) -> None:
        self.attempt, self.frontend, self.host, self.winner = attempt, frontend, host, winner
        self.verdict_ms, self.due_ms = verdict_ms, NEVER


class Lessons:
    """All lessons of this worker, `LESSONS` at most: a dial that would be one more is reset at once."""

    def __init__(self, sessions: Sessions, balancer: Balancer, words: Words, clock: Clock, agenda: Agenda) -> None:
        self._sessions, self._balancer, self._words = sessions, balancer, words
        self._clock, self._agenda = clock, agenda
        self._by_descriptor: dict[int, Lesson] = {}

    def begin(self, attempt: Attempt, frontend: int, host: str, winner: int) -> None:
        """This dial has lost against the winner's."""
        if len(self._by_descriptor) >= LESSONS:
            self._words[attempt.choice.active] -= 1
            discard(self._sessions, attempt.backend)
            return
        now_ms = self._clock.now_ms
        lesson = Lesson(attempt, frontend, host, winner, now_ms + LESSON_MS)
        self._by_descriptor[attempt.backend.fd] = lesson
        self._sessions.extra += 1
        suspicious_ms = attempt.began_ms + 2 * patience_ms(self._words[attempt.choice.usual])
        self._agenda.at(lesson, min(max(now_ms, suspicious_ms), lesson.verdict_ms))

    def answered(self, backend: Half, error: int) -> None:
        """epoll says so: it is connected, or has failed with this errno; 0: connected."""
        self._end(self._by_descriptor[backend.fd], error)

    def look_at(self, lesson: Lesson) -> None:
        """Its time has come: the member is suspected, and `LESSON_MS` after its dial has lost shut out."""
        error = answer(lesson.attempt.backend)
        if error not in UNDER_WAY:
            # it is this process that was late
            self._end(lesson, error)
        elif self._clock.now_ms < lesson.verdict_ms:
            self._balancer.suspect(lesson.frontend, lesson.attempt.choice.identity, lesson.verdict_ms)
            self._agenda.at(lesson, lesson.verdict_ms)
        else:
            self._end(lesson, errno.ETIMEDOUT)

    def _end(self, lesson: Lesson, error: int) -> None:
        attempt, words, now_ms = lesson.attempt, self._words, self._clock.now_ms
        choice, lesson.due_ms = attempt.choice, NEVER
        del self._by_descriptor[attempt.backend.fd]
        self._sessions.extra -= 1
        if error:
            reason = reason_of(error)
            words[choice.failures + reason] += 1
            if reason in SHUTS_OUT:
                self._balancer.failed(lesson.frontend, choice.identity, lesson.host, now_ms)
                self._balancer.adopt(lesson.frontend, lesson.winner, lesson.host, now_ms)
        else:
            self._balancer.answered(lesson.frontend, choice.identity, attempt.took_ms(now_ms, words[choice.usual]))
        # not before: the session may be over and the frontend gone, and then nothing else keeps the member's place
        words[choice.active] -= 1
        discard(self._sessions, attempt.backend)
