"""What the daemon tells of itself: over HTTP, over the control socket, and to the service manager."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kpf import __version__
from kpf.master import report
from kpf.master.connections import Connections
from kpf.master.effects import Effects
from kpf.master.facts import NodeWatch
from kpf.master.generations import Generations
from kpf.master.reconcile import Reconciler
from kpf.master.source import Follower
from kpf.model.selection import Selection
from kpf.nft.kernel import Kernel
from kpf.observe.health import Health
from kpf.observe.vitals import Vitals
from kpf.shm.directory import Directory
from kpf.waiting import imported


@dataclass(slots=True)
class OwnState:
    """Asks the parts.

    The master itself says how far it is: `is_started` (all workers are ready), `draining`, `handed_over` (a successor
    serves). `reloaded_at_s`: when the configuration in force was read, in seconds of the Unix epoch;
    `reload_succeeded`: the last time that it was to be read.
    """

    source: Follower
    node: NodeWatch
    kernel: Kernel
    directory: Directory
    workers: Generations
    effects: Effects
    reconciler: Reconciler
    is_started: bool = False
    draining: bool = False
    handed_over: bool = False
    reload_succeeded: bool = True
    reloaded_at_s: float = field(default_factory=time.time)
    _began_s: float = field(default_factory=time.monotonic)
    _connections: Connections = field(init=False)

    def __post_init__(self) -> None:
        self._connections = Connections(self.workers, self.directory)

    def health(self) -> Health:
        """For `/healthz`, `/livez` and the health checks of Services."""
        progress, node = self.reconciler.progress, self.reconciler.node
        return Health(
            synced=progress.synced,
            waiting_s=progress.waiting_s,
            last_success_s=time.monotonic() - progress.last_success_s,
            node_eligible=node is None or not node.being_deleted,
            draining=self.draining,
        )

    def vitals(self) -> Vitals:
        """For the service manager."""
        progress = self.reconciler.progress
        return Vitals(
            # what workers are left may all have ended
            is_started=self.is_started and not self.handed_over,
            synced=progress.synced,
            generation=progress.generation,
            services=len(self.reconciler.desired.captured),
            workers=len(self.workers.slots),
            workers_alive=self.workers.alive,
            standing_s=progress.standing_s,
            in_kernel=self.kernel.is_busy,
            waiting_s=progress.waiting_s,
            troubles=self.source.troubles,
        )

    def ready(self) -> tuple[int, str]:
        """For `kpf status --ready`: 200 if this kpf serves, else 503 and why it does not."""
        why = self._why_not_ready()
        return (503, why) if why else (200, "ready")

    def _why_not_ready(self) -> str:
        if self.handed_over:
            return "another kpf has taken over"
        if not self.is_started:
            return "not all workers are ready"
        if not self.reconciler.progress.synced:
            return "; ".join(("nothing has been synced yet", *self.source.troubles))
        if not self.effects.may_close.is_set():
            return "the kpf before has not left yet"
        return "it drains" if self.draining else ""

    async def status(self, query: Mapping[str, str]) -> tuple[int, object]:
        """For `kpf status`: HTTP status and JSON body. `query` may have `namespace`, `name` and `port` of Services."""
        wanted = Selection(query.get("namespace", ""), query.get("name", ""), query.get("port", ""))
        progress, desired = self.reconciler.progress, self.reconciler.desired
        return 200, {
            "version": __version__,
            "node": self.node.name,
            "uptimeSeconds": round(time.monotonic() - self._began_s, 1),
            "generation": progress.generation,
            "synced": progress.synced,
            "draining": self.draining,
            "problems": report.problems_report(self.reconciler.problems),
            "proxyAddresses": [str(one) for one in desired.rules.proxy_addresses.values()],
            "troubles": list(self.source.troubles),
            "workerUser": self.node.worker_uid,
            "workers": report.workers_report(self.workers, self.directory),
            "services": await report.services_report(desired, self.effects.slot_of, self.directory, wanted),
        }

    async def connections(self, query: Mapping[str, str]) -> tuple[int, object]:
        """For `kpf connections`: HTTP status and JSON body."""
        return await self._connections.answered(query, self.reconciler.desired)

    async def explain(self, query: Mapping[str, str]) -> tuple[int, object]:
        """For `kpf explain`: HTTP status and JSON body."""
        # not before somebody asks: 20 ms of a start, or of the loop
        await imported("kpf.master.explaining")
        from kpf.master import explaining

        return await explaining.answered(query, self.reconciler.desired, self.effects, self.directory)
