"""What becomes of clients when workers are killed under load?

New connections, one request each (GET /), a number of them under way at once; every so often a worker gets SIGKILL, in
turn, and the next one only when the successor is there. What a dead worker had accepted is lost with it; what was still
queued is served by its successor. So the failed connections are compared with those that were active in the workers at
their deaths: each is stopped first (SIGSTOP), so that the number that kpf tells of it is exact, and killed then.

What limits the answer: a worker that closed its side of a connection just before its death may have counted it as over
while the client does not have the answer yet, and the reverse. More failed connections than were active make the exit
status 1. With a TARGET, --control-socket is needed.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator

from kpf.lab.machine import Call, wait_until
from perf import figures, options
from perf.load import short
from perf.load.result import Result
from perf.report import Column, Row
from perf.script import Run, Script
from perf.subject import Subject, SubjectError

SUCCESSOR_S = 10.0
COLUMNS = (
    Column("deaths", "deaths", "", 0),
    Column("active", "active", "at deaths", 0),
    figures.FAILED,
    Column("rate", "rate", "conn/s", 0),
    *figures.LATENCY,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    options.seconds(parser)
    options.connections(parser, 64, 10_000, "connections under way at once", name="--at-once")
    options.number(parser, "--every", float, 0.2, 60, 1.0, "seconds from one kill to the next")


def measure(run: Run) -> Iterator[Row]:
    for _ in run.rounds():
        load = run.begin(
            short.connections,
            seconds=run.options.seconds,
            at_once=run.options.at_once,
            sources=run.subject.sources,
        )
        with load:
            active = _kill_under(load, run)
            result = run.finish(load, 0.1)
        row = figures.row(result, {"deaths": len(active), "active": sum(active)})
        yield Row(row.values, row.errors, fine=result.failed <= sum(active))


def _kill_under(load: Call[Result], run: Run) -> list[int]:
    """Kill as long as the load lasts; how many connections each of them had."""
    active: list[int] = []
    ends_s = time.monotonic() + run.options.seconds
    while (left_s := ends_s - time.monotonic()) > run.options.every:
        run.bar.at(1 - left_s / run.options.seconds)
        time.sleep(run.options.every)
        if load.process.poll() is not None:
            break
        active.append(_kill(run.subject, len(active)))
    return active


def _kill(subject: Subject, number: int) -> int:
    workers = subject.workers()
    process = workers[number % len(workers)]
    pid = process.pid
    process.send_signal(signal.SIGSTOP)
    try:
        (active,) = [one["connectionsActive"] for one in subject.status()["workers"] if one["pid"] == pid]
    finally:
        process.send_signal(signal.SIGKILL)
    try:
        wait_until(lambda: _is_replaced(subject, pid, len(workers)), timeout_s=SUCCESSOR_S)
    except TimeoutError:
        raise SubjectError(f"worker {pid} has no successor within {SUCCESSOR_S:g} s of its death") from None
    return int(active)


def _is_replaced(subject: Subject, pid: int, number: int) -> bool:
    pids = [one["pid"] for one in subject.status()["workers"] if one["pid"]]
    return pid not in pids and len(pids) >= number


SCRIPT = Script("kills", __doc__, COLUMNS, add_options, measure, needs="control_socket")

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
