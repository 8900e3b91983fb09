"""All Services together: portals, their owners, refusals, and what is dialled."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import EndpointSet, Family, Protocol
from kpf.model.rules import NodePort, Portal, Verdict
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.plan.allocation import ProxyPorts, allocate, allocation_of
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.planner import Planner
from tests.values import FACTS, TCP, WORKERS, at, endpoints, service, snapshot

RANGE = range(20000, 30000)
PORTS = ProxyPorts(RANGE, 1000, lambda _: True)


def plan(*objects: Service | EndpointSlice, facts: object = FACTS) -> DesiredState:
    assert isinstance(facts, type(FACTS))
    plans, ownership = Planner().plan(snapshot(*objects), facts)
    return desired_state(plans, allocate(ownership, facts, PORTS))


def portal(text: str) -> Portal:
    address, port = at(text)
    return Portal(address, TCP, port)


def node_port(port: int, family: Family = Family.IPV4) -> NodePort:
    return NodePort(family, TCP, port)


FULL = {
    "type": ServiceType.LOAD_BALANCER,
    "ports": (ServicePort("", TCP, 80, node_port=30080),),
    "external_ips": ("192.0.2.1",),
    "load_balancer_ips": ("192.0.2.2",),
}


def test_all_portals_of_a_service_share_one_frontend() -> None:
    state = plan(service(**FULL), endpoints("10.0.0.1"))
    (listener,) = state.frontends
    port = listener.at.port
    assert port in RANGE
    assert listener.at.address == FACTS.proxy_addresses[Family.IPV4]
    assert state.rules.portals == dict.fromkeys(map(portal, ("10.96.0.1:80", "192.0.2.1:80", "192.0.2.2:80")), port)
    assert state.rules.node_ports == {node_port(30080): port}
    assert state.rules.cluster_ips == {ip_address("10.96.0.1")}
    assert state.rules.listening == {listener.at}
    assert not state.problems


def test_without_endpoints_every_portal_refuses_and_the_frontend_stays() -> None:
    state = plan(service(**FULL))
    assert set(state.rules.portals.values()) | set(state.rules.node_ports.values()) == {Verdict.REFUSE}
    assert len(state.frontends) == 1


def test_internal_policy_local_has_a_frontend_of_its_own() -> None:
    here = Endpoint(ip_address("10.0.0.1"), node_name="node-1")
    there = Endpoint(ip_address("10.0.0.2"), node_name="node-2")
    local = service(**FULL, internal_policy=TrafficPolicy.LOCAL)
    state = plan(local, endpoints(here, there))
    by_set = {listener.frontend.endpoint_set: frontend for listener, frontend in state.frontends.items()}
    assert by_set[EndpointSet.LOCAL].endpoints == (at("10.0.0.1:8080"),)
    assert by_set[EndpointSet.CLUSTER].endpoints == (at("10.0.0.1:8080"), at("10.0.0.2:8080"))
    assert state.rules.portals[portal("10.96.0.1:80")] == by_set[EndpointSet.LOCAL].listener.at.port
    assert state.rules.node_ports[node_port(30080)] == by_set[EndpointSet.CLUSTER].listener.at.port

    assert plan(local, endpoints(there)).rules.portals[portal("10.96.0.1:80")] is Verdict.DROP
    assert plan(local).rules.portals[portal("10.96.0.1:80")] is Verdict.REFUSE


def test_dual_stack_families_are_decided_on_their_own() -> None:
    state = plan(service(cluster_ips=("10.96.0.1", "fd00:96::1")), endpoints("10.0.0.1"))
    assert {listener.frontend.family for listener in state.frontends} == {Family.IPV4, Family.IPV6}
    assert state.rules.portals[portal("[fd00:96::1]:80")] is Verdict.REFUSE
    assert isinstance(state.rules.portals[portal("10.96.0.1:80")], int)


def test_a_family_that_the_node_lacks_is_left_out_without_a_word() -> None:
    facts = replace(FACTS, proxy_addresses={Family.IPV4: ip_address("192.168.1.10")})
    state = plan(service(cluster_ips=("10.96.0.1", "fd00:96::1")), endpoints("10.0.0.1"), facts=facts)
    assert set(state.rules.portals) == {portal("10.96.0.1:80")}
    assert not state.problems


@pytest.mark.parametrize(
    "fields",
    [{"type": ServiceType.EXTERNAL_NAME}, {"cluster_ips": ()}, {"foreign_proxy": True}],
    ids=["ExternalName", "headless", "foreign proxy"],
)
def test_services_of_others_do_not_count(fields: dict[str, object]) -> None:
    state = plan(service(**fields), endpoints("10.0.0.1"))
    assert not state.frontends
    assert not state.rules.portals
    assert not state.rules.cluster_ips


def test_the_older_service_has_a_portal_that_two_claim() -> None:
    old = service("z-old", created="2026-01-01T00:00:00Z", external_ips=("192.0.2.1",))
    new = service("a-new", created="2026-02-01T00:00:00Z", cluster_ips=("10.96.0.2",), external_ips=("192.0.2.1",))
    state = plan(new, old, endpoints("10.0.0.1", of="z-old"), endpoints("10.0.0.2", of="a-new"))
    owner = {listener.at.port: listener.frontend.port.service for listener in state.frontends}
    action = state.rules.portals[portal("192.0.2.1:80")]
    assert isinstance(action, int)
    assert owner[action] == "z-old"
    (problem,) = state.problems
    assert problem.origin == "a-new.yaml"
    assert (problem.object, problem.field) == ("Service default/a-new", "spec.externalIPs")
    assert "192.0.2.1:80/TCP" in problem.message
    assert "default/z-old" in problem.message


def test_two_node_ports_alike_are_reported_by_field() -> None:
    ports = (ServicePort("", TCP, 80, node_port=30080),)
    state = plan(service("a", ports=ports), service("b", ports=ports, cluster_ips=("10.96.0.2",)))
    (problem,) = state.problems
    assert (problem.object, problem.field) == ("Service default/b", "spec.ports[0].nodePort")


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("127.0.0.1:8080", "loopback"),
        ("169.254.169.254:80", "link-local"),
        ("10.96.0.1:80", "itself a portal"),
        ("192.168.1.10:30080", "itself a node port"),
    ],
)
def test_an_endpoint_that_leads_back_is_refused_and_the_others_serve(endpoint: str, why: str) -> None:
    address, port = at(endpoint)
    bad = endpoints(str(address), "10.0.0.5", port=port)
    state = plan(service(ports=(ServicePort("", TCP, 80, node_port=30080),)), bad)
    (frontend,) = state.frontends.values()
    assert frontend.endpoints == (at(f"10.0.0.5:{port}"),)
    (problem,) = state.problems
    assert problem.origin == "web.yaml"
    assert (problem.object, problem.field) == ("EndpointSlice default/web-1", "endpoints[0].addresses[0]")
    assert why in problem.message


@pytest.mark.parametrize("endpoint", ["192.0.2.1:80", "192.168.1.10:30080", "192.0.2.9:443"])
def test_an_endpoint_that_is_a_portal_is_dialled_where_the_workers_dials_are_known(endpoint: str) -> None:
    address, port = at(endpoint)
    other = service(
        "other", cluster_ips=("10.96.0.2",), external_ips=("192.0.2.9",), ports=(ServicePort("", TCP, 443),)
    )
    objects = (service(**FULL), other, endpoints(str(address), "10.0.0.5", port=port))
    state = plan(*objects, facts=replace(FACTS, worker_uid=WORKERS))
    (frontend,) = (one for one in state.frontends.values() if one.endpoints)
    assert set(frontend.endpoints) == {at(endpoint), at(f"10.0.0.5:{port}")}
    assert state.rules.worker_uid == WORKERS
    assert not state.problems


@pytest.mark.parametrize(
    ("endpoint", "may_loop"),
    [
        ("10.0.0.1:8080", False),
        ("192.0.2.9:80", True),
        ("192.0.2.9:81", False),
        ("192.168.1.11:30080", True),
        ("192.168.1.11:30081", False),
        ("192.168.1.10:30080", False),
        ("192.168.1.10:80", False),
    ],
    ids=["pod", "portal", "its other port", "node port", "UDP's", "node port here", "portal here"],
)
def test_what_may_be_a_portal_of_another_node_may_loop(endpoint: str, may_loop: bool) -> None:
    """For as long as it is one of this node, too: portals are the same everywhere."""
    planner, state, facts = Planner(), DesiredState(), replace(FACTS, worker_uid=WORKERS)
    address, port = at(endpoint)
    web = (service(), endpoints(str(address), port=port))
    ports = (ServicePort("a", TCP, 80, 30080), ServicePort("b", Protocol.UDP, 80, 30081))
    other = service("other", cluster_ips=("10.96.0.2",), external_ips=("192.0.2.9", "192.168.1.10"), ports=ports)
    for others, expected in (((), False), ((other,), may_loop), ((), False)):
        plans, ownership = planner.plan(snapshot(*web, *others), facts)
        state = desired_state(plans, allocate(ownership, facts, PORTS, before=state.allocation), state)
        (frontend,) = (one for one in state.frontends.values() if one.endpoints)
        assert frontend.may_loop is expected
    # and where the address is this node's own, nothing returns
    plans, ownership = planner.plan(snapshot(*web, other), facts)
    state = desired_state(plans, allocate(ownership, facts, PORTS, before=state.allocation), state)
    here = replace(facts, local_addresses=facts.local_addresses | {address})
    state = desired_state(plans, allocate(ownership, here, PORTS, before=state.allocation), state)
    assert not any(one.may_loop for one in state.frontends.values())


@pytest.mark.parametrize("worker_uid", [None, WORKERS])
def test_an_endpoint_that_is_a_proxy_port_is_refused(worker_uid: int | None) -> None:
    facts = replace(FACTS, worker_uid=worker_uid)
    (listener,) = plan(service(), endpoints("10.0.0.1")).frontends
    mine = endpoints("192.168.1.10", of="other", port=listener.at.port)
    state = plan(service(), endpoints("10.0.0.1"), service("other", cluster_ips=("10.96.0.2",)), mine, facts=facts)
    assert state.rules.portals[portal("10.96.0.2:80")] is Verdict.REFUSE
    assert ["proxy port" in problem.message for problem in state.problems] == [True]


def test_with_a_wildcard_every_local_address_is_protected() -> None:
    facts = replace(FACTS, wildcard=frozenset({Family.IPV4}))
    state = plan(service(), endpoints("10.0.0.1"), facts=facts)
    (listener,) = state.frontends
    assert str(listener.at.address) == "0.0.0.0"
    assert {str(one.address) for one in state.rules.listening} == {"127.0.0.1", "192.168.1.10"}


def test_a_portal_on_an_address_of_kpf_itself_is_refused() -> None:
    (listener,) = plan(service(), endpoints("10.0.0.1")).frontends
    ports = (ServicePort("", TCP, listener.at.port),)
    thief = service("thief", cluster_ips=("10.96.0.2",), external_ips=(str(listener.at.address),), ports=ports)
    state = plan(service(), thief, endpoints("10.0.0.1"))
    assert Portal(listener.at.address, TCP, listener.at.port) not in state.rules.portals
    assert ["kpf itself listens" in problem.message for problem in state.problems] == [True]


def test_a_portal_where_kpf_serves_its_health_is_refused() -> None:
    facts = replace(FACTS, own_listeners=(at("0.0.0.0:10256"),))
    ports = (ServicePort("", TCP, 10256, node_port=10256),)
    state = plan(service(ports=ports, external_ips=("192.168.1.10",)), endpoints("10.0.0.1"), facts=facts)
    assert set(state.rules.portals) == {portal("10.96.0.1:10256")}
    assert not state.rules.node_ports
    assert [problem.field for problem in state.problems] == ["spec.externalIPs", "spec.ports[0].nodePort"]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0"])
def test_a_portal_in_reserved_space_is_refused(address: str) -> None:
    state = plan(service(external_ips=(address,)), endpoints("10.0.0.1"))
    assert set(state.rules.portals) == {portal("10.96.0.1:80")}
    assert [problem.field for problem in state.problems] == ["spec.externalIPs"]


@pytest.mark.parametrize("claim", ["external_ips", "load_balancer_ips", "cluster_ips"])
def test_an_address_of_this_nodes_pods_is_nobodys_external_address(claim: str) -> None:
    """Other nodes dial it from outside. ClusterIPs are given by the API server."""
    facts = replace(FACTS, pod_networks=(ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")))
    addresses = ("10.244.1.7", "fd00:10:244:1::7")
    thief = service("thief", **{"cluster_ips": ("10.96.0.2", "fd00:96::2"), claim: addresses})
    claimed = {Portal(ip_address(one), TCP, 80) for one in addresses}
    assert claimed <= plan(thief).rules.portals.keys()
    state = plan(thief, facts=facts)
    assert claimed.isdisjoint(state.rules.portals) is (claim != "cluster_ips")
    refused = [problem for problem in state.problems if "is an address of this node's pods" in problem.message]
    assert len(refused) == (0 if claim == "cluster_ips" else 2)
    other = plan(thief, facts=replace(facts, pod_networks=(ip_network("10.244.2.0/24"),)))
    assert claimed <= other.rules.portals.keys()


def test_external_ips_can_be_switched_off() -> None:
    state = plan(service(**FULL), endpoints("10.0.0.1"), facts=replace(FACTS, external_ips_allowed=False))
    assert portal("192.0.2.1:80") not in state.rules.portals
    assert portal("192.0.2.2:80") in state.rules.portals


def test_sctp_is_left_out_and_said_where_the_kernel_does_not_know_it() -> None:
    ports = (ServicePort("sctp", Protocol.SCTP, 53), ServicePort("http", TCP, 80))
    objects = (service(ports=ports), endpoints("10.0.0.1", port_name="http"))
    state = plan(*objects)
    assert [(problem.field, problem.is_limit) for problem in state.problems] == [("spec.ports[0].protocol", True)]
    assert {one.protocol for one in state.rules.portals} == {TCP}
    assert {one.protocol for one in plan(*objects, facts=replace(FACTS, has_sctp=True)).rules.portals} == {
        TCP,
        Protocol.SCTP,
    }


def test_a_frontend_without_a_port_is_left_out_and_its_portals_refuse() -> None:
    plans, ownership = Planner().plan(snapshot(service(), endpoints("10.0.0.1")), FACTS)
    state = desired_state(plans, allocation_of(ownership, {}, FACTS))
    assert state.rules.portals == {portal("10.96.0.1:80"): Verdict.REFUSE}
    assert ["no proxy port" in problem.message for problem in state.problems] == [True]


def test_unchanged_services_are_not_planned_again() -> None:
    planner = Planner()
    web, slices = service(), endpoints("10.0.0.1")
    first, _ = planner.plan(snapshot(web, slices), FACTS)
    second, _ = planner.plan(snapshot(web, slices, service("other", cluster_ips=("10.96.0.2",))), FACTS)
    assert second[web.name] is first[web.name]
    third, _ = planner.plan(snapshot(web, endpoints("10.0.0.2")), FACTS)
    assert [one.endpoints for one in third[web.name].frontends.values()] == [(at("10.0.0.2:8080"),)]


def test_a_cluster_ip_that_is_the_nodes_own_address_leaves_its_other_ports_alone() -> None:
    state = plan(service(cluster_ips=("192.168.1.10",)), endpoints("10.0.0.1"))
    assert portal("192.168.1.10:80") in state.rules.portals
    assert state.rules.cluster_ips == frozenset()


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        (ProxyPorts(RANGE, 1, lambda _: True), "no descriptor is left for more than 1 frontends"),
        (ProxyPorts(RANGE[:1], 1000, lambda _: True), "no proxy port is left"),
    ],
    ids=["descriptors", "ports"],
)
def test_what_there_are_too_few_of_is_said(ports: ProxyPorts, reason: str) -> None:
    both = service(cluster_ips=("10.96.0.1",)), service("default/web-2", cluster_ips=("10.96.0.2",))
    plans, ownership = Planner().plan(snapshot(*both), FACTS)
    (problem,) = desired_state(plans, allocate(ownership, FACTS, ports)).problems
    assert reason in problem.message


def test_why_a_frontend_was_left_out_is_said() -> None:
    plans, ownership = Planner().plan(snapshot(service(), endpoints("10.0.0.1")), FACTS)
    (key,) = ownership.proxied
    state = desired_state(plans, allocation_of(ownership, {}, FACTS, left_out={key: "the moon is full"}))
    assert [problem.message for problem in state.problems] == [f"{key} cannot be served: the moon is full"]


def test_what_is_still_open_is_protected_and_not_dialled() -> None:
    (listener,) = plan(service(), endpoints("10.0.0.1")).frontends
    other = service("other", cluster_ips=("10.96.0.2",))
    plans, ownership = Planner().plan(
        snapshot(other, endpoints("192.168.1.10", of="other", port=listener.at.port)), FACTS
    )
    (key,) = ownership.proxied
    allocation = allocation_of(ownership, {key: RANGE[0]}, FACTS, still_open=frozenset({listener}))
    state = desired_state(plans, allocation)
    assert listener.at in state.rules.listening
    assert ["proxy port" in problem.message for problem in state.problems] == [True]


@pytest.mark.parametrize(("address", "kind"), [("127.0.0.1", "EndpointSlice"), ("10.96.0.1", "Service")])
def test_a_thousand_endpoints_that_are_refused_are_few_problems(address: str, kind: str) -> None:
    addresses = [str(ip_address(address) + number) for number in range(30)]
    claimed = [service(one.replace(".", "-"), cluster_ips=[one]) for one in addresses if kind == "Service"]
    state = plan(service(cluster_ips=["10.97.0.1"]), *claimed, endpoints(*addresses, port=80))
    assert len(state.problems) == 11
    ends = ("20 more are not dialled", "20 more endpoints are refused")
    assert sum(str(one).endswith(ends) for one in state.problems) == 1
