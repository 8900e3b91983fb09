"""A predecessor's memory has another layout: its values are carried over, with next to no pause (`kpf.shm.carry`)."""

import asyncio
import logging
import time

from kpf.master.conversation import HandoverError
from kpf.master.generations import Generations
from kpf.master.successor import Inheritance
from kpf.shm.carry import Carrier
from kpf.shm.region import RegionError

log = logging.getLogger("kpf")

CATCH_UPS = 3
# that what is shown of a predecessor's workers is old at most
REFRESH_S = 1.0


async def carry_over(carrier: Carrier, inheritance: Inheritance, workers: Generations) -> None:
    """The predecessor's workers accept nothing from now on, and ours, which are held, do.

    Raises `HandoverError`.
    """
    try:
        # each finds what has changed during the one before, which takes the less time the less that is
        for _ in range(CATCH_UPS):
            carrier.catch_up()
            await asyncio.sleep(0)
        began_s = time.monotonic()
        await inheritance.pause()
        carrier.catch_up()
    except RegionError as error:
        raise HandoverError(f"what the kpf before has in memory cannot be carried over: {error}") from error
    await workers.hold(False)
    log.info("carried over: nobody accepted for %.0f ms", (time.monotonic() - began_s) * 1000)


async def follow(carrier: Carrier) -> None:
    """What a predecessor's workers go on counting in their own memory. Never ends by itself."""
    while not carrier.is_over:
        await asyncio.sleep(REFRESH_S)
        carrier.refresh()
    carrier.end()
    await asyncio.Event().wait()
