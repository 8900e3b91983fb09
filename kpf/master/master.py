"""The daemon: starts, obeys signals, hands over, and stops, in order. Decides nothing."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from kpf.config import Config
from kpf.master import ending
from kpf.master.beginning import Beginning, begin
from kpf.master.carrying import carry_over, follow
from kpf.master.conversation import HandoverError
from kpf.master.estate import MasterEstate
from kpf.master.exits import Exits, is_init
from kpf.master.handover import Handover
from kpf.master.identity import NOT_TOLD_APART
from kpf.master.lock import DaemonLock
from kpf.master.own_servers import OwnServers
from kpf.master.parts import Parts
from kpf.master.reload import Reload
from kpf.master.signal_queue import SignalAction, SignalQueue
from kpf.master.source import Follower, open_source
from kpf.master.successor import Inheritance
from kpf.nft import other_proxies
from kpf.nft.monitor import Monitor
from kpf.observe.notify import ServiceManager
from kpf.waiting import waiting_for

log = logging.getLogger("kpf")


def main(config: Config, reload: Callable[[], Config]) -> NoReturn:
    """Run the daemon until it is told to stop. `reload` reads the configuration anew and raises `ConfigError`."""
    ending.run(_run(config, reload))


async def _run(config: Config, reload: Callable[[], Config]) -> None:
    signals, manager, follower = SignalQueue(), ServiceManager(), Follower(open_source(config))
    with signals.heard():
        # from the first moment on: what is waited for may take long
        keeping_alive = asyncio.create_task(manager.keep_alive())
        begun = await signals.unless_stopped(begin(config, follower))
        if begun is None:
            log.info("stopped")
            return
        await Master(config, reload, signals, manager, follower, begun).run()
        keeping_alive.cancel()


class Master:
    """Made and run inside the event loop. Raises what `Parts` does."""

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        signals: SignalQueue,
        manager: ServiceManager,
        follower: Follower,
        begun: Beginning,
    ) -> None:
        self._config, self._signals, self._manager = config, signals, manager
        self._follower = follower
        self._inheritance = begun.inheritance or Inheritance()
        self._lock = begun.lock or DaemonLock.handed_over(self._inheritance.lock)
        parts = Parts(config, follower, self._inheritance)
        self._parts = parts
        self._node, self._kernel, self._workers = parts.node, parts.kernel, parts.workers
        self._effects, self._reconciler, self._state = parts.effects, parts.reconciler, parts.state
        self._servers = OwnServers(
            parts.server_sockets, parts.state, parts.metrics, parts.node, parts.reconciler, follower
        )
        self._estate = MasterEstate(
            parts.directory,
            parts.listeners,
            parts.workers,
            parts.effects,
            parts.reconciler,
            parts.server_sockets,
            self._lock,
            parts.handover_socket,
        )
        self._handover = Handover(parts.handover_socket, self._estate)
        self._monitor = Monitor(self._kernel.port_id, self._on_touched)
        self._reload = Reload(reload, parts, follower, self._servers, self._estate)
        self._exits = Exits(parts, self._servers, signals, manager)
        # what a predecessor has in force is ours from the moment on that it has left
        self._is_in_charge = self._serves_control = False
        manager.tell_of(self._state.vitals)

    async def run(self) -> None:
        """Serve from the first sync to the end of the last connection, or until a successor does.

        Raises what `ending.run` tells of: `ControlSocketError`, `TableStaysError`, `HandoverError`, OSError, ...
        """
        try:
            tasks = await self._signals.unless_stopped(self._start())
        except BaseException:
            await self._abandon()
            raise
        if tasks is None:
            await self._abandon()
            log.info("stopped")
            return
        try:
            action = await self._obey(tasks)
        finally:
            await ending.cancel(tasks)
        await self._end(action)

    async def _end(self, action: SignalAction) -> None:
        # who takes over at this moment must not take what is about to be taken away
        await self._handover.finish()
        if action is SignalAction.HAND_OVER:
            self._monitor.close()
            self._lock.release()
            await self._exits.outlive(self._config)
        elif not self._is_in_charge or not (self._kernel.table.is_touched or self._inheritance.holders):
            # the table is another kpf's, which may serve on, or whose workers do
            await self._abandon()
            await ending.release(self._node.undo_hold())
            log.info("stopped before anything was programmed: what an earlier kpf has left stays")
        elif action is SignalAction.LEAVE or not self._kernel.table.is_touched:
            # what was taken over from orphans, and has not been looked at yet, is the next one's all the same
            await self._exits.leave()
        else:
            await self._exits.stop(self._config, now=action is SignalAction.STOP_NOW)

    async def _abandon(self) -> None:
        # beside a predecessor ours have begun sessions, and may be the only workers left: they are the next one's, or
        # leave once it tells them
        if not self._inheritance.holders:
            await self._exits.abandon()

    async def _start(self) -> list[asyncio.Task[None]]:
        beside_another = self._inheritance.is_from_master
        with waiting_for("the kernel to tell this node's addresses and tables"):
            await self._node.start()
            await other_proxies.tell()
        if beside_another:
            self._effects.may_close.clear()
        with waiting_for("the workers to be ready"):
            await self._workers.start()
        self._state.is_started = True
        self._tell_workers_apart()
        if self._parts.carrier is not None:
            await carry_over(self._parts.carrier, self._inheritance, self._workers)
        tasks = []
        if not beside_another:
            tasks = await self._take_charge()
        elif not self._parts.server_sockets.has_unix(Path(self._config.control_socket)):
            # while it can still fail
            await self._serve_control()
        # not before, for nobody takes it away if the start fails: orphans of the kpf before may serve there
        await self._node.hold()
        self._reconciler.request(full=True)
        self._follower.changed = self._reconciler.request
        loops = [self._workers.supervise(), self._reconciler.run(), self._follow_node(), self._announce()]
        loops.append(self._parts.endpoint_watch.run())
        if self._parts.carrier is not None:
            loops.append(follow(self._parts.carrier))
        return [*tasks, *(asyncio.create_task(one) for one in (*loops, self._follower.failed()))]

    async def _take_charge(self) -> list[asyncio.Task[None]]:
        """From now on nobody else decides, and only our workers accept.

        Raises `AlreadyRunningError` if a predecessor has gone on without us, `ControlSocketError`, OSError.
        """
        try:
            await self._inheritance.taken()
        except HandoverError as error:
            self._lock.release()
            self._lock = self._estate.lock = DaemonLock()
            log.warning("the kpf before us has ended before it has left: %s", error)
        self._lock.assume()
        self._workers.serve()
        if not self._inheritance.is_from_master:
            self._workers.adopt(self._inheritance.holders)
        self._effects.take_charge()
        self._is_in_charge = True
        if not self._serves_control:
            await self._serve_control()
        await self._servers.serve_health(self._config)
        await self._servers.serve_metrics(self._config)
        return [asyncio.create_task(one) for one in (self._handover.answer(), self._servers.serve_health_checks())]

    def _tell_workers_apart(self) -> None:
        """Before anything is planned: it decides what may be dialled."""
        self._node.workers_are(self._workers.uid())
        if self._node.worker_uid is None:
            log.warning("%s", NOT_TOLD_APART)

    async def _serve_control(self) -> None:
        self._serves_control = True
        await self._servers.serve_control(Path(self._config.control_socket))

    def _on_touched(self) -> None:
        if self._estate.is_held or not self._is_in_charge:
            # it is another kpf's at this moment
            return
        log.warning("somebody has changed table inet kpf: it is made anew")
        self._effects.distrust_table()
        self._reconciler.request(full=True)

    async def _announce(self) -> None:
        with waiting_for("the first sync"):
            await self._reconciler.first_sync.wait()
        more = [] if self._is_in_charge else await self._take_charge()
        # what is known now mostly stays: no collection looks at it again
        gc.freeze()
        self._lock.announce_takeover()
        self._manager.ready()
        log.info("ready: %d frontends, %d workers", len(self._effects.now.frontends), len(self._workers.slots))
        try:
            await asyncio.gather(*more, asyncio.Event().wait())
        finally:
            await ending.cancel(more)

    async def _follow_node(self) -> None:
        async for gone in self._node.changes():
            self._reconciler.request()
            self._parts.departures.note(gone)

    async def _obey(self, tasks: list[asyncio.Task[None]]) -> SignalAction:
        """Reload when asked to; return when told to stop, or when a successor serves.

        None of `tasks` ends by itself, unless by an error.
        """
        taken = asyncio.create_task(self._handover.taken.wait())
        try:
            while True:
                action = await self._next_action(tasks, taken)
                if action is SignalAction.STOP and self._config.on_exit == "leave":
                    action = SignalAction.LEAVE
                if action is SignalAction.LEAVE and is_init():
                    return await self._await_successor(tasks, taken)
                if action is not SignalAction.RELOAD:
                    return action
                self._manager.reloading()
                self._config = await self._reload.reload(self._config)
                self._manager.reloaded()
        finally:
            taken.cancel()

    async def _next_action(self, tasks: "list[asyncio.Task[None]]", taken: "asyncio.Task[Any]") -> SignalAction:
        asked = asyncio.create_task(self._signals.get())
        await asyncio.wait([asked, taken, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                asked.cancel()
                task.result()
        if taken.done():
            asked.cancel()
            return SignalAction.HAND_OVER
        return await asked

    async def _await_successor(self, tasks: "list[asyncio.Task[None]]", taken: "asyncio.Task[Any]") -> SignalAction:
        """Serve on: our workers end with us. A second signal to stop, or the drain time-out, ends the patience."""
        patience_s = self._config.drain_timeout
        self._manager.stopping("waiting for a successor", patience_s=patience_s + ending.LIMIT_S)
        log.info("serving on for %g s, for the next kpf to take over", patience_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while (action := await self._next_action(tasks, taken)) is SignalAction.RELOAD:
                    pass
                return action
        return SignalAction.LEAVE
