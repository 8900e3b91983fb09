"""Waiting for what may take long: beside the event loop, and not without a word.

Some system calls take as long as other programs keep the kernel busy, which nothing can interrupt.
"""

import _thread
import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger("kpf")

PATIENCE_S = 2.0


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Inside the event loop: one line once it has taken `PATIENCE_S`, and one that it is over."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    impatience = loop.call_later(PATIENCE_S, log.warning, "waiting for %s", what)
    try:
        yield
    finally:
        impatience.cancel()
        took_s = loop.time() - began_s
        if took_s >= PATIENCE_S:
            log.info("waited %.1f s for %s", took_s, what)


async def imported(name: str) -> None:
    """Have a module imported that is seldom needed and takes its time: in a thread, if one can be had."""
    if name not in sys.modules:
        with suppress(RuntimeError):
            await asyncio.to_thread(importlib.import_module, name)


def beside_the_loop(act: Callable[[], None]) -> None:
    """Do it in a thread of its own; here if none can be had.

    Nobody waits for that thread, neither at the end, as for an executor's, nor until it runs, as `threading` does: a
    CPU that is busy within the kernel may have got it.
    """
    try:
        _thread.start_new_thread(act, ())
    except RuntimeError:
        act()
