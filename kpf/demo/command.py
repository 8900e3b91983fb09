"""`kpf demo`, the command: what was typed, who interrupts it, and the exit status.

What the show needs is imported when interrupts are taken care of: that takes longer than people wait to press Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

from kpf.lab import interrupts, namespace


def main(argv: Sequence[str] = ()) -> int:
    """Play it. 0 if every claim held; 1 if one did not or the kernel refuses the namespaces; 128 + n after signal n."""
    parser = argparse.ArgumentParser(prog="kpf demo", description="A complete show in a network namespace of its own.")
    parser.add_argument("--keep", action="store_true", help="leave it running to play with, for an hour at most")
    is_kept = parser.parse_args(argv).keep
    interrupts.install()
    try:
        from kpf.demo.show import play

        return play(kept_until=interrupts.INTERRUPTS if is_kept else ())
    except namespace.NamespaceRefusedError as error:
        print(
            f"kpf demo: this machine does not let us make a network namespace ({error}): run it as root, or allow "
            "unprivileged user namespaces",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as interrupt:
        print("kpf demo: interrupted; everything is cleaned up", file=sys.stderr)
        return interrupts.exit_status(interrupt)
