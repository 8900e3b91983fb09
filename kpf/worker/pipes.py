"""Pipes for splicing: lent to a direction only while bytes sit in them, so a few serve all sessions."""

import contextlib
import fcntl
import os

PIPE_SIZE = 1 << 20
MAX_PIPES = 32
# past fs.pipe-user-pages-soft (64 MiB by default) new pipes of an ordinary user are 8 KiB
USER_BUDGET = 60 << 20

Pipe = tuple[int, int]


class PipePool:
    """At most `limit` pipes. One that cannot be `PIPE_SIZE` is not used: copying is cheaper then.

    What the system refuses is asked for again a round later: others of the same user, such as an earlier daemon's
    workers, may have given theirs back.
    """

    def __init__(self, workers: int) -> None:
        self.limit = min(MAX_PIPES, USER_BUDGET // PIPE_SIZE // workers)
        self._idle: list[Pipe] = []
        self._open = 0
        self._is_refused = False
        # how many have stayed idle since the last `trim`
        self._unused = 0

    @property
    def has_room(self) -> bool:
        """False if the next `take` gives nothing for sure."""
        return bool(self._idle) or (self._open < self.limit and not self._is_refused)

    def take(self) -> Pipe | None:
        """An empty pipe; None if all are lent out, or the system gives no more."""
        if self._idle:
            pipe = self._idle.pop()
            self._unused = min(self._unused, len(self._idle))
            return pipe
        if not self.has_room:
            return None
        made = self._make()
        if made is None:
            self._is_refused = True
        else:
            self._open += 1
        return made

    def _make(self) -> Pipe | None:
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            self._close(pipe)
            return None
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an empty pipe, for whoever asks next."""
        self._idle.append(pipe)

    def trim(self) -> None:
        """The end of a round: close the pipes that nobody has needed since the last time."""
        self._is_refused = False
        for _ in range(self._unused):
            self.discard(self._idle.pop(0))
        self._unused = len(self._idle)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe that still holds bytes nobody will read."""
        self._close(pipe)
        self._open -= 1

    @staticmethod
    def _close(pipe: Pipe) -> None:
        for descriptor in pipe:
            with contextlib.suppress(OSError):
                os.close(descriptor)
