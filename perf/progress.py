"""A progress bar on standard error, if that is a terminal. It moves only when told: a thread and forks do not mix."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PERIOD_S = 0.25


class Bar:
    """Rounds that are done, and how far the present one is."""

    def __init__(self, rounds: int) -> None:
        shown = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        console = Console(stderr=True)
        self._progress = Progress(
            *shown, console=console, auto_refresh=False, transient=True, disable=not sys.stderr.isatty()
        )
        self._rounds = rounds
        self._task = self._progress.add_task("warming up", total=rounds)
        self._number = 0
        self._next_s = 0.0

    def round(self, number: int) -> None:
        """Round `number`, from 0, begins."""
        self._number = number
        self._progress.update(self._task, completed=number, description=f"round {number + 1} of {self._rounds}")
        self._progress.refresh()

    def at(self, part: float) -> None:
        """This part (0..1) of the round is done; may be said as often as one likes."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + PERIOD_S
            self._progress.update(self._task, completed=self._number + min(part, 1.0))
            self._progress.refresh()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
