"""What `/metrics` tells: looks at everything, in turns with everything else on the loop. Decides nothing."""

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from kpf import __version__
from kpf.config import Metrics as Limits
from kpf.master.addresses import shown as as_text
from kpf.master.listening import ListeningSockets
from kpf.master.own_state import OwnState
from kpf.master.queues import Queues
from kpf.master.supervisor import State
from kpf.model.names import FrontendKey, ServicePortName
from kpf.observe.families import Family, gauge
from kpf.observe.node_metrics import NodeMetrics, SyncMetrics, WorkerMetrics, node_families
from kpf.observe.service_metrics import (
    EndpointView,
    ServiceView,
    closed,
    endpoint_view,
    service_families,
    service_view,
    shown,
)
from kpf.plan.allocation import Listener
from kpf.plan.no_local import no_local_endpoints
from kpf.shm.layout import Address
from kpf.shm.observer import FrontendView, MemberView
from kpf.waiting import imported

# Services and endpoints that are looked at before others get their turn on the loop: some 20 us each
AT_A_TIME = 100

_KINDS = frozenset({"Service", "EndpointSlice", "Node", "ServiceCIDR"})
_OTHER_KIND = "other"
_LEAVING = "leaving"


class Metrics:
    """`limits`: what the configuration says of it."""

    def __init__(self, state: OwnState, listeners: ListeningSockets, limits: Limits) -> None:
        self._state, self._open, self._queues = state, listeners, Queues(listeners)
        self.limits = limits
        self._answers: dict[str, Counter[int]] = {"healthz": Counter(), "livez": Counter()}
        # of frontends that have ended, for as long as their ServicePort is there: its counts must not go back
        self._closed: dict[ServicePortName, FrontendView] = {}
        state.effects.on_close = self._keep

    def count_answer(self, path: str, status: int) -> None:
        """Of "healthz" or "livez"."""
        self._answers[path][status] += 1

    def _keep(self, frontend: FrontendKey, slot: int) -> None:
        self._closed[frontend.port] = closed(self._state.directory.frontend(slot), self._closed.get(frontend.port))

    async def families(self) -> Iterable[Family]:
        """All there are, of what is so at this moment."""
        # 30 ms
        await imported("kpf.master.processes")
        await self._queues.look()
        services, sizes = list[ServiceView](), list[tuple[int, int, int]]()
        affinity, due = Counter[str](), 0
        for name, listeners in self._listeners():
            view = self._service(name, listeners, affinity)
            if view is not None:
                services.append(view)
                sizes.append(view.sizes)
                due += len(view.endpoints) + 1
            if due >= AT_A_TIME:
                due = 0
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        what = shown(sizes, self.limits.max_series)
        series, limit, left_out = "Series of Services that are here.", "How many may be.", "Those beyond the limit."
        own = (
            gauge("kpf_metrics_series", series, what.series),
            gauge("kpf_metrics_series_limit", limit, self.limits.max_series),
            gauge("kpf_metrics_series_left_out", left_out, what.left_out),
        )
        return chain(node_families(self._node(affinity)), own, service_families(services, what))

    def _listeners(self) -> Sequence[tuple[ServicePortName, Sequence[Listener]]]:
        """Those that are open, also if they are being closed, by ServicePort, which are in order."""
        found: dict[ServicePortName, list[Listener]] = {}
        for listener in self._open.all_open():
            found.setdefault(listener.frontend.port, []).append(listener)
        for gone in self._closed.keys() - found.keys():
            del self._closed[gone]
        return sorted(found.items())

    def _service(
        self, name: ServicePortName, listeners: Iterable[Listener], affinity: Counter[str]
    ) -> ServiceView | None:
        """None if all of them have been closed meanwhile. `affinity`: what is to be added up over all Services."""
        directory = self._state.directory
        slots = [self._open[listener].frontend_slot for listener in listeners if listener in self._open]
        if not slots:
            return None
        frontends = [directory.frontend(slot) for slot in slots]
        if (ended := self._closed.get(name)) is not None:
            frontends.append(ended)
        affinity["entries"] += sum(one.affinity_entries for one in frontends)
        affinity["evictions"] += sum(one.affinity_evictions for one in frontends)
        return service_view(
            {"namespace": name.namespace, "service": name.service, "port": name.port},
            frontends,
            self._endpoints(slots) if self.limits.per_endpoint else (),
            has_affinity=any(directory.affinity_timeout_ms(slot) for slot in slots),
        )

    def _endpoints(self, slots: Iterable[int]) -> list[EndpointView]:
        # an endpoint of two sets is one endpoint to the reader
        members: dict[Address, list[MemberView]] = {}
        for slot in slots:
            for member in self._state.directory.members(slot):
                members.setdefault(member.address, []).append(member)
        return [endpoint_view(as_text(address), several) for address, several in members.items()]

    def _node(self, affinity: Mapping[str, int]) -> NodeMetrics:
        from kpf.master.processes import own_metrics

        state, workers = self._state, self._workers()
        return NodeMetrics(
            build={"version": __version__, "python_version": platform.python_version()},
            sync=self._sync(),
            process=own_metrics(),
            workers=workers,
            worker_states={**dict.fromkeys((*map(str, State), _LEAVING), 0), **Counter(one.state for one in workers)},
            watches=state.source.watches,
            answers=self._answers,
            problems=self._problems(),
            affinity_entries=affinity["entries"],
            affinity_evictions=affinity["evictions"],
            draining=state.draining,
            reload_succeeded=state.reload_succeeded,
            reloaded_at_s=state.reloaded_at_s,
        )

    def _problems(self) -> Mapping[str, int]:
        kinds = (problem.object.partition(" ")[0] for problem in self._state.reconciler.problems)
        found = Counter(kind if kind in _KINDS else _OTHER_KIND for kind in kinds)
        return {kind: found[kind] for kind in (*sorted(_KINDS), _OTHER_KIND)}

    def _sync(self) -> SyncMetrics:
        reconciler, now_s, at_s = self._state.reconciler, time.monotonic(), time.time()
        progress, desired = reconciler.progress, reconciler.desired
        seen, in_force, asked_s = self._state.source.seen, progress.changes, progress.requested_s
        families = sorted(desired.rules.proxy_addresses)
        no_local = no_local_endpoints(desired.plans)
        return SyncMetrics(
            families=[str(family) for family in families],
            last_success_at_s=at_s - (now_s - progress.last_success_s) if progress.synced else 0.0,
            last_queued_at_s=at_s - (now_s - asked_s) if asked_s is not None else 0.0,
            failures=progress.failures,
            full_took=progress.full_took,
            partial_took=progress.partial_took,
            programming={str(family): took for family, took in progress.programming.by_family.items()},
            changes=seen,
            # a new source begins to count anew
            pending=(max(seen.services - in_force.services, 0), max(seen.slices - in_force.slices, 0)),
            no_local={
                (str(family), policy): no_local.get((family, policy), 0)
                for family in families
                for policy in ("internal", "external")
            },
        )

    def _workers(self) -> list[WorkerMetrics]:
        """Those that serve, and those that are leaving, whoever's they are."""
        generation, directory = self._state.workers.serving, self._state.directory
        found = [
            self._worker(place, str(slot.state), slot.pid)._replace(
                restarts=slot.restarts, queued=self._queues.waiting[index], overflows=self._queues.overflows[index]
            )
            for index, (place, slot) in enumerate(zip(generation.places, generation.slots, strict=True))
        ]
        leaving = [place for place in directory.worker_slots() if place not in generation.places]
        return [*found, *(self._worker(place, _LEAVING, directory.worker(place).pid) for place in leaving)]

    def _worker(self, place: int, state: str, pid: int) -> WorkerMetrics:
        from kpf.master.processes import Usage, usage

        seen = self._state.directory.worker(place)
        used = usage(pid) if pid else Usage()
        return WorkerMetrics(
            worker=place,
            state=state,
            heartbeat_age_s=max(time.monotonic() - seen.heartbeat_ms / 1000, 0.0),
            paused=seen.paused,
            pauses=seen.pauses,
            active=seen.active if pid else 0,
            total=seen.total,
            cpu_s=used.cpu_s,
            resident_bytes=used.resident_bytes,
        )
