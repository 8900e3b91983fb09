"""Signals that would end a worker and are ignored: all that a terminal, a service manager or a tool may send to a
process group. When a worker ends is the master's business.

Not those that mean a fault or ask for a core dump (SIGQUIT, SIGABRT), nor real-time ones, which nobody sends by
mistake.
"""

import signal

IGNORED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM),
    *(signal.SIGPROF, signal.SIGPIPE, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT),
)


def ignore() -> None:
    """To be called before anything is imported that takes its time."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
