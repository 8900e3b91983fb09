"""Takes pipes back from directions whose readers take next to nothing, while others have none.

What sits in such a pipe, 1 MiB at most, goes into memory and is sent from there. Its direction copies from then on,
with 64 KiB in hand, until its reader takes a whole read again.
"""

import os

from kpf.worker.half import Half
from kpf.worker.pipes import PipePool
from kpf.worker.sessions import Sessions
from kpf.worker.states import PENDING, PIPED, SPLICING

# what a reader has to take between two looks, which are half a second apart, or a fuller pipe must have come
KEEPS_PIPE = 1 << 16
# what all directions of a worker may have in memory; past it pipes stay where they are, and others copy
MEMORY_LIMIT = 64 << 20


class Lender:
    """Looks at what is lent out, only while the pool is empty."""

    def __init__(self, sessions: Sessions, pipes: PipePool) -> None:
        self._sessions, self._pipes = sessions, pipes
        # what was in each pipe at the last look
        self._before: dict[Half, int] = {}

    def look(self) -> None:
        """To be called twice a second.

        Who has taken less than `KEEPS_PIPE` since the last time gives its pipe back, as far as `MEMORY_LIMIT` goes.
        """
        if self._pipes.has_room:
            self._before = {}
            return
        waiting = [half for half in self._sessions.halves if half is not None and half.state & PENDING]
        kept = sum(len(half.pending) for half in waiting if not half.state & PIPED)
        lent = {half: half.piped for half in waiting if half.state & PIPED}
        for half, piped in lent.items():
            is_stuck = piped <= self._before.get(half, 0) < piped + KEEPS_PIPE
            if is_stuck and kept + piped <= MEMORY_LIMIT:
                self._empty(half)
                kept += piped
        self._before = lent

    def _empty(self, half: Half) -> None:
        half.pending = memoryview(os.read(half.pipe[0], half.piped))
        self._pipes.give(half.pipe)
        half.state &= ~(PIPED | SPLICING)
