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
    """At most `limit` pipes. One that cannot be `PIPE_SIZE` is not used: copying is cheaper then."""

    def __init__(self, workers: int) -> None:
        self.limit = min(MAX_PIPES, USER_BUDGET // PIPE_SIZE // workers)
        self._idle: list[Pipe] = []
        self._open = 0
        # how many have stayed idle since the last `trim`
        self._unused = 0

    @property
    def has_room(self) -> bool:
        """False if the next `take` gives nothing for sure."""
        return bool(self._idle) or self._open < self.limit

    def take(self) -> Pipe | None:
        """An empty pipe; None if all are lent out, or the system gives no more."""
        if self._idle:
            pipe = self._idle.pop()
            self._unused = min(self._unused, len(self._idle))
            return pipe
        if self._open >= self.limit:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            self._close(pipe)
            # it will not be different for the next one
            self.limit = self._open
            return None
        self._open += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        self._idle.append(pipe)

    def trim(self) -> None:
        """Close the pipes that nobody has needed since the last time."""
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
