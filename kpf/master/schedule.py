"""When a sync begins: when one is requested, an hour after the last full one, and again after a failure.

At once when it has been quiet, else `MIN_INTERVAL_S` after the beginning of the last one.

After a failure there is a back-off. What is requested meanwhile waits for a second of it at most, since it may be the
remedy.
"""

import asyncio
import contextlib
import time

MIN_INTERVAL_S = 0.1
FULL_SYNC_INTERVAL_S = 3600.0
RETRY_FIRST_S = 0.25
RETRY_LAST_S = 10.0
RETRY_ASKED_S = 1.0


class Schedule:
    """Times are on the monotonic clock."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._begun_s = self._full_due_s = self._retry_due_s = float("-inf")
        self._interval_s = 0.0
        # 0 while all is well
        self._back_off_s = 0.0

    def request(self, *, full: bool = False) -> None:
        """Begin a sync as soon as may be; `full`: a full one, however long ago the last one was."""
        if full:
            self._full_due_s = float("-inf")
        self._requested.set()

    async def wait(self) -> bool:
        """Return when a sync is to begin: whether a full one is due."""
        await asyncio.sleep(max(0.0, self._begun_s + self._interval_s - time.monotonic()))
        due_s = self._retry_due_s if self._back_off_s else self._full_due_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(due_s - time.monotonic(), 0.0)):
                await self._requested.wait()
        self._requested.clear()
        self._begun_s, self._interval_s = time.monotonic(), MIN_INTERVAL_S
        is_full_due = self._begun_s >= self._full_due_s
        if is_full_due:
            self._full_due_s = self._begun_s + FULL_SYNC_INTERVAL_S
        return is_full_due

    def synced_in_full(self) -> None:
        """The sync that has begun last was a full one: an hour from then, unless one was requested meanwhile."""
        if self._full_due_s >= self._begun_s:
            self._full_due_s = self._begun_s + FULL_SYNC_INTERVAL_S

    @property
    def is_backing_off(self) -> bool:
        """What has failed is not to be tried again yet."""
        return time.monotonic() < self._retry_due_s

    def succeed(self) -> None:
        """There is nothing to try again."""
        self._back_off_s, self._retry_due_s = 0.0, float("-inf")

    def retry(self) -> None:
        """Something is left to be tried again, after a time that grows."""
        self._back_off_s = min(max(self._back_off_s * 2, RETRY_FIRST_S), RETRY_LAST_S)
        self._retry_due_s = time.monotonic() + self._back_off_s

    def fail(self) -> None:
        """All is to be tried again: other things requested meanwhile, too, are not tried at once."""
        self.retry()
        self._interval_s = min(self._back_off_s, RETRY_ASKED_S)
