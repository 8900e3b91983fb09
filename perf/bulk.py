"""How fast do many bytes go through, both ways, what does a GiB cost, and does every transfer come to its end?

Each round downloads (GET /bytes/N), uploads (PUT) and does both at once, on a number of connections in each direction,
and counts every byte: the client those that come, the server those that were sent. A transfer without a byte for 5 s
has stalled, which must never be. The client throws away what it reads in the kernel (MSG_TRUNC), so that it costs
little. CPU is what the kernel accounts to kpf's processes.

What limits the answer: the bytes never leave the machine, so there is no network card, and copying competes with client
and backends for memory and cores. A TARGET must answer as `python -m perf.serve` does. Any transfer that does not
complete makes the exit status 1.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

from perf import figures, options
from perf.load import bulk
from perf.load.result import Result
from perf.report import Column, Row
from perf.script import Run, Script

MIB = 1 << 20
GIB = 1 << 30
# what a slow machine moves, for the progress bar
MIB_PER_S = 500
WAYS: dict[str, tuple[Callable[..., Result], int]] = {
    "download": (bulk.download, 1),
    "upload": (bulk.upload, 1),
    "both": (bulk.both, 2),
}
COLUMNS = (
    *figures.cpu_columns("ms/GiB"),
    Column("rate", "rate", "MB/s", 0),
    Column("transfers", "transfers", "", 0),
    Column("stalled", "stalled", "", 0),
    figures.FAILED,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    options.connections(parser, 4, 1000, "transfers at once in each direction")
    options.number(parser, "--mib", int, 1, 65_536, 256, "how many MiB each transfer has")


def measure(run: Run) -> Iterator[Row]:
    for _ in run.rounds():
        for way, (load, directions) in WAYS.items():
            yield _one_way(run, way, load, run.options.connections * directions)


def _one_way(run: Run, way: str, load: Callable[..., Result], transfers: int) -> Row:
    costs = figures.Costs(run.subject)
    result = run.bear(
        transfers * run.options.mib / MIB_PER_S,
        load,
        connections=run.options.connections,
        bytes_each=run.options.mib * MIB,
        sources=run.subject.sources,
    )
    row = figures.row(result, costs.per(result.units / GIB, factor=1e3), case=way)
    row.values.update(rate=result.rate_per_s / 1e6, transfers=transfers, stalled=result.errors.get("stalled", 0))
    return row


SCRIPT = Script("bulk", __doc__, COLUMNS, add_options, measure)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
