"""What ends a program early: Ctrl-C, `kill`, and a terminal that is closed. What it has begun is ended or put back."""

import signal
from types import FrameType

# a terminal that is closed says SIGHUP
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def install() -> None:
    """From now on the first of `INTERRUPTS` raises `KeyboardInterrupt` with its number; all after it are ignored."""
    # who is started in the background by a shell without job control inherits that SIGINT is ignored: it ends us too
    for number in INTERRUPTS:
        # nohup ignores SIGHUP, and means it
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """What a shell says of a program that such a signal ended: 128 and its number."""
    # Python's own, before `install`, has no number
    number, *_ = *interrupt.args, signal.SIGINT
    return 128 + int(number)


def _interrupt(number: int, _: FrameType | None) -> None:
    # one is enough: what cleans up must not be interrupted
    for one in INTERRUPTS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt(number)
