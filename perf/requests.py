"""What does a request on a kept connection cost, and how long does it take?

A number of connections is opened once; on each, GET / follows GET /. Without --rate each asks again when it is answered
(closed loop): the rate is the highest that proxy, backends and client reach together. With --rate requests are due at
even intervals whatever has become of the earlier ones (open loop), and a latency counts from when its request was due,
so that waiting for a free connection is part of it. CPU is what the kernel accounts to kpf's processes.

What limits the answer: client and backends share the machine with kpf, so the highest rate is theirs as much as kpf's.
Latency means something at a rate well below the highest. A server that closes a kept connection, and any other failure,
is an error: the exit status is 1.
"""

import argparse
import sys
from collections.abc import Iterator

from perf import figures, options
from perf.load import kept
from perf.load.result import Result
from perf.report import Row
from perf.script import Run, Script


def add_options(parser: argparse.ArgumentParser) -> None:
    options.seconds(parser)
    options.connections(parser, 64, 10_000, "connections that are kept")
    options.number(parser, "--rate", float, 1, 200_000, None, "requests a second in all; none: as many as go")


def measure(run: Run) -> Iterator[Row]:
    def bear(seconds: float) -> Result:
        return run.bear(
            seconds,
            kept.requests,
            seconds=seconds,
            connections=run.options.connections,
            rate_per_s=run.options.rate,
            sources=run.subject.sources,
        )

    return figures.rounds(run, bear)


SCRIPT = Script("requests", __doc__, figures.load_columns("req/s"), add_options, measure)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
