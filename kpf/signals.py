"""Signals of the daemon while nobody can obey them: before its event loop has handlers for them, and after it.

They are held then: whoever hears them next obeys. A child that is started meanwhile would inherit that, so none is.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# by default they end a process; to the daemon they mean nothing
MEANINGLESS = (signal.SIGUSR1,)
_HELD = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, *MEANINGLESS)


def hold() -> None:
    """From now on, for the rest of the process's life; `heard` is the exception."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


@contextmanager
def heard() -> Iterator[None]:
    """Handlers get them inside, also those that have come before."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
