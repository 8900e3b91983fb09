"""What the daemon serves itself over HTTP: its state at the control socket, its health, and the health of Services."""

from collections.abc import Mapping
from pathlib import Path

from kpf.config import Config
from kpf.master.ending import ControlSocketError
from kpf.master.facts import NodeWatch
from kpf.master.metrics import Metrics
from kpf.master.own_state import OwnState
from kpf.master.reconcile import Reconciler
from kpf.master.source import Follower
from kpf.model.snapshot import Problem
from kpf.observe.health_checks import HealthCheckServers
from kpf.observe.healthz import health_documents
from kpf.observe.http import Document, Question, Servers, ServerSockets
from kpf.observe.metrics_server import Scrapes, metrics_handler
from kpf.plan.health import health_check_addresses


class OwnServers:
    """`sockets`: where they listen, to be handed over; a predecessor's among them. Made inside the event loop."""

    def __init__(
        self,
        sockets: ServerSockets,
        state: OwnState,
        metrics: Metrics,
        node: NodeWatch,
        reconciler: Reconciler,
        follower: Follower,
    ) -> None:
        self.sockets, self._state, self._metrics, self._node = sockets, state, metrics, node
        self._reconciler, self._follower = reconciler, follower
        self._servers, self._metrics_servers = Servers(sockets), Servers(sockets)
        self._health_checks = HealthCheckServers(lambda: state.health().takes_connections, sockets)

    async def serve_control(self, path: Path) -> None:
        """Raises `ControlSocketError`."""
        try:
            documents: Mapping[str, Document] = {"/ready": self._state.ready}
            questions: Mapping[str, Question] = {
                "/status": self._state.status,
                "/connections": self._state.connections,
                "/explain": self._state.explain,
            }
            await self._servers.serve_unix(path, documents, questions)
        except OSError as error:
            raise ControlSocketError(f"controlSocket {path}: {error.strerror or error}") from error

    async def serve_health(self, config: Config) -> None:
        """At its `healthz_bind_address`, now or later; anew, if it has served before."""
        await self._servers.close_tcp()
        if config.healthz_bind_address:
            address, port = config.healthz_bind_address
            documents = health_documents(self._state.health, self._metrics.count_answer)
            self._report("healthzBindAddress", await self._servers.serve_tcp(str(address), port, documents))

    async def serve_metrics(self, config: Config) -> None:
        """At its `metrics_bind_address`, now or later; anew, if it has served before."""
        await self._metrics_servers.close_tcp()
        if config.metrics_bind_address:
            address, port = config.metrics_bind_address
            handler = metrics_handler(Scrapes(self._metrics.families))
            failure = await self._metrics_servers.serve_tcp(str(address), port, handler)
            self._report("metricsBindAddress", failure)

    def _report(self, field: str, failure: str) -> None:
        if failure:
            self._follower.report((Problem("", f"Node {self._node.name}", field, failure),))

    async def serve_health_checks(self) -> None:
        """Those of Services, anew whenever something has changed. Never ends by itself."""
        while True:
            await self._reconciler.changed.wait()
            self._reconciler.changed.clear()
            desired = self._reconciler.desired
            facts = desired.allocation.facts
            where = health_check_addresses(facts.node_port_networks, facts.local_addresses)
            self._follower.report(await self._health_checks.update(desired.health_checks, where))
            # what a predecessor has listened on and nobody wants now
            self.sockets.close_unused()

    async def close(self, *, handed_over: bool = False) -> None:
        """Stop serving; `handed_over`: a successor has the sockets."""
        await self._servers.close(handed_over=handed_over)
        await self._metrics_servers.close()
        await self._health_checks.close()
