"""Says what is waited for, when it takes long: a program that hangs without a word helps nobody."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
