"""What a reload changes while kpf runs: all but where others look for this process, and what the kernel knows it by."""

import logging
import time
from collections.abc import Callable

from kpf.config import Config, ConfigError, reload_needs_restart
from kpf.master.estate import MasterEstate
from kpf.master.own_servers import OwnServers
from kpf.master.parts import Parts, capacity
from kpf.master.source import Follower, open_source
from kpf.observe.log import set_up
from kpf.shm.slots import CapacityError

log = logging.getLogger("kpf")


class Reload:
    """`read` reads the configuration anew and raises `ConfigError`."""

    def __init__(
        self, read: Callable[[], Config], parts: Parts, follower: Follower, servers: OwnServers, estate: MasterEstate
    ) -> None:
        self._read, self._parts, self._follower = read, parts, follower
        self._servers, self._estate = servers, estate

    async def reload(self, now: Config) -> Config:
        """What is in force afterwards: `now`, if the new one is invalid. Manifests and credentials are read anew."""
        await self._follower.reread()
        try:
            asked = self._read()
        except ConfigError as error:
            log.error("the configuration is invalid, the old one stays in force:")
            for problem in error.problems:
                log.error("%s", problem)
            self._parts.state.reload_succeeded = False
            self._parts.reconciler.request(full=True)
            return now
        kept = reload_needs_restart(now, asked)
        for name in kept:
            log.warning("%s has changed: that needs a restart", Config.model_fields[name].alias)
        set_up(asked.logging.level, asked.logging.format)
        if asked.workers != now.workers and not await self._change_workers(asked.workers):
            kept.append("workers")
        new = asked.model_copy(update={name: getattr(now, name) for name in kept})
        await self._follow(now, new)
        self._parts.state.reload_succeeded, self._parts.state.reloaded_at_s = "workers" not in kept, time.time()
        log.info("configuration and manifests are read anew")
        self._parts.reconciler.request(full=True)
        return new

    async def _follow(self, old: Config, new: Config) -> None:
        self._parts.configure(new)
        self._parts.node.configure(new)
        await self._parts.node.hold()
        self._parts.reconciler.configure(port_range=new.port_range.ports, capacity=capacity(new))
        if old.source != new.source:
            self._follower.replace(open_source(new))
        if old.healthz_bind_address != new.healthz_bind_address:
            await self._servers.serve_health(new)
        self._parts.metrics.limits = new.metrics
        if old.metrics_bind_address != new.metrics_bind_address:
            await self._servers.serve_metrics(new)

    async def _change_workers(self, count: int) -> bool:
        """Between two syncs: whoever opens listeners must know how many sockets each has. False if that stays."""
        if self._estate.is_held:
            log.error("there are as many workers as before: another kpf takes over at this moment")
            return False
        await self._parts.reconciler.hold()
        try:
            await self._parts.workers.change(count)
        except (OSError, CapacityError) as error:
            log.error("there are as many workers as before: %s", error)
            return False
        finally:
            self._parts.reconciler.go_on()
        return True
