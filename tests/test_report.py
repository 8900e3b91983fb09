"""The state that `kpf status` shows: made in turns, of what is open when its turn comes."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any

import orjson
import pytest

from kpf.master import report
from kpf.master.addresses import shared_address
from kpf.master.report import services_report
from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import ObjectName, SocketAddress
from kpf.model.selection import Selection
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Problem
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.layout import M_FAILURES, Reason
from kpf.shm.region import Region, monotonic_ms
from tests.values import FACTS, TCP, UDP, endpoints, service, snapshot

COUNT = 20
ANY = Selection()


class Served:
    """Services of three endpoints, one of them IPv6, and their places in shared memory."""

    def __init__(self, facts: NodeFacts = FACTS, *objects: Service | EndpointSlice) -> None:
        self._facts = facts
        self.directory = Directory(Region.create())
        self.directory.take_worker_slots(2)
        self.desired = self.plan(objects or self.many())
        self.slots: dict[Listener, int] = {}
        for listener, frontend in self.desired.frontends.items():
            self.slots[listener] = self.directory.claim(b"")
            members = [shared_address(one) for one in frontend.endpoints]
            self.directory.set_members(self.slots[listener], members, affinity_timeout_ms=0)

    def many(self) -> list[Service | EndpointSlice]:
        objects: list[Service | EndpointSlice] = []
        for number in range(COUNT):
            name, ips = f"s{number:02}", (f"10.96.0.{number + 1}", f"fd00:96::{number + 1}")
            objects += [
                service(name, cluster_ips=ips),
                endpoints(f"10.0.{number}.1", f"10.0.{number}.2", of=name),
                endpoints(f"fd00::{number + 1}", of=name, name=f"{name}-6"),
            ]
        return objects

    def plan(self, objects: Iterable[Service | EndpointSlice]) -> DesiredState:
        plans, ownership = Planner().plan(snapshot(*objects), self._facts)
        return desired_state(
            plans, allocate(ownership, self._facts, ProxyPorts(range(20000, 21000), 1000, lambda _: True))
        )

    async def entries(self, wanted: Selection = ANY) -> list[dict[str, Any]]:
        made = await services_report(self.desired, self.slots.get, self.directory, wanted)
        entries: list[dict[str, Any]] = orjson.loads(orjson.dumps(made))
        return entries

    def report(self, wanted: Selection = ANY) -> list[dict[str, Any]]:
        return asyncio.run(self.entries(wanted))


def test_an_entry_has_all_frontends_of_its_service_port() -> None:
    served = Served()
    entries = served.report()
    assert [entry["name"] for entry in entries] == [f"s{number:02}" for number in range(COUNT)]
    first = entries[0]
    assert first["clusterIPs"] == ["10.96.0.1", "fd00:96::1"]
    assert first["portals"] == ["10.96.0.1:80", "[fd00:96::1]:80"]
    assert first["endpoints"] == [healthy(address) for address in ("10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080")]


def test_a_portal_that_is_left_out_is_not_shown() -> None:
    own = (SocketAddress(ip_address("10.96.0.1"), 80),)
    served = Served(replace(FACTS, own_listeners=own))
    first, second, *_ = served.report()
    assert (first["portals"], first["clusterIPs"]) == (["[fd00:96::1]:80"], ["fd00:96::1"])
    assert second["portals"] == ["10.96.0.2:80", "[fd00:96::2]:80"]


def test_others_have_their_turns_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "AT_A_TIME", 8)
    served, turns = Served(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask() -> list[dict[str, Any]]:
        busy = asyncio.create_task(others())
        entries = await served.entries()
        busy.cancel()
        return entries

    assert len(asyncio.run(ask())) == COUNT
    # four units an entry: three endpoints, and itself
    assert turns == COUNT // 2


def test_what_is_closed_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "AT_A_TIME", 1)
    served = Served()

    async def close_all() -> None:
        for slot in served.slots.values():
            served.directory.retire(slot)
        served.slots.clear()

    async def ask() -> list[dict[str, Any]]:
        closing = asyncio.create_task(close_all())
        entries = await served.entries()
        await closing
        return entries

    assert [entry["name"] for entry in asyncio.run(ask())] == ["s00"]


HERE, THERE = Endpoint(ip_address("10.0.0.1"), node_name="node-1"), Endpoint(ip_address("10.0.0.2"), node_name="node-2")
LOCAL = service(
    type=ServiceType.NODE_PORT,
    external_policy=TrafficPolicy.LOCAL,
    ports=(ServicePort("", TCP, 80, node_port=30080),),
    affinity_timeout_s=10,
)
NOTHING_KNOWN = {"connectionsActive": None, "connectionsTotal": None}
NOT_FAILING = {"since": None, "reason": None, "nextTry": None}


def healthy(address: str, *, node: str = "") -> dict[str, object]:
    counts = {"connectionsActive": 0, "connectionsTotal": 0, "dialFailures": 0, "dialFailuresByReason": {}}
    return {"address": address, "state": "healthy", **counts, "node": node, "pod": "", **NOT_FAILING}


def unwatched(*addresses: str) -> list[dict[str, object]]:
    unknown = {**NOTHING_KNOWN, "dialFailures": None, "dialFailuresByReason": None}
    return [
        {"address": one, "state": "unknown", **unknown, "node": node, "pod": "", **NOT_FAILING}
        for one, node in zip(addresses, ("node-1", "node-2"), strict=False)
    ]


def test_what_the_kernel_forwards_is_not_watched() -> None:
    dns = replace(endpoints(HERE, THERE, port=53), ports=(EndpointPort("", UDP, 53),))
    ports = (ServicePort("", UDP, 53, node_port=30053),)
    (entry,) = Served(FACTS, service(type=ServiceType.NODE_PORT, ports=ports), dns).report()
    assert entry == {
        "namespace": "default",
        "name": "web",
        "port": "",
        "protocol": "UDP",
        "forwarding": "direct",
        "directFromElsewhere": False,
        "limited": False,
        "clusterIPs": ["10.96.0.1"],
        "portals": ["10.96.0.1:53"],
        "nodePort": 30053,
        "proxyPort": None,
        "proxyPorts": [],
        "sessionAffinity": "None",
        "affinityTimeoutSeconds": None,
        **NOTHING_KNOWN,
        "bytesIn": None,
        "bytesOut": None,
        "dialRetries": None,
        "connectionsFailed": None,
        "endpoints": unwatched("10.0.0.1:53", "10.0.0.2:53"),
    }


def test_a_direct_port_is_not_watched_though_loopback_is_proxied() -> None:
    direct = replace(LOCAL, external_policy=TrafficPolicy.CLUSTER, annotations=(("kpf.io/forwarding", "direct"),))
    served = Served(FACTS, direct, endpoints(HERE, THERE))
    assert served.slots, "127.0.0.1:30080 is proxied"
    (entry,) = served.report()
    assert (entry["forwarding"], entry["proxyPort"], entry["sessionAffinity"]) == ("direct", None, "ClientIP")
    assert entry["endpoints"] == unwatched("10.0.0.1:8080", "10.0.0.2:8080")


def test_a_port_that_is_direct_from_elsewhere_shows_what_its_workers_see() -> None:
    served = Served(FACTS, LOCAL, endpoints(HERE, THERE))
    (listener,) = served.slots
    (entry,) = served.report()
    assert (entry["forwarding"], entry["directFromElsewhere"]) == ("proxied", True)
    assert entry["proxyPort"] == listener.at.port
    assert entry["endpoints"] == [
        healthy("10.0.0.1:8080", node="node-1"),
        healthy("10.0.0.2:8080", node="node-2"),
    ]


def test_a_port_that_is_direct_from_elsewhere_is_shown_while_its_listener_is_not_open() -> None:
    served = Served(FACTS, LOCAL, endpoints(HERE, THERE))
    served.slots.clear()
    (entry,) = served.report()
    assert (entry["proxyPort"], entry["connectionsTotal"]) == (None, None)
    assert entry["endpoints"] == unwatched("10.0.0.1:8080")


def test_what_is_asked_for_alone_is_told() -> None:
    served = Served()
    assert [entry["name"] for entry in served.report(Selection("default", "s03"))] == ["s03"]
    assert len(served.report(Selection("default"))) == COUNT
    assert served.report(Selection("shop")) == served.report(Selection("default", "s03", "https")) == []


def test_both_families_proxy_ports_and_affinity_are_told() -> None:
    served = Served(
        FACTS, replace(service(cluster_ips=("10.96.0.1", "fd00:96::1")), affinity_timeout_s=60), endpoints("10.0.0.1")
    )
    (entry,) = served.report()
    ports = {str(listener.frontend.family): listener.at.port for listener in served.slots}
    assert entry["proxyPorts"] == [
        {"family": family, "endpointSet": "cluster", "port": port} for family, port in sorted(ports.items())
    ]
    assert entry["proxyPort"] == ports["IPv4"]
    assert (entry["sessionAffinity"], entry["affinityTimeoutSeconds"]) == ("ClientIP", 60)


def test_an_endpoint_has_its_pod_its_end_and_its_failure() -> None:
    pods = (
        Endpoint(ip_address("10.0.0.1"), node_name="node-1", pod="default/web-1"),
        Endpoint(ip_address("10.0.0.2"), ready=False, terminating=True),
        Endpoint(ip_address("10.0.0.3"), ready=False, terminating=True),
    )
    served = Served(FACTS, service(), endpoints(*pods[:1]))
    plan = replace(served.desired.plans[ObjectName("default", "web")], slices=(endpoints(*pods),))
    served.desired = replace(served.desired, plans={ObjectName("default", "web"): plan})
    (slot,) = served.slots.values()
    addresses = [shared_address(SocketAddress(pod.address, 8080)) for pod in pods]
    served.directory.set_members(slot, addresses, affinity_timeout_ms=0)
    balancer, now_ms = Balancer(served.directory.region, 0), monotonic_ms()
    *_, last = served.directory.members(slot)
    balancer.failed(slot, last.identity, "10.1.1.1", now_ms)
    served.directory.region.words[served.directory.region.layout.member_counter(0, 2) + M_FAILURES + Reason.TIMEOUT] = 3
    first, second, third = served.report()[0]["endpoints"]
    assert (first["state"], first["node"], first["pod"]) == ("healthy", "node-1", "default/web-1")
    assert (second["state"], second["since"], second["nextTry"]) == ("terminating", None, None)
    assert (third["state"], third["reason"], third["dialFailuresByReason"]) == ("failing", "timeout", {"timeout": 3})
    between = datetime.fromisoformat(third["nextTry"]) - datetime.fromisoformat(third["since"])
    # told to the second
    assert between.total_seconds() == 1.0


def test_a_problem_says_since_when() -> None:
    problem = Problem("web.yaml", "Service default/web", "spec.type", "is wrong", last_stays=True)
    (told,) = report.problems_report({problem: 1_700_000_000.9})
    assert told == {
        "origin": "web.yaml",
        "object": "Service default/web",
        "field": "spec.type",
        "message": "is wrong",
        "since": "2023-11-14T22:13:20Z",
        "lastStays": True,
    }
