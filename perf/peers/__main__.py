"""`python -m perf.peers`: kpf, HAProxy, nginx, nftables and no proxy at all, in turn, in a private network namespace.

It answers: what does a connection, a request, a GiB cost here with kpf, and what with what one would use instead? All
subjects run at the same time and take short turns under the same loads. What is not installed is named and left out.
Tables are printed; peers.json (everything), peers.md and, with matplotlib, plots are written to the output directory.
Nothing outside the namespace is touched. Exit status: 0, also if a target is missed; 1 if it could not be measured;
2 wrong usage; 128 + n after signal n.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kpf.lab import interrupts, namespace
from kpf.lab.daemon import DaemonFailedError
from kpf.lab.machine import CallFailedError
from perf import options
from perf.peers import page, record
from perf.peers.figures import Figures
from perf.peers.measure import PARTS, Plan, measure
from perf.peers.record import Run
from perf.peers.subjects import SUBJECTS, SubjectFailedError
from perf.peers.tables import grids
from perf.report import wide_console
from perf.subject import SubjectError

RESULTS = Path("perf/results")
ROUNDS, SECONDS = 17, 0.25


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = options.documented("peers", __doc__ or "")
    names = [subject.name for subject in SUBJECTS]
    options.number(parser, "--rounds", int, 1, 1000, ROUNDS, "rounds that count; one before them warms up")
    options.number(parser, "--seconds", float, 0.05, 30, SECONDS, "how long a turn lasts, in seconds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="CASE", help=", ".join(PARTS))
    parser.add_argument("--subjects", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"where files go ({RESULTS} for a whole run)")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="measure nothing; tables and plots of this record")
    arguments = parser.parse_args(argv)
    if not (arguments.output or arguments.plot or _is_whole(arguments)):
        parser.error(f"what is less than a whole run needs --output: {RESULTS} is for whole ones")
    return arguments


def _is_whole(arguments: argparse.Namespace) -> bool:
    """All cases and subjects, for as many rounds and as long as usual at least."""
    return (
        set(arguments.only) == set(PARTS)
        and len(set(arguments.subjects)) == len(SUBJECTS)
        and arguments.rounds >= ROUNDS
        and arguments.seconds >= SECONDS
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or read, and report."""
    arguments = parse(argv)
    try:
        if arguments.plot:
            output = arguments.output or arguments.plot.parent
            run = record.load(arguments.plot)
            output.mkdir(parents=True, exist_ok=True)
        else:
            # nginx's workers outlive a master that is killed: whoever ends us must let it be stopped
            interrupts.install()
            namespace.enter()
            run = _measure(arguments)
            output = arguments.output or RESULTS
            output.mkdir(parents=True, exist_ok=True)
            record.save(run, output / "peers.json")
            print(f"written: {output}/peers.json")
        report(run, output)
    except (OSError, ValueError, CallFailedError, DaemonFailedError, SubjectError, SubjectFailedError) as error:
        print(f"python -m perf.peers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        return interrupts.exit_status(interrupt)
    return 0


def _measure(arguments: argparse.Namespace) -> Run:
    chosen = [subject for subject in SUBJECTS if subject.name in arguments.subjects]
    plan = Plan(chosen, arguments.only, arguments.rounds, arguments.seconds)
    shown = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    # it moves only when told: a thread would take CPU from what is measured
    console = Console(stderr=True)
    with Progress(*shown, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def tell(what: str, part: float) -> None:
            bar.update(task, description=what, completed=part)
            bar.refresh()

        return measure(plan, tell)


def report(run: Run, output: Path) -> None:
    """Print the tables, and write the page and the plots. Raises `OSError`."""
    figures = Figures(run)
    console = wide_console(sys.stdout)
    for grid in grids(figures):
        grid.show(console)
    if run.turns:
        console.print(page.quietness(figures))
    plots: dict[str, str] = {}
    if importlib.util.find_spec("matplotlib"):
        # imported only where it is there, and where it is needed: it takes a second
        from perf.peers.plots import draw

        plots = draw(figures, output)
    else:
        print("no plots: matplotlib is not installed; `make perf` installs it", file=sys.stderr)
    (output / "peers.md").write_text(page.markdown(figures, plots), encoding="utf-8")
    print(f"written: {output}/peers.md", *plots.values(), sep=", ")


if __name__ == "__main__":
    sys.exit(main())
