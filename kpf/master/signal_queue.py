"""What signals ask of the daemon, queued. A handler does nothing but put it there."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, TypeVar

from kpf import signals
from kpf.master import ending

T = TypeVar("T")


class SignalAction(Enum):
    """What a signal asks for."""

    RELOAD = auto()
    STOP = auto()
    STOP_NOW = auto()
    LEAVE = auto()
    # by no signal: a successor does
    HAND_OVER = auto()


SIGNALS = {
    signal.SIGHUP: SignalAction.RELOAD,
    signal.SIGTERM: SignalAction.STOP,
    signal.SIGINT: SignalAction.STOP_NOW,
    signal.SIGUSR2: SignalAction.LEAVE,
}


class SignalQueue:
    """In the order in which they came. Made inside the event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[SignalAction] = asyncio.Queue()
        self._is_stop_asked = asyncio.Event()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Signals are noted inside, also those that were held before."""
        loop = asyncio.get_running_loop()
        for number, action in SIGNALS.items():
            loop.add_signal_handler(number, self.note, action)
        for number in signals.MEANINGLESS:
            loop.add_signal_handler(number, lambda: None)
        with signals.heard():
            yield

    def note(self, action: SignalAction) -> None:
        """Put it behind the others; a reload that waits already stands for this one too."""
        if action is not SignalAction.RELOAD:
            self._is_stop_asked.set()
        elif not self._queue.empty():
            # the reload that is still to come reads what is there by then
            return
        self._queue.put_nowait(action)

    async def get(self) -> SignalAction:
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
