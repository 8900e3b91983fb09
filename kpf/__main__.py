"""`python -m kpf` is the `kpf` command."""

import sys

from kpf import signals


def main() -> int:
    """What the command line says; the exit status."""
    if sys.argv[1:2] == ["run"]:
        signals.hold()
    # takes as long as all that has happened until now
    from kpf.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
