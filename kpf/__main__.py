"""`python -m kpf` is the `kpf` command."""

import gc
import sys

from kpf import signals

# of the garbage collector: hardly any object is garbage. Collections while modules are imported would be a sixth of a
# start, and in a large cluster a full one looks at a million objects for a third of a second
COLLECT_AFTER = (20_000, 20, 20)


def main() -> int:
    """What the command line says; the exit status."""
    gc.set_threshold(*COLLECT_AFTER)
    if sys.argv[1:2] == ["run"]:
        signals.hold()
    # takes as long as all that has happened until now
    from kpf.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
