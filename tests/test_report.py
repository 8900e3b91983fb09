"""The state that `kpf status` shows: made in turns, of what is open when its turn comes."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kpf.master import report
from kpf.master.addresses import shared_address
from kpf.master.report import services_report
from kpf.model.endpoint import EndpointSlice
from kpf.model.names import SocketAddress
from kpf.model.service import Service
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.ground import Listener, ProxyPorts, ground_for
from kpf.plan.intent import Planner
from kpf.plan.node import NodeFacts
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from tests.values import FACTS, endpoints, service, snapshot

COUNT = 20


class Served:
    """Services of three endpoints, one of them IPv6, and their places in shared memory."""

    def __init__(self, facts: NodeFacts = FACTS) -> None:
        self._facts = facts
        self.directory = Directory(Region.create(2))
        self.desired = self.plan()
        self.slots: dict[Listener, int] = {}
        for listener, frontend in self.desired.frontends.items():
            self.slots[listener] = self.directory.claim()
            members = [shared_address(one) for one in frontend.endpoints]
            self.directory.set_members(self.slots[listener], members, affinity_timeout_ms=0)

    def plan(self) -> DesiredState:
        objects: list[Service | EndpointSlice] = []
        for number in range(COUNT):
            name, ips = f"s{number:02}", (f"10.96.0.{number + 1}", f"fd00:96::{number + 1}")
            objects += [
                service(name, cluster_ips=ips),
                endpoints(f"10.0.{number}.1", f"10.0.{number}.2", of=name),
                endpoints(f"fd00::{number + 1}", of=name, name=f"{name}-6"),
            ]
        intent = Planner().intent(snapshot(*objects), self._facts)
        return desired_state(
            intent, ground_for(intent.united, self._facts, ProxyPorts(range(20000, 21000), 1000, lambda _: True))
        )


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
