"""Connections that do nothing, until they are woken."""

import time
from collections.abc import Generator, Sequence
from typing import Literal

from perf.load.client import TICK_S
from perf.load.pool import Pool
from perf.load.result import Address, Result, Tally

# within the minute that a conversation waits for an answer
LONGEST_S = 50.0
OPENING_AT_ONCE = 100


def hold(
    target: Address, *, connections: int, sources: Sequence[str] = ("",), path: str = "/"
) -> Generator[Result, Literal["ping", "close"], None]:
    """Open so many connections with one GET each, and keep them; to be used with `Machine.converse`.

    The first result has the latencies of opening, without connect(). At "ping" each asks again, one after another, and
    the result is that of waking them. At "close", the result of which is empty, all are closed.
    """
    pool = Pool(target, connections, sources=sources, path=path)
    pool.open()
    _ask_all(pool, at_once=OPENING_AT_ONCE)
    while (yield pool.tally.result()) == "ping":
        pool.tally = Tally()
        _ask_all(pool, at_once=1)
    pool.close()
    yield Tally().result()


def _ask_all(pool: Pool, *, at_once: int) -> None:
    until_s = time.monotonic() + LONGEST_S
    left = len(pool.free)
    pool.tally.begin()
    while left or pool.asked:
        if time.monotonic() > until_s:
            pool.tally.errors["timed out"] += left + len(pool.asked)
            return
        # the answered ones go to the end of the line
        while left and pool.free and len(pool.asked) < at_once:
            pool.ask(pool.free.popleft(), time.monotonic())
            left -= 1
        pool.wait(TICK_S)
