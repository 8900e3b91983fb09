"""Who has a portal that several claim."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from kpf.model.health import HealthCheck
from kpf.model.names import Family
from kpf.model.rules import NodePort, Portal
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.planner import Planner
from tests.values import FACTS, TCP, endpoints, service, snapshot

PORTS = ProxyPorts(range(20000, 30000), 1000, lambda _: True)
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
PORTAL = Portal(ip_address("192.0.2.1"), TCP, 80)
NODE_PORT = NodePort(Family.IPV4, TCP, 30080)
CHECK_PORT = 32100

# ways to claim PORTAL (or NODE_PORT), of two kinds (or a third)
EXTERNAL: dict[str, Any] = {"external_ips": ("192.0.2.1",)}
BALANCED: dict[str, Any] = {"load_balancer_ips": ("192.0.2.1",)}
CLUSTER: dict[str, Any] = {"cluster_ips": ("192.0.2.1",)}
BY_PORT: dict[str, Any] = {"ports": (ServicePort("", TCP, 80, node_port=30080),)}


class Planned:
    """One state after the other."""

    def __init__(self) -> None:
        self._planner, self._state = Planner(), DesiredState()

    def __call__(self, *services: Service) -> DesiredState:
        pods = [endpoints("10.0.0.1", of=one.name.name) for one in services]
        plans, ownership = self._planner.plan(snapshot(*services, *pods), FACTS)
        allocation = allocate(ownership, FACTS, PORTS, before=self._state.allocation)
        self._state = desired_state(plans, allocation, self._state)
        return self._state

    def owner(self, *services: Service, of: Portal | NodePort = PORTAL) -> str:
        """Who has the portal in force: what it leads to, in the rules."""
        state = self(*services)
        action = state.rules.portals[of] if isinstance(of, Portal) else state.rules.node_ports[of]
        (name,) = [one.frontend.port.service for one in state.frontends if one.at.port == action]
        losers = {one.name.name for one in services} - {name}
        assert {problem.object for problem in state.problems} == {f"Service default/{loser}" for loser in losers}
        assert all(f"already claimed by Service default/{name}" in problem.message for problem in state.problems)
        return name


def claimed(name: str, created: str, claim: dict[str, Any], number: int = 1) -> Service:
    return service(name, **{"cluster_ips": (f"10.96.0.{number}",), "created": created, **claim})


@pytest.mark.parametrize(
    ("claims", "of"),
    [
        ((EXTERNAL, EXTERNAL), PORTAL),
        ((EXTERNAL, BALANCED), PORTAL),
        ((BALANCED, EXTERNAL), PORTAL),
        ((CLUSTER, CLUSTER), PORTAL),
        ((BY_PORT, BY_PORT), NODE_PORT),
    ],
    ids=["external IPs", "LB address", "external IP", "ClusterIPs", "node ports"],
)
@pytest.mark.parametrize("created", ["", OLD, NEW])
def test_who_has_it_keeps_it(
    created: str, claims: tuple[dict[str, Any], dict[str, Any]], of: Portal | NodePort
) -> None:
    """However old the other says that it is, and if its name sorts first."""
    planned, running = Planned(), claimed("z-running", NEW, claims[0], 1)
    other = claimed("a-other", created, claims[1], 2)
    assert planned.owner(running, of=of) == "z-running"
    assert planned.owner(running, other, of=of) == "z-running"
    # nor by a change of either
    assert planned.owner(replace(running, affinity_timeout_s=10), other, of=of) == "z-running"
    assert planned.owner(running, replace(other, affinity_timeout_s=10), of=of) == "z-running"
    assert planned.owner(other, of=of) == "a-other"
    assert planned.owner(running, other, of=of) == "a-other"


@pytest.mark.parametrize(
    ("ages", "first"),
    [((NEW, OLD), "b"), ((OLD, NEW), "a"), (("", OLD), "b"), ((OLD, ""), "a"), (("", ""), "a"), ((OLD, OLD), "a")],
)
def test_at_a_start_the_older_one_has_it(ages: tuple[str, str], first: str) -> None:
    """A known age before an unknown one; by name where that says nothing."""
    services = [
        claimed(name, created, EXTERNAL, number)
        for number, (name, created) in enumerate(zip("ab", ages, strict=True), 1)
    ]
    assert Planned().owner(*services) == first
    assert Planned().owner(*reversed(services)) == first


def test_when_the_owner_goes_the_next_one_has_it() -> None:
    planned = Planned()
    owner, *others = (
        claimed(name, created, EXTERNAL, number)
        for number, (name, created) in enumerate((("c", NEW), ("a", ""), ("b", NEW), ("d", OLD)), 1)
    )
    assert planned.owner(owner) == "c"
    assert planned.owner(owner, *others) == "c"
    assert planned.owner(*others) == "d"
    assert planned.owner(*others[:2]) == "b"
    assert planned.owner(others[0]) == "a"


@pytest.mark.parametrize("claim", [EXTERNAL, BALANCED])
def test_a_cluster_ip_beats_external_addresses(claim: dict[str, Any]) -> None:
    planned, external = Planned(), claimed("a", OLD, claim)
    cluster = claimed("b", NEW, CLUSTER)
    assert planned.owner(external) == "a"
    assert planned.owner(external, cluster) == "b"
    assert planned.owner(external) == "a"
    assert Planned().owner(external, cluster) == "b"


def test_a_claim_of_another_kind_is_a_new_one() -> None:
    for created, first in ((NEW, "a"), (OLD, "b")):
        planned, other = Planned(), claimed("a", "2026-01-15T00:00:00Z", EXTERNAL, 1)
        assert planned.owner(claimed("b", created, CLUSTER, 2), other) == "b"
        assert planned.owner(claimed("b", created, EXTERNAL, 2), other) == first


def checked(name: str, created: str, number: int) -> Service:
    """A Service that asks for the health check port."""
    return service(
        name,
        created=created,
        type=ServiceType.LOAD_BALANCER,
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=CHECK_PORT,
        cluster_ips=(f"10.96.0.{number}",),
        load_balancer_ips=(f"192.0.2.{number}",),
    )


def test_a_health_check_port_is_that_of_the_one_whose_age_is_known() -> None:
    (check,) = Planned()(checked("a", "", 1), checked("b", OLD, 2)).health_checks.values()
    assert isinstance(check, HealthCheck)
    assert check.service.name == "b"


def test_a_health_check_port_goes_to_the_next_one_or_to_a_node_port() -> None:
    planned, a, b = Planned(), checked("a", NEW, 1), checked("b", OLD, 2)
    node_port = service("c", cluster_ips=("10.96.0.3",), ports=(ServicePort("", TCP, 80, node_port=CHECK_PORT),))
    of_b = f"{CHECK_PORT} is already that of Service default/b"
    of_c = f"{CHECK_PORT} is also a node port of Service default/c"
    for services, owner, reasons in (
        ((a, b), [b.name], [of_b]),
        # its plan changes, its claims do not
        ((replace(a, affinity_timeout_s=10), b), [b.name], [of_b]),
        ((a,), [a.name], []),
        ((a, node_port), [], [of_c]),
        ((a,), [a.name], []),
        ((a, b), [b.name], [of_b]),
    ):
        state = planned(*services)
        assert [check.service for check in state.health_checks.values()] == owner
        assert [problem.message for problem in state.problems] == [
            f"{reason}: the health check is not served" for reason in reasons
        ]
