"""How many new connections a second does a Service take, and what does one cost?

Each connection asks once (GET /) and is closed: by the server, which is asked to (Connection: close), or by the client.
A number of them is under way at once; the next begins when one ends, so the rate is what proxy, backends and client
reach together. A latency is from connect() to the last byte. CPU is what the kernel accounts to kpf's processes, for
each connection; packets that other processes' calls push through are accounted to those.

What limits the answer: client and backends share the machine with kpf; on few cores the rate is theirs as much as
kpf's, and latency is mostly waiting for a core. CPU for each connection depends on neither. Any failed connection makes
the exit status 1. Against a TARGET the client has one address, so about 28,000 ports: with the client closing first,
keep rate x 60 s below that or set net.ipv4.tcp_tw_reuse=1.
"""

import argparse
import sys
from collections.abc import Iterator

from perf import figures, options
from perf.load import short
from perf.load.result import Result
from perf.report import Row
from perf.script import Run, Script


def add_options(parser: argparse.ArgumentParser) -> None:
    options.seconds(parser)
    options.connections(parser, 32, 10_000, "connections under way at once", name="--at-once")
    parser.add_argument(
        "--closes", choices=("server", "client"), default="server", help="who closes first (default: server)"
    )


def measure(run: Run) -> Iterator[Row]:
    def bear(seconds: float) -> Result:
        return run.bear(
            seconds,
            short.connections,
            seconds=seconds,
            at_once=run.options.at_once,
            sources=run.subject.sources,
            closes=run.options.closes,
        )

    return figures.rounds(run, bear)


SCRIPT = Script("connections", __doc__, figures.load_columns("conn/s"), add_options, measure)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
