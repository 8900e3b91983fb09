"""What does a connection cost that does nothing, and how long does it take to wake it?

Opens a number of connections, each with one request (GET /), and leaves them alone. Memory is what the workers have for
themselves (USS: pages that nobody shares) with them open, less what they had before, for each connection; descriptors
likewise. The kernel's memory for the sockets is not in it. Then each connection asks again, one after another: its
latency is that of waking it. A few connections are opened and closed first, so that what any first connection costs is
not counted.

What limits the answer: memory grows in steps of a page (4 KiB), so take thousands. Each connection needs a descriptor
in the client, two in a worker and one in the backends; `ulimit -Hn` bounds the number. A connection that fails, or is
closed meanwhile, makes the exit status 1.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from kpf.lab.machine import Conversation, wait_until
from perf import figures, options
from perf.load import idle
from perf.load.result import Result
from perf.report import Column, Row, Values
from perf.script import Run, Script

FIRST = 100
COLUMNS = (
    Column("private_kib", "memory", "KiB/conn", 2),
    Column("descriptors", "descriptors", "/conn", 2),
    Column("opened", "opened", "", 0),
    *figures.LATENCY,
    figures.FAILED,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    options.connections(parser, 4000, 100_000, "connections that are kept idle")


@dataclass(frozen=True, slots=True)
class _Held:
    """What workers have for themselves."""

    private_bytes: int
    descriptors: int
    active: int


def measure(run: Run) -> Iterator[Row]:
    workers = run.subject.workers() if run.subject.control_socket else []
    at_first = _held(run, workers)
    with _hold(run, FIRST) as conversation:
        conversation.send("close")
    before = _settled(run, workers, at_first)
    for _ in run.rounds():
        with _hold(run, run.options.connections) as conversation:
            opened, during = conversation.first, _held(run, workers)
            run.bar.at(0.5)
            woken = conversation.send("ping")
            conversation.send("close")
        yield figures.row(woken, _for_each(opened.units, before, during), errors=opened.errors)
        _settled(run, workers, at_first)


def _hold(run: Run, connections: int) -> Conversation[Result, Literal["ping", "close"]]:
    subject = run.subject
    return subject.clients.converse(idle.hold, subject.target, connections=connections, sources=subject.sources)


def _settled(run: Run, workers: Sequence[psutil.Process], at_first: _Held) -> _Held:
    """What they have once connections are closed; other clients may have opened some meanwhile."""

    def is_over() -> bool:
        now = _held(run, workers)
        # a session is counted as over a moment before its sockets are closed
        return now.active <= at_first.active and now.descriptors <= at_first.descriptors

    if workers:
        with suppress(TimeoutError):
            wait_until(is_over)
    return _held(run, workers)


def _held(run: Run, workers: Sequence[psutil.Process]) -> _Held:
    if not workers:
        return _Held(0, 0, 0)
    return _Held(
        sum(worker.memory_full_info().uss for worker in workers),
        sum(worker.num_fds() for worker in workers),
        sum(worker["connectionsActive"] for worker in run.subject.status()["workers"]),
    )


def _for_each(opened: int, before: _Held, during: _Held) -> Values:
    if not during.private_bytes or not opened:
        return {"opened": opened}
    return {
        "private_kib": (during.private_bytes - before.private_bytes) / opened / 1024,
        "descriptors": (during.descriptors - before.descriptors) / opened,
        "opened": opened,
    }


SCRIPT = Script("idle", __doc__, COLUMNS, add_options, measure)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
