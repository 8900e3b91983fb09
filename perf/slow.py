"""What do slow readers cost the fast ones, in latency and in memory?

Each round asks requests (GET /) on kept connections at a fixed rate (open loop), first alone and then beside a number
of slow readers: connections that download (GET /bytes/N) and read so many bytes a second, far less than is sent to
them, so that the buffers on the way are full before the requests begin. A latency counts from when its request was due.
Memory is what the workers have for themselves (USS): beside the readers it has the buffers that they hold for them.
What the kernel holds in socket buffers and pipes is not in it.

What limits the answer: the readers have receive buffers of 64 KiB and read ten times a second, and use some CPU of
their own. A TARGET must answer as `python -m perf.serve` does. Any failed request or reader makes the exit status 1.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from perf import figures, options
from perf.load import kept, slow
from perf.load.result import Result
from perf.report import Column, Row
from perf.script import Run, Script

# what a slow machine moves: before the requests begin, what the readers have asked for lies in the buffers on the way
MIB_PER_S = 300
# how long the readers go on after the last request
SPARE_S = 1.0
COLUMNS = (
    *figures.LATENCY,
    Column("rate", "rate", "req/s", 0),
    Column("private_mib", "workers' memory", "MiB", 2),
    Column("read_kb_per_s", "readers", "kB/s in all", 0),
    figures.FAILED,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    options.seconds(parser)
    options.connections(parser, 100, 5000, "slow readers")
    options.number(parser, "--kb-per-s", float, 0.1, 10_000, 20, "what each slow reader reads, in kB a second")
    options.number(parser, "--mib", int, 1, 1024, 8, "how many MiB each slow reader asks for")
    options.number(parser, "--fast", int, 1, 1000, 16, "kept connections for the requests beside them")
    options.number(parser, "--rate", float, 1, 50_000, 500, "requests a second in all")


def measure(run: Run) -> Iterator[Row]:
    for _ in run.rounds():
        yield figures.row(_requests(run), _memory(run), case="alone")
        yield _beside_readers(run)


def _beside_readers(run: Run) -> Row:
    asked = run.options
    fill_s = 1 + asked.connections * asked.mib / MIB_PER_S
    readers = run.begin(
        slow.readers,
        connections=asked.connections,
        bytes_each=asked.mib << 20,
        bytes_per_s=asked.kb_per_s * 1000,
        seconds=fill_s + asked.seconds + SPARE_S,
        sources=run.subject.sources,
    )
    with readers:
        time.sleep(fill_s)
        result, memory = _requests(run), _memory(run)
        read = run.finish(readers, SPARE_S)
    more = {**memory, "read_kb_per_s": read.rate_per_s / 1000}
    return figures.row(result, more, case="beside readers", errors=read.errors)


def _requests(run: Run) -> Result:
    asked = run.options
    return run.bear(
        asked.seconds,
        kept.requests,
        seconds=asked.seconds,
        connections=asked.fast,
        rate_per_s=asked.rate,
        sources=run.subject.sources,
    )


def _memory(run: Run) -> dict[str, float]:
    workers = run.subject.workers() if run.subject.control_socket else []
    return {"private_mib": sum(worker.memory_full_info().uss for worker in workers) / 2**20} if workers else {}


SCRIPT = Script("slow", __doc__, COLUMNS, add_options, measure)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
