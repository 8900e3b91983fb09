"""The state that `kpf status` shows: made in turns, of what is open when its turn comes."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kpf.master import report
from kpf.master.addresses import shared_address
from kpf.master.report import services_report
from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import SocketAddress
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from tests.values import FACTS, TCP, UDP, endpoints, service, snapshot

COUNT = 20


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

    def report(self) -> list[dict[str, object]]:
        return asyncio.run(services_report(self.desired, self.slots.get, self.directory))


def test_an_entry_has_all_frontends_of_its_service_port() -> None:
    served = Served()
    entries = asyncio.run(services_report(served.desired, served.slots.get, served.directory))
    assert [entry["name"] for entry in entries] == [f"s{number:02}" for number in range(COUNT)]
    first = entries[0]
    assert first["clusterIPs"] == ["10.96.0.1", "fd00:96::1"]
    assert first["portals"] == ["10.96.0.1:80", "[fd00:96::1]:80"]
    assert first["endpoints"] == [
        {"address": address, "state": "healthy", "connectionsActive": 0, "connectionsTotal": 0, "dialFailures": 0}
        for address in ("10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080")
    ]


def test_a_portal_that_is_left_out_is_not_shown() -> None:
    own = (SocketAddress(ip_address("10.96.0.1"), 80),)
    served = Served(replace(FACTS, own_listeners=own))
    first, second, *_ = asyncio.run(services_report(served.desired, served.slots.get, served.directory))
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

    async def ask() -> list[dict[str, object]]:
        busy = asyncio.create_task(others())
        entries = await services_report(served.desired, served.slots.get, served.directory)
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

    async def ask() -> list[dict[str, object]]:
        closing = asyncio.create_task(close_all())
        entries = await services_report(served.desired, served.slots.get, served.directory)
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


def unwatched(*addresses: str) -> list[dict[str, object]]:
    return [{"address": one, "state": "not watched", **NOTHING_KNOWN, "dialFailures": None} for one in addresses]


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
        "sessionAffinity": "None",
        **NOTHING_KNOWN,
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
        {"address": address, "state": "healthy", "connectionsActive": 0, "connectionsTotal": 0, "dialFailures": 0}
        for address in ("10.0.0.1:8080", "10.0.0.2:8080")
    ]


def test_a_port_that_is_direct_from_elsewhere_is_shown_while_its_listener_is_not_open() -> None:
    served = Served(FACTS, LOCAL, endpoints(HERE, THERE))
    served.slots.clear()
    (entry,) = served.report()
    assert (entry["proxyPort"], entry["connectionsTotal"]) == (None, None)
    assert entry["endpoints"] == unwatched("10.0.0.1:8080")
