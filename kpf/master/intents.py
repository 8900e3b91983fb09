"""What signals ask of the daemon. A handler does nothing but note it."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, TypeVar

from kpf import signals
from kpf.master import ending

T = TypeVar("T")


class Intent(Enum):
    """What a signal asks for. STOP: once open connections have ended, `drainTimeout` at most; STOP_NOW: at once."""

    RELOAD = auto()
    STOP = auto()
    STOP_NOW = auto()


SIGNALS = {signal.SIGHUP: Intent.RELOAD, signal.SIGTERM: Intent.STOP, signal.SIGINT: Intent.STOP_NOW}


class Intents:
    """In the order in which they came. Made inside the event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Intent] = asyncio.Queue()
        self._is_stop_asked = asyncio.Event()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Signals are noted inside, also those that were held before."""
        loop = asyncio.get_running_loop()
        for number, intent in SIGNALS.items():
            loop.add_signal_handler(number, self.note, intent)
        for number in signals.MEANINGLESS:
            loop.add_signal_handler(number, lambda: None)
        with signals.heard():
            yield

    def note(self, intent: Intent) -> None:
        """Called by signals' handlers. A reload is passed over while anything is still to be obeyed."""
        if intent is not Intent.RELOAD:
            self._is_stop_asked.set()
        elif not self._queue.empty():
            # the reload that is still to come reads what is there by then
            return
        self._queue.put_nowait(intent)

    async def get(self) -> Intent:
        """The next one, once there is one."""
        return await self._queue.get()

    async def unless_stopped(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """Do that; None if it was given up because somebody has asked to stop, which `get` still tells."""
        task, asked = asyncio.create_task(doing), asyncio.create_task(self._is_stop_asked.wait())
        try:
            await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            if not task.done():
                await ending.cancel([task])
        return task.result() if task.done() and not task.cancelled() else None
