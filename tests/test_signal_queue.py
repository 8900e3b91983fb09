"""What signals ask: in which order it is told, and what a stop interrupts."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from kpf import signals
from kpf.master.signal_queue import SignalAction, SignalQueue


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10.0))


def test_reloads_do_not_pile_up() -> None:
    async def scene() -> None:
        queue = SignalQueue()
        for action in (
            SignalAction.RELOAD,
            SignalAction.RELOAD,
            SignalAction.STOP,
            SignalAction.RELOAD,
            SignalAction.STOP_NOW,
        ):
            queue.note(action)
        assert [await queue.get() for _ in range(3)] == [SignalAction.RELOAD, SignalAction.STOP, SignalAction.STOP_NOW]
        queue.note(SignalAction.RELOAD)
        assert await queue.get() is SignalAction.RELOAD

    play(scene())


def test_what_was_held_is_heard_and_what_means_nothing_is_not() -> None:
    async def scene() -> None:
        queue = SignalQueue()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signals.hold()
        try:
            # not to the process: another thread of the test run might hear them
            us = threading.get_ident()
            for number in (signal.SIGUSR1, signal.SIGHUP):
                signal.pthread_kill(us, number)
            with queue.heard():
                assert await queue.get() is SignalAction.RELOAD
            # nobody is left to obey
            signal.pthread_kill(us, signal.SIGTERM)
            assert signal.SIGTERM in signal.sigpending()
            assert signal.sigwait([signal.SIGTERM]) == signal.SIGTERM
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    play(scene())


@pytest.mark.parametrize("action", [SignalAction.STOP, SignalAction.STOP_NOW, SignalAction.LEAVE])
def test_a_stop_interrupts_what_would_never_end(action: SignalAction) -> None:
    async def scene() -> None:
        queue, ended = SignalQueue(), asyncio.Event()

        async def endless() -> int:
            try:
                queue.note(SignalAction.RELOAD)
                await asyncio.sleep(0)
                queue.note(action)
                await asyncio.Event().wait()
                return 0
            finally:
                ended.set()

        assert await queue.unless_stopped(endless()) is None
        assert ended.is_set()
        assert await queue.get() is SignalAction.RELOAD
        assert await queue.get() is action

    play(scene())


def test_what_ends_or_fails_first_does_so() -> None:
    async def three() -> int:
        return 3

    async def fails() -> int:
        raise OSError("no")

    async def scene() -> None:
        queue = SignalQueue()
        assert await queue.unless_stopped(three()) == 3
        with pytest.raises(OSError, match="no"):
            await queue.unless_stopped(fails())

    play(scene())
