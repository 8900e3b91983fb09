"""What every load script is: options, a subject, rounds, a report, an exit status."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from kpf.lab import interrupts
from kpf.lab.daemon import DaemonFailedError
from kpf.lab.machine import Call, CallFailedError, Machine
from perf import options as common
from perf import own, report
from perf.load.result import Address
from perf.progress import Bar
from perf.report import Column, Row
from perf.subject import Subject, SubjectError

P = ParamSpec("P")
T = TypeVar("T")

OK, FAILED = 0, 1
# how much longer than expected a load may take: its own time-outs are shorter
GRACE_S = 60.0
TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """What a round works with."""

    subject: Subject
    options: argparse.Namespace
    bar: Bar

    def rounds(self) -> Iterator[int]:
        """Their numbers, from 0; the bar knows which one it is."""
        for number in range(self.options.rounds):
            self.bar.round(number)
            yield number

    def begin(self, load: Callable[Concatenate[Address, P], T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Send a load to the target from a process of its own."""
        return self.subject.clients.begin(load, self.subject.target, *args, **kwargs)

    def finish(self, call: Call[T], expected_s: float) -> T:
        """What became of it; the bar moves as long as that may take. Raises `CallFailedError`."""
        until_s = time.monotonic() + expected_s
        while (left_s := until_s - time.monotonic()) > 0:
            self.bar.at(1 - left_s / expected_s)
            try:
                call.process.wait(min(TICK_S, left_s))
                break
            except subprocess.TimeoutExpired:
                pass
        return call.result(GRACE_S)

    def bear(
        self, expected_s: float, load: Callable[Concatenate[Address, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Both at once."""
        return self.finish(self.begin(load, *args, **kwargs), expected_s)


@dataclass(frozen=True, slots=True)
class Script:
    """One load script. `measure` goes over `Run.rounds` and gives a row or more for each, always of the same cases.

    `needs` names an option that must be given with a TARGET.
    """

    name: str
    doc: str
    columns: Sequence[Column]
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[Run], Iterable[Row]]
    needs: str = ""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Do it; the exit status: 128 + n after signal n."""
        parser = common.parser(self.name, self.doc, needs=self.needs)
        self.add_options(parser)
        options = parser.parse_args(argv)
        if options.target is None and options.control_socket:
            parser.error("--control-socket is that of a TARGET")
        if options.target and self.needs and not getattr(options, self.needs):
            parser.error(f"with a TARGET, --{self.needs.replace('_', '-')} is needed")
        # whoever ends us wants what we have changed put back
        interrupts.install()
        try:
            with _subject(options) as subject, Bar(options.rounds) as bar:
                rows = list(self.measure(Run(subject, options, bar)))
        except (SubjectError, DaemonFailedError, CallFailedError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt as interrupt:
            return interrupts.exit_status(interrupt)
        return self._report(options, rows)

    def _report(self, options: argparse.Namespace, rows: Sequence[Row]) -> int:
        question, _, _ = self.doc.partition("\n\n")
        only_json = str(options.json) == "-"
        report.show(question, self.columns, rows, sys.stderr if only_json else sys.stdout)
        if options.json:
            text = report.as_json(self.name, question, common.parameters(options), self.columns, rows) + "\n"
            if only_json:
                sys.stdout.write(text)
            else:
                options.json.write_text(text, encoding="utf-8")
        return OK if all(row.fine for row in rows) else FAILED


@contextmanager
def _subject(options: argparse.Namespace) -> Iterator[Subject]:
    if options.target is None:
        with own.world(options.workers) as subject:
            yield subject
    else:
        subject = Subject(options.target, Machine(), control_socket=options.control_socket)
        subject.check()
        yield subject
