"""What do clients notice when endpoints change under load, and how soon does a new endpoint get connections?

New connections, one request each (GET /), a number of them under way at once, while a manifest with the Service's
EndpointSlice is written anew, so many times a second: one endpoint is taken out, put back, then the next one; all
others stay. The endpoints themselves go on serving, so no connection may fail. The time of a new endpoint is from the
change of the file to the beginning of the first connection that it answered; where it still got connections just
before it was put back, the removal had not been in effect yet, and the time is not counted.

What limits the answer: endpoints are told apart by their answers, which must contain their address, as those of
`python -m perf.serve` do; where they do not, there are no times. A first connection also waits for its turn, which is
some connections long. With a TARGET, --manifest names the file: one of the directory that its kpf reads, with one
EndpointSlice; it is put back as it was in the end, also after Ctrl-C. Any failed connection makes the exit status 1.
"""

import argparse
import math
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpf.lab.machine import Call
from perf import figures, options
from perf.load.arrivals import Arrivals, arrivals
from perf.load.result import percentile
from perf.report import Column, Row, Values
from perf.script import Run, Script
from perf.slices import SliceFile

# an endpoint that is out gets no connection for that long before it is put back
QUIET_S = 0.02
COLUMNS = (
    Column("changes", "changes", "", 0),
    Column("added", "put back", "endpoints", 0),
    Column("timed", "with a time", "endpoints", 0),
    Column("new_p50", "new p50", "ms", 1),
    Column("new_max", "new max", "ms", 1),
    Column("rate", "rate", "conn/s", 0),
    *figures.LATENCY,
    figures.FAILED,
)


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint is taken out or put back."""

    at_s: float
    address: str
    added: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    options.seconds(parser)
    options.connections(parser, 32, 10_000, "connections under way at once", name="--at-once")
    options.number(parser, "--changes-per-s", float, 0.1, 50, 2, "changes a second")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="the manifest with TARGET's EndpointSlice")


def measure(run: Run) -> Iterator[Row]:
    path = run.options.manifest or run.subject.manifest
    assert path is not None
    for _ in run.rounds():
        with SliceFile(path) as file:
            load = run.begin(
                arrivals, seconds=run.options.seconds, at_once=run.options.at_once, sources=run.subject.sources
            )
            with load:
                changes = _change_under(load, file, run)
                found = run.finish(load, 0.1)
        times_ms = [time_s * 1000 for time_s in until_first(changes, found) if time_s is not None]
        yield figures.row(found.result, _values(changes, times_ms))


def _values(changes: Sequence[Change], times_ms: Sequence[float]) -> Values:
    added = sum(change.added for change in changes)
    values: Values = {"changes": len(changes), "added": added, "timed": len(times_ms)}
    if times_ms:
        values |= {"new_p50": percentile(times_ms, 50), "new_max": max(times_ms)}
    return values


def _change_under(load: Call[Arrivals], file: SliceFile, run: Run) -> list[Change]:
    """Change the file as long as the load lasts."""
    changes: list[Change] = []
    pause_s = 1 / run.options.changes_per_s
    ends_s = time.monotonic() + run.options.seconds
    while (left_s := ends_s - time.monotonic()) > pause_s:
        run.bar.at(1 - left_s / run.options.seconds)
        time.sleep(pause_s)
        if load.process.poll() is not None:
            break
        place, added = divmod(len(changes), 2)
        place %= len(file.addresses)
        changes.append(Change(time.monotonic(), file.addresses[place], bool(added)))
        file.write_without([] if added else [place])
    return changes


def until_first(changes: Sequence[Change], found: Arrivals) -> Iterator[float | None]:
    """For each endpoint that was put back, the seconds until its first connection began; None if that is not known."""
    for number, change in enumerate(changes):
        if change.added:
            again_s = [later.at_s for later in changes[number + 1 :] if later.address == change.address]
            yield _until_first(_began_s(found, change.address), change.at_s, min(again_s, default=math.inf))


def _until_first(began_s: Sequence[float], added_s: float, removed_s: float) -> float | None:
    place = bisect_left(began_s, added_s)
    if place and added_s - began_s[place - 1] < QUIET_S:
        return None
    return began_s[place] - added_s if place < len(began_s) and began_s[place] < removed_s else None


def _began_s(found: Arrivals, address: str) -> list[float]:
    """When the connections began that an endpoint answered: its address, and not one that begins like it, is there."""
    name = re.compile(rf"(?<![\w.:]){re.escape(address)}(?![\w.{':' if ':' in address else ''}])")
    return sorted(moment for text, moments in found.began_s.items() if name.search(text) for moment in moments)


SCRIPT = Script("churn", __doc__, COLUMNS, add_options, measure, needs="manifest")

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
