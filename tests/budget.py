"""Compares what something has cost with what it may cost."""

from collections.abc import Mapping, Sequence

import pytest

Table = Mapping[str, Sequence[int]]


def check(what: str, table: Table, column: int, counted: Mapping[str, int]) -> None:
    """Fail if any count is not what this column of the budget says; a name that is missing on one side is 0 there.

    A count that has fallen fails too: the budget is to follow, or the gain could be lost again unseen.
    """
    names = dict.fromkeys((*table, *sorted(counted)))
    rows = [(name, table[name][column] if name in table else 0, counted.get(name, 0)) for name in names]
    if all(allowed == cost for _, allowed, cost in rows):
        return
    lines = [f"{what}: what it costs is not what its budget says", f"  {'':20} {'budget':>7} {'counted':>7}"]
    for name, allowed, cost in rows:
        if not allowed and not cost:
            continue
        verdict = "" if cost == allowed else "  more" if cost > allowed else "  less: write it into the budget"
        lines.append(f"  {name:20} {allowed:7} {cost:7}{verdict}")
    pytest.fail("\n".join(lines), pytrace=False)
