"""`kpf demo`, the command: what was typed, who interrupts it, and the exit status.

What the show needs is imported when interrupts are taken care of: that takes longer than people wait to press Ctrl-C.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from kpf.lab import namespace

# a terminal that is closed says SIGHUP
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] = ()) -> int:
    """Play it. 0 if every claim held; 1 if one did not or the kernel refuses the namespaces; 128 + n after signal n."""
    parser = argparse.ArgumentParser(prog="kpf demo", description="A complete show in a network namespace of its own.")
    parser.add_argument("--keep", action="store_true", help="leave it running to play with, for an hour at most")
    is_kept = parser.parse_args(argv).keep
    # who is started in the background by a shell without job control inherits that SIGINT is ignored
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    try:
        from kpf.demo.show import play

        return play(kept_until=INTERRUPTS if is_kept else ())
    except namespace.NamespaceRefusedError as error:
        print(
            f"kpf demo: this machine does not let us make a network namespace ({error}): run it as root, or allow "
            "unprivileged user namespaces",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as interrupt:
        print("kpf demo: interrupted; everything is cleaned up", file=sys.stderr)
        (signal_number,) = interrupt.args
        return 128 + int(signal_number)


def _interrupt(number: int, _: FrameType | None) -> None:
    # one is enough: what cleans up must not be interrupted
    for one in INTERRUPTS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt(number)
