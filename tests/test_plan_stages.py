"""One Service's way through the stages of a plan, as ARCHITECTURE.md tells it; and what the first one reads."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from kpf.model.endpoint import Endpoint
from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, Protocol, ServicePortName
from kpf.model.rules import NodePort, Portal
from kpf.model.service import ServicePort, ServiceType, TrafficPolicy
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.plan.service_plan import plan_service
from tests.values import TCP, WORKERS, at, endpoints, service, snapshot

ARCHITECTURE = Path(__file__).parent.parent / "ARCHITECTURE.md"
PROXY = ip_address("169.254.77.1")
PORTS = ProxyPorts(range(20000, 30000), 1000, lambda _: True)
WEB = FrontendKey(ServicePortName("default", "web", "", TCP), Family.IPV4, EndpointSet.CLUSTER, Forwarding.PROXIED)
PORTAL, NODE_PORT = Portal(ip_address("10.96.0.10"), TCP, 80), NodePort(Family.IPV4, TCP, 30080)
PODS = at("10.244.1.5:8080"), at("10.244.2.7:8080")


def test_one_services_way_through_the_stages() -> None:
    node_ports = (ServicePort("", TCP, 80, node_port=30080),)
    web = service(type=ServiceType.NODE_PORT, cluster_ips=(PORTAL.address,), ports=node_ports)
    facts = NodeFacts("node-1", {Family.IPV4: PROXY}, own_addresses=frozenset({PROXY}), worker_uid=WORKERS)

    plans, ownership = Planner().plan(snapshot(web, endpoints(*(str(pod.address) for pod in PODS))), facts)
    plan = plans[web.name]
    assert {key: one.endpoints for key, one in plan.frontends.items()} == {WEB: PODS}
    assert {claim.portal: claim.frontends for claim in plan.claims.portals} == {PORTAL: (WEB,), NODE_PORT: (WEB,)}

    owners = {portal: [claim.service_name for claim in those] for portal, those in ownership.claimants.items()}
    assert owners == {PORTAL: [web.name], NODE_PORT: [web.name]}
    assert list(ownership.proxied) == [WEB]

    allocation = allocate(ownership, facts, PORTS)
    (listener,) = allocation.listeners.values()
    assert allocation.listeners == {WEB: Listener(WEB, listener.at)}
    assert allocation.protected == {listener}
    assert allocation.forbidden == {listener.at}
    assert allocation.captured == {web.name: plan.claims.portals}

    desired = desired_state(plans, allocation)
    assert {one.at: frontend.endpoints for one, frontend in desired.frontends.items()} == {listener.at: PODS}
    assert desired.rules.portals == {PORTAL: listener.at.port}
    assert desired.rules.node_ports == {NODE_PORT: listener.at.port}
    assert desired.rules.cluster_ips == {PORTAL.address}
    assert not desired.problems

    _, _, told = ARCHITECTURE.read_text(encoding="utf-8").partition("\n## A plan, stage by stage\n")
    told, _, _ = told.partition("\n## ")
    for value in (PORTAL, NODE_PORT.port, *PODS, listener.at):
        assert str(value) in told


def test_a_services_plan_reads_nothing_of_the_node_that_plans_are_not_compared_by() -> None:
    read: set[str] = set()

    class Watched(NodeFacts):
        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    facts = Watched(
        "node-1",
        {Family.IPV4: PROXY, Family.IPV6: ip_address("fd00:77::1")},
        has_sctp=True,
        pod_networks=(ip_network("10.244.1.0/24"),),
    )
    assert facts.read_by_service_plans
    compared = read.copy()
    read.clear()
    made = service(
        type=ServiceType.LOAD_BALANCER,
        cluster_ips=("10.96.0.10", "fd00:96::10"),
        external_ips=("192.0.2.1",),
        load_balancer_ips=("192.0.2.2",),
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=30500,
        ports=(ServicePort("", TCP, 80, node_port=30080), ServicePort("sctp", Protocol.SCTP, 80)),
    )
    pods = endpoints(Endpoint(PODS[0].address, node_name="node-1"))
    assert plan_service(made, (pods,), facts).health_check
    assert read <= compared


def test_a_services_plan_is_made_anew_when_what_it_reads_of_the_node_changes() -> None:
    planner, facts = Planner(), NodeFacts("node-1", {Family.IPV4: PROXY})
    read = replace(snapshot(service(ports=(ServicePort("", Protocol.SCTP, 80),))), serial=1)
    (first,) = planner.plan(read, facts)[0].values()
    assert not first.claims.portals
    (second,) = planner.plan(read, replace(facts, local_addresses=frozenset({PROXY})))[0].values()
    assert second is first
    (third,) = planner.plan(read, replace(facts, has_sctp=True))[0].values()
    assert len(third.claims.portals) == 1
