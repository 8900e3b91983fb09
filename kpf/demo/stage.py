"""What the audience sees: colours, boxes and progress where there is a terminal, plain ASCII lines where not."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

# no file has a width that could be too small
PIPE_COLUMNS = 120
FRAME_S = 0.1
LOOK_S = 0.01
# where a claim begins, after the judgement
JUDGED = 9


@dataclass(slots=True)
class Act:
    """What the summary says of an act: how many claims it made, how many of these did not hold, and its figures."""

    name: str
    claims: int = 0
    broken: int = 0
    result: str = ""


class Stage:
    """Shows what is done and found, and keeps what was claimed and did not hold.

    The progress is drawn from `doing`, `pause` and `wait_for`, not by a thread: processes are forked meanwhile.
    """

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        self._console = Console(
            highlight=False,
            markup=False,
            emoji=False,
            force_terminal=terminal,
            width=None if terminal else PIPE_COLUMNS,
        )
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            disable=not terminal,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("")
        self.acts: list[Act] = []

    @property
    def broken(self) -> int:
        """How many claims did not hold."""
        return sum(act.broken for act in self.acts)

    @contextmanager
    def progress(self, acts: int) -> Iterator[None]:
        """A bar of that many acts while the context is open."""
        self._progress.update(self._task, total=acts)
        with self._progress:
            yield

    def act(self, name: str, text: str) -> None:
        """The next act begins: its name, and what is done in it."""
        self._progress.update(self._task, completed=len(self.acts))
        self.acts.append(Act(name))
        self.say()
        self.say(f"{len(self.acts)}. {name}: {text}", style="bold")

    def doing(self, what: str) -> None:
        """What is going on, for as long as it does."""
        self._progress.update(self._task, description=what, refresh=True)

    def pause(self, seconds: float) -> None:
        """Let it go on for so long, whatever happens."""
        self.wait_for(lambda: False, seconds)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let it go on until the condition holds; False if it did not in time."""
        began_s = frame_s = time.monotonic()
        while not (holds := condition()) and time.monotonic() - began_s < timeout_s:
            if time.monotonic() - frame_s >= FRAME_S:
                frame_s = time.monotonic()
                self._progress.refresh()
            time.sleep(LOOK_S)
        return holds

    def say(self, text: str = "", style: str = "", *, wraps: bool = True, indent: int = 0) -> None:
        """A text, its further lines indented. Without `wraps` it is a line as it is, to be copied."""
        if wraps:
            text = textwrap.fill(text, self._console.width, subsequent_indent=" " * indent, break_on_hyphens=False)
        # a style of the whole print would be the progress's too
        self._console.print(Text(text, style), soft_wrap=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns that have only numbers and "" are set to the right.

        Raises ValueError without rows, and for a row that is not as long as the header.
        """
        table = Table(box=box.ROUNDED if self._console.is_terminal else box.ASCII)
        for name, column in zip(header, zip(*rows, strict=True), strict=True):
            is_number = all(isinstance(cell, int) or not cell for cell in column)
            table.add_column(name, justify="right" if is_number else "left")
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print(table)

    def claim(self, text: str, held: bool) -> None:
        """Something that must be so in this act, and whether it was."""
        style = "green" if held else "bold red"
        self.say(f"  {'ok' if held else 'BROKEN':6} {text}", style, indent=JUDGED)
        self.acts[-1].claims += 1
        self.acts[-1].broken += not held

    def result(self, text: str) -> None:
        """The figures of this act that the summary shows."""
        self.acts[-1].result = text

    def break_off(self, why: str) -> None:
        """The show cannot go on: as bad as a claim that did not hold."""
        if not self.acts:
            self.acts.append(Act("The scene"))
        self.claim("the show can go on", held=False)
        self.say(why, wraps=False)

    def summary(self, duration_s: float) -> None:
        """All acts in short, and the verdict."""
        self.say()
        rows = [
            (act.name, act.result, f"BROKEN: {act.broken} of {act.claims}" if act.broken else f"{act.claims} ok")
            for act in self.acts
        ]
        self.table(("", "what clients saw", "claims"), rows)
        claims = sum(act.claims for act in self.acts)
        verdict = f"{self.broken} of {claims} claims did not hold" if self.broken else f"all {claims} claims hold"
        self.say(f"{verdict} ({duration_s:.1f} s)", style="bold red" if self.broken else "bold green")
