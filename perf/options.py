"""The options that scripts share, each defined once. Every number has bounds."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perf import address
from perf.load.result import Address


def documented(name: str, doc: str) -> argparse.ArgumentParser:
    """A parser of `python -m perf.NAME`, whose help is its docstring: after the first paragraph at the end."""
    about, _, more = doc.partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m perf.{name}",
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parser(name: str, doc: str, *, needs: str) -> argparse.ArgumentParser:
    """A parser with what every script takes; `doc` is the script's docstring, `needs` as `Script` has it."""
    made = argparse.ArgumentParser(
        prog=f"python -m perf.{name}",
        description=doc,
        epilog=_EXAMPLES.format(name=name, more=" --manifest shop.yaml" if needs == "manifest" else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "target", nargs="?", type=_target, metavar="TARGET",
        help="ip:port or [ip]:port of a Service or server that speaks HTTP; without it the script makes a world of its "
        "own: a private network namespace, backends, a `kpf run`, and ends it",
    )  # fmt: skip
    made.add_argument(
        "--control-socket", default="", metavar="PATH",
        help="control socket of the kpf that serves TARGET; without it nothing is known about its processes",
    )  # fmt: skip
    number(made, "--rounds", int, 1, 100, 3, "how often it is measured; the table has each round and their median")
    workers = min(len(os.sched_getaffinity(0)), 64)
    number(made, "--workers", int, 1, 64, workers, "worker processes of the kpf in the world of its own")
    made.add_argument("--json", metavar="FILE", type=_output, help="write all figures there too; - is standard output")
    return made


def seconds(to: argparse.ArgumentParser) -> None:
    number(to, "--seconds", float, 0.1, 600, 5, "how long a round lasts, in seconds")


def connections(
    to: argparse.ArgumentParser, default: int, most: int, what: str, *, name: str = "--connections"
) -> None:
    number(to, name, int, 1, most, default, what)


def number(
    to: argparse.ArgumentParser,
    name: str,
    kind: type[int] | type[float],
    low: float,
    high: float,
    default: float | None,
    what: str,
) -> None:
    """An option that takes a number from `low` to `high`."""
    said = "none" if default is None else f"{default:g}"
    to.add_argument(
        name, type=_bounded(kind, low, high), default=default, metavar="N",
        help=f"{what} ({low:,g} to {high:,g}; default: {said})",
    )  # fmt: skip


def parameters(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as JSON has it; without a target the world is the script's own."""
    given = {name: value for name, value in vars(options).items() if value is not None and name != "json"}
    if options.target:
        given["target"] = address.show(options.target)
    return {name: value if isinstance(value, int | float) else str(value) for name, value in given.items()}


def _bounded(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:,g} to {high:,g}")
        return value

    return read


def _output(text: str) -> Path:
    path = Path(text)
    # known before the measurement, not after it
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no file can be there")
    return path


def _target(text: str) -> Address:
    try:
        return address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_EXAMPLES = """\
examples:
  python -m perf.{name}
  python -m perf.{name} 10.96.0.10:80 --control-socket /run/kpf/control.sock{more}
  python -m perf.{name} --rounds 5 --json figures.json

exit status: 0; 1 if there were errors that must not be; 2 wrong usage
"""
