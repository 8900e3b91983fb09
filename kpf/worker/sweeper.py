"""Looks after connections that last, a few at a time, so that short ones need not pay for it.

Backends' sockets get keepalive once they have lived through a whole round: four system calls that short connections
are spared. A connection that is half-closed and has been silent for too long is cut. Pipes that were not needed for a
round are closed, those that others need are taken from who does not read.
"""

import contextlib
import socket

from kpf.net.sockets import keep_alive
from kpf.uapi.sockets import TCPI_LAST_DATA_RECV
from kpf.worker.clock import Clock
from kpf.worker.half import Half
from kpf.worker.lender import Lender
from kpf.worker.pipes import PipePool
from kpf.worker.relay import Relay
from kpf.worker.sessions import Sessions
from kpf.worker.states import DEAD, DIALLING, PASSED

ROUND_MS = 15_000
STEPS = 30
HALF_CLOSED_LIMIT_MS = 3_600_000


class Sweeper:
    """A round of all sockets takes 15 s, in steps of half a second."""

    def __init__(self, sessions: Sessions, relay: Relay, clock: Clock, pipes: PipePool) -> None:
        self._sessions, self._relay, self._clock, self._pipes = sessions, relay, clock, pipes
        self._lender = Lender(sessions, pipes)
        self._next_ms = 0
        self._step = 0
        # by step: how often each half was seen
        self._ages: list[dict[Half, int]] = [{} for _ in range(STEPS)]

    def sweep(self) -> None:
        """Do the next step when it is time; to be called at every look around."""
        if self._clock.now_ms >= self._next_ms:
            self._next_ms = self._clock.now_ms + ROUND_MS // STEPS
            self._lender.look()
            self._step = (self._step + 1) % STEPS
            if not self._step:
                self._pipes.trim()
            before = self._ages[self._step]
            present = [half for half in self._sessions.halves[self._step :: STEPS] if half is not None]
            ages = self._ages[self._step] = {half: before.get(half, 0) + 1 for half in present}
            for half, age in ages.items():
                if not half.state & (DIALLING | DEAD):
                    self._sessions.account(half)
                    self._look_at(half, age)
        self._clock.at(self._next_ms)

    def _look_at(self, half: Half, age: int) -> None:
        if age == 2 and half.choice is not None:
            # a system that refuses it to one socket
            with contextlib.suppress(OSError):
                keep_alive(half)
        if half.end == PASSED and age > 2 and self._silent_ms(half) >= HALF_CLOSED_LIMIT_MS:
            self._relay.fail(half)

    def _silent_ms(self, half: Half) -> int:
        """How long nothing has come from either side."""
        silent_ms: list[int] = []
        for one in (half, half.peer):
            with contextlib.suppress(OSError):
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_LAST_DATA_RECV.size)
                silent_ms += TCPI_LAST_DATA_RECV.unpack(info)
        return min(silent_ms, default=0)
