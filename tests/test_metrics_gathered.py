"""What `/metrics` is told of a daemon's parts: shared memory, plan, workers, sockets; and what that costs at scale."""

import asyncio
import gc
import socket
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from kpf.__main__ import COLLECT_AFTER
from kpf.config import Metrics as Limits
from kpf.master import metrics as gathering
from kpf.master import queues
from kpf.master.addresses import shared_address
from kpf.master.effects import Effects
from kpf.master.listening import ListeningGroup, ListeningSockets
from kpf.master.metrics import Metrics
from kpf.master.own_state import OwnState
from kpf.master.programming import ProgrammingTimes
from kpf.master.progress import Progress
from kpf.master.queues import Queues
from kpf.master.supervisor import Slot, State
from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import Family
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Changes, Problem, Snapshot, Watch
from kpf.net.sockets import overflows
from kpf.observe.exposition import exposition
from kpf.observe.metrics_server import Form, Scrapes
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.no_local import no_local_endpoints
from kpf.plan.planner import Planner
from kpf.shm.directory import Directory
from kpf.shm.layout import (
    DIAL_BOUNDS_MS,
    F_DIALS,
    F_ENDED,
    F_FAILED,
    F_LASTED,
    F_TOTAL,
    M_ACTIVE,
    M_TOTAL,
    SLOT_MASK,
    Reason,
)
from kpf.shm.region import Region
from tests.metrics_world import flat
from tests.values import FACTS, TCP, at, endpoints, service, snapshot

WORKERS = 2
PLAIN = Form(is_open_metrics=False, is_gzip=False)


class Listeners(dict[Listener, ListeningGroup]):
    """As `ListeningSockets`, without sockets."""

    def all_open(self) -> list[Listener]:
        return list(self)

    def all_sockets(self) -> list[tuple[int, socket.socket]]:
        return []


class Daemon:
    """The parts of one that serves Services, without a kernel and processes."""

    def __init__(self, *objects: Service | EndpointSlice) -> None:
        self.region = Region.create()
        self.directory = Directory(self.region)
        places = self.directory.take_worker_slots(WORKERS)
        self.listeners = Listeners()
        self.effects = Effects(self.directory, *[cast(Any, self.listeners)] * 3)
        self.source = SimpleNamespace(seen=Changes(3, 5), watches=(Watch("services", 1.5, 4),))
        self.reconciler = SimpleNamespace(
            desired=self._plan(objects), progress=Progress(changes=Changes(2, 2)), problems=()
        )
        self.slots = [Slot(State.READY, restarts=number) for number in range(WORKERS)]
        parts: dict[str, Any] = {
            "source": self.source,
            "node": None,
            "kernel": None,
            "directory": self.directory,
            "workers": SimpleNamespace(serving=SimpleNamespace(places=places, slots=self.slots)),
            "effects": self.effects,
            "reconciler": self.reconciler,
        }
        self.state = OwnState(**parts)
        self.metrics = Metrics(self.state, cast(ListeningSockets, self.listeners), Limits())
        for listener, frontend in self.reconciler.desired.frontends.items():
            slot = self.directory.claim(b"")
            members = [shared_address(one) for one in frontend.endpoints]
            self.directory.set_members(slot, members, affinity_timeout_ms=0)
            self.listeners[listener] = ListeningGroup(slot, ())

    def _plan(self, objects: Iterable[Service | EndpointSlice]) -> DesiredState:
        plans, ownership = Planner().plan(snapshot(*objects), FACTS)
        ports = ProxyPorts(range(10_000, 60_000), 50_000, lambda _: True)
        return desired_state(plans, allocate(ownership, FACTS, ports))

    def listener(self, name: str, family: Family) -> Listener:
        wanted = name, family
        return next(one for one in self.listeners if (one.frontend.port.service, one.frontend.family) == wanted)

    def slot(self, name: str, family: Family = Family.IPV4) -> int:
        return self.listeners[self.listener(name, family)].frontend_slot

    def count(self, slot: int, counter: int, by: int, worker: int = 0) -> None:
        self.region.words[self.region.layout.frontend_counter(worker, slot) + counter] += by

    def close(self, name: str, family: Family) -> None:
        """A frontend of its Service's."""
        listener = self.listener(name, family)
        slot = self.listeners.pop(listener).frontend_slot
        self.effects.on_close(listener.frontend, slot)
        self.directory.retire(slot)

    def scraped(self) -> dict[str, float]:
        """By the name and the labels' values, in the order of their names."""
        return flat(b"".join(exposition(asyncio.run(self._families()), is_open_metrics=False)).decode())

    async def _families(self) -> Any:
        return await self.metrics.families()


def both_families(name: str, number: int = 1) -> list[Service | EndpointSlice]:
    return [
        service(name, cluster_ips=(f"10.96.{number // 250}.{number % 250 + 1}", f"fd00:96::{number + 1:x}")),
        endpoints(f"10.1.{number // 250}.{number % 250 + 1}", of=name),
        endpoints(f"fd00::{number + 1:x}", of=name, name=f"{name}-6"),
    ]


def test_a_service_port_is_told_of_with_all_of_its_frontends_and_workers() -> None:
    daemon = Daemon(*both_families("web"))
    for family, by in ((Family.IPV4, 3), (Family.IPV6, 4)):
        for worker in range(WORKERS):
            daemon.count(daemon.slot("web", family), F_TOTAL, by, worker)
    daemon.count(daemon.slot("web"), F_DIALS + len(DIAL_BOUNDS_MS), 1)
    daemon.count(daemon.slot("web"), F_LASTED, 2)
    daemon.count(daemon.slot("web"), F_FAILED + Reason.PORTS, 5)
    found = daemon.scraped()
    assert found["kpf_connections_total default web"] == 14
    assert found["kpf_dial_duration_seconds_bucket 65.536 default web"] == 0
    assert found["kpf_dial_duration_seconds_bucket +Inf default web"] == 1
    assert found["kpf_connection_duration_seconds_bucket 0.001 default web"] == 2
    assert found["kpf_connections_failed_total default ports web"] == 5
    assert found["kpf_endpoint_connections_total 10.1.0.2:8080 default web"] == 0
    assert found["kpf_endpoint_connections_total [fd00::2]:8080 default web"] == 0


def test_counts_do_not_go_back_when_a_frontend_ends() -> None:
    daemon = Daemon(*both_families("web"), *both_families("other", 2))
    for family in Family:
        daemon.count(daemon.slot("web", family), F_TOTAL, 10)
    daemon.close("web", Family.IPV6)
    assert daemon.scraped()["kpf_connections_total default web"] == 20
    daemon.close("web", Family.IPV4)
    assert "kpf_connections_total default web" not in daemon.scraped()
    # one of the same name that comes later is another one
    assert daemon.metrics._closed == {}


def test_what_is_closed_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(*both_families("a"), *both_families("b", 2))
    look = daemon.metrics._service

    def closing_b(name: Any, *others: Any) -> Any:
        if name.service == "b":
            for family in Family:
                daemon.close("b", family)
        return look(name, *others)

    monkeypatch.setattr(daemon.metrics, "_service", closing_b)
    found = daemon.scraped()
    assert found["kpf_connections_total default a"] == 0
    assert "kpf_connections_total default b" not in found


def test_others_have_their_turns_while_services_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "AT_A_TIME", 3)
    daemon, turns = Daemon(*(one for number in range(20) for one in both_families(f"s{number}", number))), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def play() -> int:
        # the imports take turns, too
        await daemon.metrics.families()
        busy = asyncio.create_task(others())
        await asyncio.sleep(0)
        before = turns
        await daemon.metrics.families()
        busy.cancel()
        return turns - before

    assert asyncio.run(play()) >= 20


def test_the_limit_is_that_of_the_configuration() -> None:
    daemon = Daemon(*both_families("a"), *both_families("b", 2))
    daemon.metrics.limits = Limits(max_series=12, per_endpoint=False)
    found = daemon.scraped()
    assert [found[f"kpf_metrics_series{one}"] for one in ("", "_limit", "_left_out")] == [10, 12, 0]
    assert not [name for name in found if name.startswith("kpf_endpoint")]
    daemon.metrics.limits = Limits(max_series=12)
    found = daemon.scraped()
    assert [found[f"kpf_metrics_series{one}"] for one in ("", "_limit", "_left_out")] == [10, 12, 8]


def test_a_daemon_tells_of_itself() -> None:
    daemon = Daemon(*both_families("web"))
    daemon.reconciler.problems = (
        Problem("a.yaml:3", "", "", "does not parse"),
        Problem("", "Service default/web", "spec", "x"),
        Problem("", "EndpointSlice default/web", "endpoints[0]", "x"),
        Problem("", "EndpointSlice default/web", "endpoints[1]", "x"),
        Problem("", "Service", "x", "x"),
    )
    daemon.slots[1].state = State.LATE
    daemon.metrics.count_answer("healthz", 503)
    daemon.state.draining = True
    found = daemon.scraped()
    assert {name: value for name, value in found.items() if name.startswith("kpf_problems")} == {
        "kpf_problems EndpointSlice": 2,
        "kpf_problems Node": 0,
        "kpf_problems Service": 2,
        "kpf_problems ServiceCIDR": 0,
        "kpf_problems other": 1,
    }
    assert [found[f"kpf_workers {state}"] for state in ("ready", "late", "paused", "leaving")] == [1, 1, 0, 0]
    assert [found[f"kpf_worker_restarts_total {worker}"] for worker in range(WORKERS)] == [0, 1]
    assert found["kpf_watch_age_seconds services"] == 1.5
    assert found["kpf_watch_requests_total services"] == 4
    assert found["kubeproxy_proxy_healthz_total 503"] == 1
    assert found["kubeproxy_sync_proxy_rules_endpoint_changes_total"] == 5
    assert found["kubeproxy_sync_proxy_rules_endpoint_changes_pending"] == 3
    assert found["kpf_draining"] == 1
    # nothing has been synced yet
    assert found["kubeproxy_sync_proxy_rules_last_timestamp_seconds IPv4"] == 0
    assert 0 < found["process_open_fds"] < found["process_max_fds"]


def test_times_of_syncs_are_of_the_wall_clock() -> None:
    daemon = Daemon(*both_families("web"))
    progress = daemon.reconciler.progress
    progress.request()
    progress.took(0.003, full=True)
    progress.took(0.2, full=False)
    progress.succeed(Changes(3, 5))
    found, now_s = daemon.scraped(), time.time()
    for name in ("last_timestamp_seconds", "last_queued_timestamp_seconds"):
        assert 0 <= now_s - found[f"kubeproxy_sync_proxy_rules_{name} IPv6"] < 60
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_count IPv4"] == 2
    assert found["kubeproxy_sync_full_proxy_rules_duration_seconds_bucket IPv4 0.004"] == 1
    assert found["kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket IPv4 0.128"] == 0
    assert found["kubeproxy_sync_proxy_rules_service_changes_pending"] == 0


HERE, THERE = (Endpoint(at(f"10.0.0.{number}:1").address, node_name=f"node-{number}") for number in (1, 2))
LOCAL, CLUSTER = TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER


@pytest.mark.parametrize(
    ("internal", "external", "where", "expected"),
    [
        (LOCAL, CLUSTER, (THERE,), {"internal": 1}),
        (CLUSTER, LOCAL, (THERE,), {"external": 1}),
        (LOCAL, LOCAL, (THERE,), {"internal": 1, "external": 1}),
        (LOCAL, LOCAL, (HERE, THERE), {}),
        (LOCAL, LOCAL, (), {}),
        (CLUSTER, CLUSTER, (THERE,), {}),
    ],
)
def test_services_without_a_local_endpoint(
    internal: TrafficPolicy, external: TrafficPolicy, where: Any, expected: dict[str, int]
) -> None:
    web = service(
        type=ServiceType.NODE_PORT,
        ports=(ServicePort("", TCP, 80, node_port=30080),),
        internal_policy=internal,
        external_policy=external,
    )
    plans, _ = Planner().plan(snapshot(web, endpoints(*where)), FACTS)
    assert no_local_endpoints(plans) == {(Family.IPV4, policy): count for policy, count in expected.items()}


def test_from_a_change_to_its_being_in_force() -> None:
    times, slices = (
        ProgrammingTimes(since_s=100.0),
        {
            "old": replace(endpoints("10.0.0.1", of="old"), triggered_at_s=99.0),
            "new": replace(endpoints("10.0.0.1", of="new"), triggered_at_s=101.0),
            "silent": endpoints("10.0.0.1", of="silent"),
        },
    )

    def told() -> Snapshot:
        return replace(snapshot(*slices.values()), touched=frozenset(one.service for one in slices.values()))

    times.note(told())
    # a sync that failed, and the same again
    times.note(told())
    times.in_force(103.0)
    (took,) = times.by_family.values()
    assert (list(times.by_family), took.total_s, sum(took.buckets)) == ([Family.IPV4], 2.0, 1)
    slices["new"] = replace(slices["new"], triggered_at_s=104.0)
    times.note(told())
    times.in_force(104.5)
    assert (took.total_s, sum(took.buckets)) == (2.5, 2)


@contextmanager
def listening(backlog: int) -> Iterator[tuple[Any, socket.socket]]:
    """Sockets of one listener, the only one there is, and the first of them."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address, backlog=backlog) as one, socket.create_server(address) as other:
        yield SimpleNamespace(all_sockets=lambda: [(0, one), (1, other)]), one


def test_queues_are_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "AT_A_TIME", 1)
    with listening(backlog=1) as (listeners, full), ExitStack() as clients:
        looked = Queues(listeners)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        # of backlog 1, two fit; the others' SYNs are dropped again and again
        asyncio.run(looked.look())
        assert (looked.waiting[0], looked.waiting[1]) == (2, 0)
        first = looked.overflows[0]
        assert first >= 2
        asyncio.run(looked.look())
        # what was there before counts once
        assert first <= looked.overflows[0] <= overflows(full)
        full.close()
        asyncio.run(looked.look())
        assert (looked.waiting[0], looked.overflows[0]) == (0, looked.overflows[0])
        assert looked._seen == {}


SERVICES, ENDPOINTS, OPEN = 5_000, 4, 20_000
LONGEST_HOLD_S = 0.02


def large() -> Daemon:
    """Of 5,000 Services, 20,000 endpoints, 20,000 open connections, and of everything something."""
    made: list[Service | EndpointSlice] = []
    for number in range(SERVICES):
        name, net = f"service-{number:04}", f"{number // 250}.{number % 250}"
        pods = [f"10.{16 + one}.{net}" for one in range(ENDPOINTS)]
        made += [service(name, cluster_ips=(f"10.96.{net}",)), endpoints(*pods, of=name)]
    daemon = Daemon(*made)
    for number, slot in enumerate(group.frontend_slot for group in daemon.listeners.values()):
        for counter, by in ((F_TOTAL, 1000 + number), (F_ENDED, 996 + number), (F_DIALS, 900), (F_LASTED + 5, 996)):
            daemon.count(slot, counter, by)
        daemon.count(slot, F_FAILED, number % 2)
        for member in daemon.directory.members(slot):
            at = daemon.region.layout.member_counter(0, member.identity & SLOT_MASK)
            daemon.region.words[at + M_TOTAL] = 250
            daemon.region.words[at + M_ACTIVE] = 1
    return daemon


class Holds(NamedTuple):
    """Of the event loop, in seconds: the longest by the wall clock and in CPU time, and all together likewise."""

    longest_s: float
    longest_cpu_s: float
    took_s: float
    cpu_s: float


async def holds(work: Awaitable[object]) -> Holds:
    """While this is done."""
    wall_s, cpu_s = [0.0], [0.0]

    async def others() -> None:
        while True:
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            wall_s.append(time.perf_counter() - began_s)
            cpu_s.append(time.thread_time() - began_cpu_s)

    busy = asyncio.create_task(others())
    await work
    busy.cancel()
    return Holds(max(wall_s), max(cpu_s), sum(wall_s), sum(cpu_s))


@pytest.mark.soak
@pytest.mark.parametrize("max_series", [50_000, 1_000_000])
def test_a_scrape_of_5000_services_does_not_hold_up_the_loop(max_series: int) -> None:
    daemon = large()
    daemon.metrics.limits = Limits(max_series=max_series)
    # as the daemon has it
    gc.set_threshold(*COLLECT_AFTER)
    gc.freeze()

    async def play() -> None:
        scrapes, longest_s = Scrapes(daemon.metrics.families), []
        # its imports are another matter
        await daemon.metrics.families()
        for form in (PLAIN, Form(True, False), Form(True, True)) * 2:
            scrapes._kept.clear()
            seen, size = await holds(scrapes.pieces(form)), sum(map(len, scrapes._kept[form]))
            longest_s.append(seen.longest_cpu_s)
            print(f"{form}: {size} bytes, {seen}")
        print(f"without a scrape: {await holds(asyncio.sleep(1.0))}")
        # by its CPU time: others may have the CPU meanwhile
        assert max(longest_s) < LONGEST_HOLD_S

    asyncio.run(play())
