"""Standard error that never holds up who writes to it: a thread does the writing, from a queue that is bounded.

Whoever is to read it may have stopped for good (a log driver that hangs), or the disk may be full. Setting O_NONBLOCK
would change it for everybody who shares it. What finds the queue full is dropped and counted; once all that was queued
has been written, a line says how many were dropped, and what comes after that is kept again. So the order stays.

systemd's journal makes an entry of each line, with the priority that it begins with ("<3>": sd-daemon(3)). Lines that
have none, such as a traceback's, get that of an error there.
"""

import _thread
import atexit
import io
import os
import re
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
_WITHOUT_PRIORITY = re.compile(r"^(?!<[0-7]>)", re.MULTILINE)


class _Piece(NamedTuple):
    """`lines`: how many are lost with it."""

    data: bytes
    lines: int


class StandardError(io.TextIOBase):
    """What is written goes to `descriptor` as whole lines. `note`: the line that says how many were dropped.

    `is_journal`: systemd's journal reads it. The thread begins with the first line.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.note: Callable[[int], str] = lambda dropped: DROPPED % dropped
        self.is_journal = _is_journal(descriptor)
        self._descriptor = descriptor
        self._queue: deque[_Piece] = deque()
        self._queued_bytes = self._dropped = 0
        self._rest = ""
        # of all of the above; the thread waits for lines, `drain` for the end of the queue
        self._changed = threading.Condition()
        self._has_begun = False

    def fileno(self) -> int:
        """What is written there directly overtakes the queue."""
        return self._descriptor

    def writable(self) -> bool:
        """At any time: what there is no room for is dropped, and counted."""
        return True

    def write(self, text: str) -> int:
        """Queue the lines that are complete. Never blocks, never raises OSError."""
        with self._changed:
            whole, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._put(whole)
        return len(text)

    def flush(self) -> None:
        """Does nothing: it would block. `drain` waits."""

    def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Wait until all is written, but no longer than this."""
        with self._changed:
            if self._rest:
                self._put(self._rest)
                self._rest = ""
            if self._has_begun:
                self._changed.wait_for(lambda: not self._queue and not self._dropped, timeout_s)

    def _put(self, text: str) -> None:
        """`text`: whole lines, without the end of the last one."""
        lines = text.count("\n") + 1
        if self._dropped or self._queued_bytes >= QUEUE_BYTES or not self._begin():
            self._dropped += lines
            return
        self._append(text, lines)
        self._changed.notify_all()

    def _begin(self) -> bool:
        if not self._has_begun:
            try:
                # of `threading` one would be waited for until it runs
                _thread.start_new_thread(self._run, ())
            except RuntimeError:
                # no process or memory left, or the interpreter is about to end
                return False
            self._has_begun = True
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._dropped)
                if not self._queue:
                    # it stands for the lines that it tells of, and is lost as they are
                    self._append(self.note(self._dropped), self._dropped)
                    self._dropped = 0
                piece = self._queue[0]
            is_written = _write(self._descriptor, piece.data)
            with self._changed:
                self._queue.popleft()
                self._queued_bytes -= len(piece.data)
                self._changed.notify_all()
                if not is_written:
                    self._dropped += piece.lines
                    self._changed.wait(RETRY_S)

    def _append(self, text: str, lines: int) -> None:
        if self.is_journal:
            text = _WITHOUT_PRIORITY.sub("<3>", text)
        piece = _Piece((text + "\n").encode(errors="backslashreplace"), lines)
        self._queue.append(piece)
        self._queued_bytes += len(piece.data)


def _is_journal(descriptor: int) -> bool:
    """As systemd.exec(5) says of $JOURNAL_STREAM: it may have been inherited, and standard error be another."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


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
