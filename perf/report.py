"""What scripts say: a table for people, JSON for programs, and the machine that the figures are of."""

import json
import math
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from kpf import __version__

Values = dict[str, float]
# of a pipe, and at least: a terminal that is narrower folds lines, and cuts no figures
COLUMNS = 160


@dataclass(frozen=True, slots=True)
class Column:
    """One figure: its key in JSON, and how it is shown."""

    key: str
    title: str
    unit: str
    digits: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one round found; `case` tells what is measured in the same round apart. A figure that is not known lacks.

    `errors` are counted by name. `fine` is whether this may be.
    """

    values: Values
    errors: Mapping[str, int] = field(default_factory=dict)
    case: str = ""
    fine: bool = True


def machine() -> dict[str, Any]:
    """What figures depend on: the machine and the versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "kpf": __version__,
    }


def machine_line() -> str:
    """The same for people, but for the memory."""
    return "kpf {kpf}, {python}, {kernel}, {cores} x {cpu}, {date}".format(**machine())


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def summary(rows: Sequence[Row]) -> dict[str, Values]:
    """Median, lowest and highest of each figure; of what is not known there is none."""
    keys = dict.fromkeys(key for row in rows for key in row.values)
    known = {key: [row.values[key] for row in rows if not math.isnan(row.values.get(key, math.nan))] for key in keys}
    return {
        name: {key: kind(values) for key, values in known.items() if values}
        for name, kind in (("median", statistics.median), ("lowest", min), ("highest", max))
    }


def by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row.case, []).append(row)
    return cases


def errors(rows: Iterable[Row]) -> dict[str, int]:
    """All errors, by name."""
    return dict(sum((Counter(row.errors) for row in rows), Counter()))


def wide_console(file: TextIO) -> Console:
    """For tables, plain and wide enough for all their figures."""
    console = Console(highlight=False, markup=False, file=file)
    console.width = max(console.width, COLUMNS) if console.is_terminal else COLUMNS
    return console


def show(question: str, columns: Sequence[Column], rows: Sequence[Row], file: TextIO) -> None:
    """A table of the rounds with their median and spread, in ASCII where it is not a terminal."""
    console = wide_console(file)
    console.print(question.replace("\n", " "), style="bold")
    console.print(machine_line())
    console.print(_table(columns, rows, box.ROUNDED if console.is_terminal else box.ASCII))
    found = ", ".join(f"{number:,} {name}" for name, number in errors(rows).items())
    console.print(f"errors: {found or 'none'}")


def _table(columns: Sequence[Column], rows: Sequence[Row], kind: box.Box) -> Table:
    known = [column for column in columns if any(column.key in row.values for row in rows)]
    cases = by_case(rows)
    several = list(cases) != [""]
    table = Table("round", *(["case"] if several else []), box=kind)
    for column in known:
        table.add_column(f"{column.title}\n{column.unit}", justify="right")
    for case, its_rows in cases.items():
        lines: list[tuple[str, Values]] = [(str(number), row.values) for number, row in enumerate(its_rows, 1)]
        lines += summary(its_rows).items() if len(its_rows) > 1 else []
        for name, values in lines:
            lead = [name, case] if several else [name]
            table.add_row(*lead, *(_text(values, column) for column in known), style="bold" if name == "median" else "")
        table.add_section()
    return table


def _text(values: Values, column: Column) -> str:
    value = values.get(column.key, math.nan)
    return "-" if math.isnan(value) else f"{value:,.{column.digits}f}"


def as_json(
    script: str, question: str, parameters: Mapping[str, Any], columns: Sequence[Column], rows: Sequence[Row]
) -> str:
    """Everything; a figure that is not known lacks."""
    content = {
        "script": script,
        "question": question,
        "machine": machine(),
        "parameters": parameters,
        "figures": {column.key: asdict(column) for column in columns},
        "cases": [
            {
                "case": case,
                "rounds": [{**_known(row.values), "errors": dict(row.errors), "fine": row.fine} for row in its_rows],
                **summary(its_rows),
            }
            for case, its_rows in by_case(rows).items()
        ],
        "errors": errors(rows),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _known(values: Values) -> Values:
    return {key: value for key, value in values.items() if not math.isnan(value)}
