"""A table as lines and columns of text, for people in a terminal (rich) and for Markdown. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from perf.peers.figures import Spread

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """The first column is of words, the others of numbers, unless `words`. Notes stand below."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    words: bool = False

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns)]
        lines.append(_line(["---", *["---" if self.words else "--:"] * (len(self.columns) - 1)]))
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left", box=box.ROUNDED if console.is_terminal else box.ASCII)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if self.words or not number else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note)
        console.print()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    """Three digits, or as many as it has before the point."""
    if value is None:
        return NOTHING
    size = abs(float(f"{value:.3g}"))
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def spread_of(spread: Spread | None, *, digits: int | None = None) -> str:
    """A median with its quartiles."""
    if spread is None:
        return NOTHING
    median, low, high = (
        number(value) if digits is None else f"{value:.{digits}f}" for value in (spread.median, spread.low, spread.high)
    )
    return f"{median} ({low}-{high})"
