"""Standard error that never holds up who writes to it: a thread does the writing, from a queue that is bounded.

Whoever is to read it may have stopped for good (a log driver that hangs), or the disk may be full. Setting O_NONBLOCK
would change it for everybody who shares it. What finds the queue full is dropped and counted; once all that was queued
has been written, a line says how many were dropped, and what comes after that is kept again. So the order stays.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

QUEUE_BYTES = 256 << 10
# how long the end of the process waits for what is queued
DRAIN_S = 0.5
# a reader that is gone, or a disk that is full, may come right
RETRY_S = 1.0
DROPPED = "%d lines were dropped: nobody read standard error"


class _Piece(NamedTuple):
    data: bytes
    lines: int


class StandardError(io.TextIOBase):
    """What is written goes to `descriptor` as whole lines. `note`: the line that says how many were dropped.

    The thread begins with the first line.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.note: Callable[[int], str] = lambda dropped: DROPPED % dropped
        self._descriptor = descriptor
        self._queue: deque[_Piece] = deque()
        self._queued_bytes = self._dropped = 0
        self._rest = ""
        # of all of the above; the thread waits for lines, `drain` for the end of the queue
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Queue the lines that are complete. Never blocks, never raises OSError."""
        with self._changed:
            whole, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._put(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Nothing: it would block."""

    def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Wait until all is written, but no longer than this."""
        with self._changed:
            if self._rest:
                self._put(self._rest + "\n")
                self._rest = ""
            if self._thread is not None:
                self._changed.wait_for(lambda: not self._queue and not self._dropped, timeout_s)

    def _put(self, text: str) -> None:
        lines = text.count("\n")
        if self._dropped or self._queued_bytes >= QUEUE_BYTES or not self._has_thread():
            self._dropped += lines
            return
        data = text.encode(errors="backslashreplace")
        self._queue.append(_Piece(data, lines))
        self._queued_bytes += len(data)
        self._changed.notify_all()

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="standard error", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # no process or memory left, or the interpreter is about to end
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._dropped)
                piece, told = self._queue[0] if self._queue else None, self._dropped
            written = _write(self._descriptor, piece.data if piece else (self.note(told) + "\n").encode())
            with self._changed:
                if piece:
                    self._queue.popleft()
                    self._queued_bytes -= len(piece.data)
                    self._dropped += 0 if written else piece.lines
                elif written:
                    self._dropped -= told
                self._changed.notify_all()
                if not written:
                    self._changed.wait(RETRY_S)


def _write(descriptor: int, data: bytes) -> bool:
    """Whether all of it was written. Blocks."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # whoever shares it has set O_NONBLOCK
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True


def install() -> None:
    """Make `sys.stderr` one, unless it has been replaced or closed already."""
    standard = sys.__stderr__
    if standard is not None and sys.stderr is standard:
        sys.stderr = made = StandardError(standard.fileno())
        atexit.register(made.drain)
