"""The ways in which the daemon ends: stopped, handed over, or gone with its workers left behind."""

import asyncio
import logging
import os
from contextlib import suppress

from kpf.config import Config
from kpf.master import ending
from kpf.master.ending import TableStaysError
from kpf.master.own_servers import OwnServers
from kpf.master.parts import Parts
from kpf.master.signal_queue import SignalAction, SignalQueue
from kpf.nft.kernel import TransactionFailedError
from kpf.observe.notify import ServiceManager

log = logging.getLogger("kpf")

# what was told to the workers last, and a sync that is under way
SETTLE_S = 2.0
TICK_S = 0.1


class Exits:
    """`signals` may make any of them shorter."""

    def __init__(self, parts: Parts, servers: OwnServers, signals: SignalQueue, manager: ServiceManager) -> None:
        self._parts, self._servers, self._signals, self._manager = parts, servers, signals, manager

    async def stop(self, config: Config, *, now: bool) -> None:
        """Let open connections finish, or cut them; then take everything away.

        Raises `TableStaysError`, `AddressesStayError`.
        """
        patience_s = 0.0 if now else config.drain_timeout
        self._manager.stopping("draining" if patience_s else "stopping", patience_s=patience_s + ending.LIMIT_S)
        if not now:
            await self._drain(patience_s)
        await ending.death(self._parts.workers.abort("it is to stop at once" if now else "the drain is over"))
        await self._parts.effects.finish()
        try:
            await ending.transaction(self._parts.kernel.delete())
            await ending.release(self._parts.node.release())
        except TransactionFailedError as error:
            raise TableStaysError(f"table inet kpf is still there, `kpf cleanup` takes it away: {error}") from error
        finally:
            await self._servers.close()
            config.handover_path.unlink(missing_ok=True)
        log.info("stopped")

    async def _drain(self, patience_s: float) -> None:
        self._parts.state.draining = True
        wanted = self._parts.reconciler.desired.rules
        drained = asyncio.create_task(
            ending.drain(self._parts.effects, self._parts.workers, wanted, patience_s=patience_s)
        )
        impatient = asyncio.create_task(self._until_stop())
        await asyncio.wait([drained, impatient], return_when=asyncio.FIRST_COMPLETED)
        await ending.cancel([drained, impatient])

    async def abandon(self) -> None:
        """Nobody is served by us yet: without this the workers would wait for a successor of ours."""
        self._manager.stopping("stopping", patience_s=ending.LIMIT_S)
        await ending.death(self._parts.workers.abort("kpf has not begun to serve"))
        await self._servers.close()

    async def leave(self) -> None:
        """The rules stay, and the workers serve on until another kpf takes over from them."""
        self._manager.stopping("leaving", patience_s=ending.LIMIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._parts.effects.closed()
        log.info("the workers serve on, for the next kpf to take over from them")

    async def outlive(self, config: Config) -> None:
        """A successor serves: look after the workers until their connections have ended, then end.

        `handoverTimeout` ends that, and who asks to stop twice.
        """
        parts, deadline_s = self._parts, config.handover_timeout
        parts.state.handed_over = True
        self._manager.stopping("another kpf has taken over", patience_s=deadline_s + ending.LIMIT_S)
        log.info("another kpf has taken over; open connections may go on for %g s", deadline_s)
        await self._servers.close(handed_over=True)
        parts.kernel.close()
        parts.workers.leave()
        supervising = asyncio.create_task(parts.workers.supervise())
        impatient = asyncio.create_task(self._until_asked_twice())
        over = asyncio.create_task(self._until_over())
        await asyncio.wait([over, impatient], timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        await ending.cancel([supervising, impatient, over])
        await ending.death(parts.workers.abort("the time for what was handed over is over"))
        log.info("all connections of before have ended" if over.done() else "connections that were left are cut")

    async def _until_over(self) -> None:
        while not self._parts.workers.is_over:
            await asyncio.sleep(TICK_S)

    async def _until_stop(self) -> None:
        while await self._signals.get() is SignalAction.RELOAD:
            pass

    async def _until_asked_twice(self) -> None:
        """Once is what happens to every predecessor: its pod is told to end."""
        asked = 0
        while asked < 2:
            match await self._signals.get():
                case SignalAction.STOP_NOW:
                    return
                case SignalAction.STOP | SignalAction.LEAVE:
                    asked += 1


def is_init() -> bool:
    """Process 1 of its pid namespace takes all others along."""
    return os.getpid() == 1
