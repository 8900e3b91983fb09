"""How a kpf begins: alone, or as the successor of one that serves, or of one that has left its workers behind."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from kpf.config import Config
from kpf.master.conversation import HandoverError
from kpf.master.lock import AlreadyRunningError, DaemonLock
from kpf.master.source import Follower
from kpf.master.successor import Inheritance, RefusedError, from_master, from_workers
from kpf.waiting import waiting_for

log = logging.getLogger("kpf")

# a predecessor that ends by itself at that moment has nothing to hand over any more
ATTEMPTS = 3
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Beginning:
    """`lock`: None while a living predecessor has it; then it is the inheritance's."""

    lock: DaemonLock | None
    inheritance: Inheritance | None


async def begin(config: Config, follower: Follower) -> Beginning:
    """See who serves, and take over from it, as far as can be done before anything is programmed.

    A living predecessor is asked only once the source has told what there is: from then on it decides nothing. Raises
    `AlreadyRunningError` if it does not hand over, `HandoverError`, OSError.
    """
    path = config.handover_path
    for _ in range(ATTEMPTS):
        try:
            return Beginning(lock := DaemonLock(), await _left_behind(path, lock))
        except AlreadyRunningError as error:
            running = error
        follower.start()
        with waiting_for("the source, before the kpf that serves is asked to hand over"):
            await follower.told()
        try:
            inheritance = await from_master(path)
        except HandoverError as error:
            raise AlreadyRunningError(f"{running}; it does not hand over: {error}", running.pid) from error
        if inheritance is not None:
            return Beginning(None, inheritance)
        await asyncio.sleep(PAUSE_S)
    raise AlreadyRunningError(f"{running}; nobody hands over at {path}", running.pid)


async def _left_behind(path: Path, lock: DaemonLock) -> Inheritance | None:
    try:
        return await from_workers(path)
    except RefusedError:
        # somebody else's socket: it would be taken away
        lock.release()
        raise
    except (HandoverError, OSError) as error:
        log.error("workers of a kpf before do not hand over what they have, they go on by themselves: %s", error)
        return None
