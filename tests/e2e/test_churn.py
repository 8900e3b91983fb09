"""Endpoints that come and go fifty times a second, and a reload each second: what stays does not notice."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from kpf.lab.clients import Address, failures, names, steady
from kpf.lab.daemon import Daemon
from kpf.lab.flows import Flow, Flows, UnderFlows
from kpf.lab.load import Load, Report, UnderLoad
from tests.e2e.world import World, eventually

pytestmark = pytest.mark.usefixtures("forwarding")

DNS: Address = ("10.96.0.53", 53)
SHOPS: Mapping[str, Address] = {"proxied": ("10.96.0.80", 80), "direct": ("10.96.0.81", 80)}
STAYING, PASSING = range(1, 5), range(5, 9)
CHANGES_PER_S = 50
FLOWS = range(5000, 5100)
# half of them to endpoints that stay
DATAGRAMS_PER_S = 2200
STEADY_DATAGRAMS_PER_S = 1000
CONNECTIONS_PER_S = 100


@dataclass(frozen=True)
class Churned:
    """What the clients had."""

    flows: Mapping[int, Flow]
    connections: Mapping[str, Report]
    changes: int
    reloads: int
    took_s: float


def _serve(world: World, name: str, pods: list[str]) -> None:
    if name == "dns":
        world.serve(name, DNS[0], pods, ports=[{"port": DNS[1], "protocol": "UDP"}])
    else:
        world.serve(name, SHOPS[name][0], pods, annotations={"kpf.io/forwarding": name})


def _churn(world: World, daemon: Daemon, pods: list[str], duration_s: float) -> Churned:
    """One endpoint goes or comes at a time, of each Service in turn."""
    with ExitStack() as loads:
        flows = loads.enter_context(UnderFlows(world.lab.outside, Flows(DNS, FLOWS, DATAGRAMS_PER_S)))
        connections = {
            name: loads.enter_context(UnderLoad(world.lab.outside, Load(target, CONNECTIONS_PER_S, 5, 20)))
            for name, target in SHOPS.items()
        }
        eventually(lambda: all(flow.server for flow in flows.report().values()))
        began_s = time.monotonic()
        changes = reloads = 0
        for name, present in _changes(pods, int(duration_s * CHANGES_PER_S)):
            _serve(world, name, present)
            changes += 1
            if changes % CHANGES_PER_S == 0:
                daemon.signal(signal.SIGHUP)
                reloads += 1
            time.sleep(max(began_s + changes / CHANGES_PER_S - time.monotonic(), 0.0))
        took_s = time.monotonic() - began_s
        return Churned(
            flows.stop(), {name: load.stop() for name, load in connections.items()}, changes, reloads, took_s
        )


def _changes(pods: list[str], number: int) -> Iterator[tuple[str, list[str]]]:
    services = ("dns", *SHOPS)
    staying = pods[: len(STAYING)]
    present = {name: set(pods) for name in services}
    for step in range(number):
        name = services[step % len(services)]
        present[name] ^= {pods[len(STAYING) + step // len(services) % len(PASSING)]}
        yield name, [*staying, *sorted(present[name] - set(staying))]


@pytest.mark.parametrize("duration_s", [5.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_what_stays_does_not_notice_that_endpoints_come_and_go(
    world: World, figure: Callable[[str], None], duration_s: float
) -> None:
    pods = world.pods([*STAYING, *PASSING])
    world.pods([*STAYING, *PASSING], mode="datagrams")
    for name in ("dns", *SHOPS):
        _serve(world, name, pods)
    with world.lasting as daemon:
        churned = _churn(world, daemon, pods, duration_s)
        restarts = sum(worker["restarts"] for worker in daemon.status()["workers"])
    stayed = {port: flow for port, flow in churned.flows.items() if flow.servers[0][1] in pods[: len(STAYING)]}
    sent, lost = sum(flow.sent for flow in stayed.values()), sum(flow.lost for flow in stayed.values())
    everything = [one for load in churned.connections.values() for one in (*load.new, *load.asked)]
    moves = sum(len(flow.servers) - 1 for flow in churned.flows.values())
    figure(
        f"{churned.changes} changes of endpoints and {churned.reloads} reloads in {churned.took_s:.0f} s: {lost} of "
        f"{sent} datagrams lost on {len(stayed)} flows whose endpoint stayed; {moves} moves of other flows, "
        f"{sum(flow.lost for flow in churned.flows.values()) - lost} datagrams lost there; "
        f"{len(failures(everything))} of {len(everything)} connections and requests failed"
    )
    assert churned.took_s < duration_s * 1.1
    assert {port: flow.servers for port, flow in stayed.items() if len(flow.servers) > 1} == {}
    assert {port: flow for port, flow in stayed.items() if flow.lost or flow.errors} == {}
    assert sent >= STEADY_DATAGRAMS_PER_S * churned.took_s
    assert [flow.dropped for flow in churned.flows.values()] == [0] * len(FLOWS)
    assert world.backends.dropped() == 0
    assert moves > 0
    assert names(failures(everything)) == {}
    for load in churned.connections.values():
        assert len(load.new) > CONNECTIONS_PER_S * duration_s * 0.9
    assert restarts == 0


def test_a_service_that_changes_between_proxied_and_direct_loses_no_connection(
    world: World, figure: Callable[[str], None]
) -> None:
    pods = world.pods([1, 2, 3])
    target, changes = SHOPS["proxied"], 40

    def serve(forwarding: str) -> None:
        world.serve("shop", target[0], pods, annotations={"kpf.io/forwarding": forwarding})

    serve("proxied")
    load_s = changes * 0.1 + 1.0
    with (
        world.lasting as daemon,
        world.lab.outside.begin(steady, target, 300, load_s, timeout_s=5.0) as load,
    ):
        for change in range(changes):
            forwarding = ("direct", "proxied")[change % 2]
            serve(forwarding)
            _wait_for(daemon, forwarding)
        outcomes = load.result()
    figure(f"{changes} changes between proxied and direct: {names(outcomes)}")
    assert failures(outcomes) == []
    assert set(names(outcomes)) == set(pods)


def _wait_for(daemon: Daemon, forwarding: str) -> None:
    eventually(lambda: daemon.service("shop")["forwarding"] == forwarding)
