"""`kpf demo`, the command: who interrupts it, and the exit status.

What the show needs is imported when interrupts are taken care of: that takes longer than people wait to press Ctrl-C.
"""

import sys

from kpf.lab import interrupts, namespace


def main(*, is_kept: bool = False) -> int:
    """Play it. 0 if every claim held; 1 if one did not or the kernel refuses the namespaces; 128 + n after signal n.

    `is_kept`: then it goes on to be played with.
    """
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
