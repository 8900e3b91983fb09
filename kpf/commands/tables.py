"""Tables for a terminal or a pipe: a line a row, cut to the terminal's width. Pure.

Not by rich, which takes 1.5 ms a row, this 4 us: there may be tens of thousands.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import NamedTuple, TextIO

GAP = "  "
# of what may be cut
_NARROWEST = 8
_CUT = "…"
_STYLES: Mapping[str, str] = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}


class Cell(NamedTuple):
    """`style`: "good", "bad", "warn", "dim", "bold", or "" for none."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """`is_number`: to the right. `may_be_cut`: where there is no room."""

    title: str
    is_number: bool = False
    may_be_cut: bool = False


class Paper(NamedTuple):
    """What is written on: `width` in columns, None if a line may be as long as it wants."""

    width: int | None = None
    is_coloured: bool = False


def paper_of(out: TextIO) -> Paper:
    """Of a terminal, or of what is none: that has neither an end of the line nor colours."""
    if not out.isatty():
        return Paper()
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Paper(os.get_terminal_size(out.fileno()).columns or 80, has_colours)


def printable(text: str) -> str:
    """Names are whatever somebody has written."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def painted(text: str, style: str, paper: Paper) -> str:
    """With the terminal's escape sequences, if it has colours."""
    return f"\033[{_STYLES[style]}m{text}\033[0m" if style and paper.is_coloured else text


def wrapped(text: str, paper: Paper) -> list[str]:
    """As many lines as it needs, one at least; on what is no terminal, one."""
    return wrap(text, paper.width, subsequent_indent=GAP) if paper.width else [text]


def natural_width(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> int:
    """How wide it is if nothing is cut."""
    return sum(_widths(columns, rows)) + len(GAP) * (len(columns) - 1)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], paper: Paper) -> Iterator[str]:
    """A line of titles, then a line a row."""
    widths = _widths(columns, rows)
    if paper.width is not None:
        widths = fitting(widths, columns, paper.width)
    yield _line([Cell(column.title, "bold") for column in columns], columns, widths, paper)
    for row in rows:
        yield _line(row, columns, widths, paper)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    return [
        max(len(column.title), max((len(row[index].text) for row in rows), default=0))
        for index, column in enumerate(columns)
    ]


def fitting(widths: Sequence[int], columns: Sequence[Column], most: int) -> list[int]:
    """The widest of those that may be cut are, until all fit, or are as narrow as they may be."""
    found = list(widths)
    cuttable = [index for index, column in enumerate(columns) if column.may_be_cut]
    excess = sum(found) + len(GAP) * (len(found) - 1) - most
    while excess > 0 and cuttable:
        widest = max(cuttable, key=found.__getitem__)
        if found[widest] <= _NARROWEST:
            break
        found[widest] -= 1
        excess -= 1
    return found


def _line(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], paper: Paper) -> str:
    cells: list[str] = []
    for (text, style), column, width in zip(row, columns, widths, strict=True):
        shown = cut(text, width)
        padded = shown.rjust(width) if column.is_number else shown.ljust(width)
        cells.append(painted(padded, style, paper))
    line = GAP.join(cells)
    return line if paper.is_coloured else line.rstrip()


def cut(text: str, width: int) -> str:
    """In the middle: how a name begins and ends says most."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + _CUT + text[len(text) - tail :]
