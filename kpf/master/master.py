"""The daemon: puts the parts together, obeys signals, starts and stops in order. Decides nothing."""

import asyncio
import gc
import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kpf.config import Config, ConfigError, reload_needs_restart
from kpf.master import ending
from kpf.master.departures import Departures
from kpf.master.effects import Effects
from kpf.master.ending import ControlSocketError, TableStaysError
from kpf.master.facts import NodeWatch
from kpf.master.identity import NOT_TOLD_APART, worker_user
from kpf.master.listening import ListeningSockets
from kpf.master.lock import DaemonLock
from kpf.master.own_state import OwnState
from kpf.master.reconcile import Reconciler
from kpf.master.signal_queue import SignalAction, SignalQueue
from kpf.master.source import open_source
from kpf.master.workers import Workers
from kpf.model.snapshot import Problem
from kpf.net.messages import Configure
from kpf.nft import other_proxies
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.nft.monitor import Monitor
from kpf.observe.health_checks import HealthCheckServers
from kpf.observe.http import Servers, health_documents
from kpf.observe.log import set_up
from kpf.observe.notify import ServiceManager
from kpf.plan.health import health_check_addresses
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from kpf.waiting import waiting_for

log = logging.getLogger("kpf")

# what the master itself needs beside listening sockets: netlink, channels, pidfds, HTTP clients, files
OWN_DESCRIPTORS = 256
# of the garbage collector: hardly any object is garbage, and in a large cluster a full collection looks at a million of
# them for a third of a second
COLLECT_AFTER = (20_000, 20, 20)


def main(config: Config, reload: Callable[[], Config]) -> NoReturn:
    """Run the daemon until it is told to stop. `reload` reads the configuration anew and raises `ConfigError`."""
    gc.set_threshold(*COLLECT_AFTER)
    ending.run(_run(config, reload))


async def _run(config: Config, reload: Callable[[], Config]) -> None:
    lock = DaemonLock()
    try:
        await Master(config, reload, lock).run()
    finally:
        lock.release()


class Master:
    """Made and run inside the event loop."""

    def __init__(self, config: Config, reload: Callable[[], Config], lock: DaemonLock) -> None:
        self._config, self._reload, self._lock = config, reload, lock
        self._signals = SignalQueue()
        workers = config.workers
        self._source = open_source(config)
        self._node = NodeWatch(config)
        self._kernel = Kernel()
        self._directory = Directory(Region.create())
        places = self._directory.take_worker_slots(workers)
        self._listeners = ListeningSockets(workers)
        self._workers = Workers(self._directory, self._listeners, newborn=self._newborn, slots=places)
        self._departures = Departures(self._node, self._workers)
        self._effects = Effects(self._directory, self._listeners, self._workers, self._kernel)
        self._reconciler = Reconciler(
            self._effects,
            read=self._source.read,
            facts=self._node.facts,
            port_range=config.port_range.ports,
            capacity=(_raise_descriptor_limit() - OWN_DESCRIPTORS) // workers,
        )
        self._reconciler.on_problems = self._source.report
        self._monitor = Monitor(self._kernel.port_id, self._on_touched)
        self._servers = Servers()
        self._state = OwnState(
            self._source, self._node, self._kernel, self._directory, self._workers, self._effects, self._reconciler
        )
        self._health_checks = HealthCheckServers(lambda: self._state.health().takes_connections)
        self._manager = ServiceManager(self._state.vitals)

    async def run(self) -> None:
        """Serve from the first sync to the end of the last connection.

        Raises what `ending.run` tells of: `ControlSocketError`, `TableStaysError`, OSError, ...
        """
        with self._signals.heard():
            await self._live()

    async def _live(self) -> None:
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
        if self._kernel.table.is_touched:
            await self._stop(now=action is SignalAction.STOP_NOW)
            return
        # the table is an earlier kpf's, whose workers may serve on
        await self._abandon()
        await ending.release(self._node.undo_hold())
        log.info("stopped before anything was programmed: what an earlier kpf has left stays")

    async def _abandon(self) -> None:
        """Nobody is served yet: without this the workers would wait for a successor of ours."""
        self._manager.stopping("stopping", patience_s=ending.LIMIT_S)
        await ending.death(self._workers.abort())
        await self._servers.close()
        await self._health_checks.close()

    async def _start(self) -> list[asyncio.Task[None]]:
        # from the first moment on: what is waited for below may take long
        keeping_alive = asyncio.create_task(self._manager.keep_alive())
        with waiting_for("the kernel to tell this node's addresses and tables"):
            await self._node.start()
            await other_proxies.tell()
        with waiting_for("the workers to be ready"):
            await self._workers.start()
        self._state.is_started = True
        self._tell_workers_apart()
        await self._serve_control()
        await self._serve_health()
        # not before, for nobody takes it away if the start fails: orphans of the kpf before may serve there
        await self._node.hold()
        self._reconciler.request(full=True)
        loops = (self._workers.supervise(), self._reconciler.run(), self._follow_source(), self._follow_node())
        others = (self._announce(), self._serve_health_checks())
        return [keeping_alive, *(asyncio.create_task(one) for one in (*loops, *others))]

    def _tell_workers_apart(self) -> None:
        """Before anything is planned: it decides what may be dialled."""
        self._node.workers_are(self._workers.uid())
        if self._node.worker_uid is None:
            log.warning("%s", NOT_TOLD_APART)

    async def _serve_control(self) -> None:
        path = Path(self._config.control_socket)
        try:
            await self._servers.serve_unix(path, {"/status": self._state.status})
        except OSError as error:
            raise ControlSocketError(f"controlSocket {path}: {error.strerror or error}") from error

    def _on_touched(self) -> None:
        log.warning("somebody has changed table inet kpf: it is made anew")
        self._effects.distrust_table()
        self._reconciler.request(full=True)

    async def _announce(self) -> None:
        with waiting_for("the first sync"):
            await self._reconciler.first_sync.wait()
        # what is known now mostly stays: no collection looks at it again
        gc.freeze()
        self._lock.announce_takeover()
        self._manager.ready()
        log.info("ready: %d frontends, %d workers", len(self._effects.now.frontends), self._config.workers)
        await asyncio.Event().wait()

    async def _follow_source(self) -> None:
        await self._source.follow(self._reconciler.request)

    async def _follow_node(self) -> None:
        async for gone in self._node.changes():
            self._reconciler.request()
            self._departures.note(gone)

    async def _obey(self, tasks: list[asyncio.Task[None]]) -> SignalAction:
        """Reload when asked to; return when told to stop. None of `tasks` ends by itself, unless by an error."""
        while True:
            asked = asyncio.create_task(self._signals.get())
            await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    asked.cancel()
                    task.result()
            action = await asked
            if action is not SignalAction.RELOAD:
                return action
            self._manager.reloading()
            await self._reload_now()
            self._manager.reloaded()

    async def _reload_now(self) -> None:
        await self._source.reread()
        try:
            new = self._reload()
        except ConfigError as error:
            log.error("the configuration is invalid, the old one stays in force:")
            for problem in error.problems:
                log.error("%s", problem)
            self._reconciler.request(full=True)
            return
        fixed = reload_needs_restart(self._config, new)
        for name in fixed:
            log.warning("%s has changed: that needs a restart", Config.model_fields[name].alias)
        old, self._config = self._config, new.model_copy(update={name: getattr(self._config, name) for name in fixed})
        self._node.configure(self._config)
        set_up(self._config.logging.level, self._config.logging.format)
        if old.healthz_bind_address != self._config.healthz_bind_address:
            await self._servers.close_tcp()
            await self._serve_health()
        log.info("configuration and manifests are read anew")
        self._reconciler.request(full=True)

    async def _serve_health(self) -> None:
        if self._config.healthz_bind_address:
            address, port = self._config.healthz_bind_address
            failure = await self._servers.serve_tcp(str(address), port, health_documents(self._state.health))
            if failure:
                self._source.report((Problem("", f"Node {self._node.name}", "healthzBindAddress", failure),))

    async def _serve_health_checks(self) -> None:
        """Those of Services, anew whenever something has changed. Never ends by itself."""
        while True:
            await self._reconciler.changed.wait()
            self._reconciler.changed.clear()
            desired = self._reconciler.desired
            facts = desired.allocation.facts
            where = health_check_addresses(facts.node_port_networks, facts.local_addresses)
            self._source.report(await self._health_checks.update(desired.health_checks, where))

    async def _stop(self, *, now: bool) -> None:
        """Let open connections finish, or cut them; then take everything away."""
        patience_s = 0.0 if now else self._config.drain_timeout
        self._manager.stopping("draining" if patience_s else "stopping", patience_s=patience_s + ending.LIMIT_S)
        if not now:
            await self._drain()
        await ending.death(self._workers.abort())
        await self._effects.finish()
        try:
            await ending.transaction(self._kernel.delete())
            await ending.release(self._node.release())
        except TransactionFailedError as error:
            raise TableStaysError(f"table inet kpf is still there, `kpf cleanup` takes it away: {error}") from error
        finally:
            await self._servers.close()
            await self._health_checks.close()
        log.info("stopped")

    async def _drain(self) -> None:
        self._state.draining = True
        wanted, patience_s = self._reconciler.desired.rules, self._config.drain_timeout
        drained = asyncio.create_task(ending.drain(self._effects, self._workers, wanted, patience_s=patience_s))
        impatient = asyncio.create_task(self._until_stop())
        await asyncio.wait([drained, impatient], return_when=asyncio.FIRST_COMPLETED)
        await ending.cancel([drained, impatient])

    async def _until_stop(self) -> None:
        while await self._signals.get() is SignalAction.RELOAD:
            pass

    def _newborn(self, slot: int) -> Configure:
        user = worker_user(self._config.worker_user)
        return Configure(
            number=0,
            slot=slot,
            workers=self._config.workers,
            uid=user,
            gid=user,
            orphan_timeout_s=self._config.drain_timeout,
        )


def _raise_descriptor_limit() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
