"""Signals that would end a worker, and are ignored: when it ends is the master's business.

These are all that a terminal, a service manager or a tool may send to a process group. Not those that mean a fault or
ask for a core dump (SIGQUIT, SIGABRT), nor real-time ones, which nobody sends by mistake.

The interpreter takes some time before any of our code runs, so a worker is born with these signals blocked.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

IGNORED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM),
    *(signal.SIGPROF, signal.SIGPIPE, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT),
)


def ignore() -> None:
    """To be called before anything is imported that takes its time."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)


@contextmanager
def blocked() -> Iterator[None]:
    """Whoever is started inside inherits that they are blocked; what comes meanwhile is delivered afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
