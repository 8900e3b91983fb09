"""What the kernel does by itself: forwards and their hairpins, what is off-node, source ranges, loopback."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import EndpointSet, Family, Forwarding, Protocol
from kpf.model.rules import Action, Direct, Forward, Masquerade, NodePort, Verdict
from kpf.model.service import Service, ServicePort, TrafficPolicy
from kpf.plan.allocation import allocate, allocation_of
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.plan.routes import FORWARDING
from tests.test_plan_desired import FULL, PORTS, node_port, plan, portal
from tests.values import FACTS, TCP, UDP, at, endpoints, service, snapshot

HERE, THERE = Endpoint(ip_address("10.0.0.1"), node_name="node-1"), Endpoint(ip_address("10.0.0.2"), node_name="node-2")
DIRECT = {**FULL, "annotations": ((FORWARDING, "direct"),)}
LOCAL = {**FULL, "external_policy": TrafficPolicy.LOCAL}
EXTERNAL = (portal("192.0.2.1:80"), portal("192.0.2.2:80"), node_port(30080))


def of_udp(*found: Endpoint, of: str = "web") -> EndpointSlice:
    return replace(endpoints(*found, of=of), ports=(EndpointPort("", UDP, 53),))


def dns(name: str = "web", ip: str = "10.96.0.1", **fields: object) -> Service:
    return service(name, cluster_ips=(ip,), ports=(ServicePort("", UDP, 53),), **fields)


class Planned:
    """One state after the other, each made of the one before."""

    def __init__(self) -> None:
        self._planner, self._state = Planner(), DesiredState()

    def __call__(self, *objects: Service | EndpointSlice, facts: NodeFacts = FACTS) -> DesiredState:
        plans, ownership = self._planner.plan(snapshot(*objects), facts)
        allocation = allocate(ownership, facts, PORTS, before=self._state.allocation)
        self._state = desired_state(plans, allocation, self._state)
        return self._state


def test_a_forward_has_the_endpoints_that_are_no_proxy_ports() -> None:
    planned, web = Planned(), (service(), endpoints("10.0.0.1"))
    (proxy,) = (listener.at for listener in planned(*web).frontends)
    db = service("db", cluster_ips=("10.96.0.2",), annotations=DIRECT["annotations"])
    proxy_port = Endpoint(proxy.address)
    state = planned(*web, db, endpoints(HERE, proxy_port, of="db", port=proxy.port))
    assert list(state.rules.forwards.values()) == [Forward((at(f"10.0.0.1:{proxy.port}"),))]
    assert [problem.field for problem in state.problems] == ["endpoints[1].addresses[0]"]
    state = planned(*web, db, endpoints(proxy_port, of="db", port=proxy.port))
    assert state.rules.portals[portal("10.96.0.2:80")] is Verdict.REFUSE
    assert (state.rules.forwards, state.rules.hairpins) == ({}, {})


def test_a_forward_may_have_portals_for_its_endpoints() -> None:
    """The kernel rewrites a destination once."""
    vip, pods = Endpoint(ip_address("192.0.2.1")), endpoints("192.0.2.1", "10.0.0.1", port=80)
    assert list(plan(service(**DIRECT), pods).rules.forwards.values()) == [
        Forward((at("10.0.0.1:80"), at("192.0.2.1:80")))
    ]
    state = plan(dns(external_ips=("192.0.2.1",), affinity_timeout_s=86400), of_udp(vip))
    assert list(state.rules.forwards.values()) == [Forward((at("192.0.2.1:53"),), 86400)]
    assert not state.problems


def far(*pods: Endpoint, **fields: object) -> tuple[set[Action], set[Action]]:
    """What becomes of connections to all external portals: from this node and its pods, and from elsewhere."""
    rules = plan(service(**{**LOCAL, **fields}), endpoints(*pods)).rules
    assert rules.off_node.keys() == set(EXTERNAL)
    near = [*rules.portals.items(), *rules.node_ports.items()]
    return {action for one, action in near if one in EXTERNAL}, set(rules.off_node.values())


def test_from_far_away_only_endpoints_of_this_node_are_reached() -> None:
    (near,), (from_off_node,) = far(HERE, THERE)
    assert isinstance(near, int)
    assert isinstance(from_off_node, Direct)
    assert (from_off_node.frontend.endpoint_set, from_off_node.frontend.forwarding) == (
        EndpointSet.LOCAL,
        Forwarding.DIRECT,
    )


def test_from_far_away_it_is_dropped_where_only_other_nodes_have_endpoints() -> None:
    (near,), from_off_node = far(THERE)
    assert isinstance(near, int)
    assert from_off_node == {Verdict.DROP}


def test_from_anywhere_it_is_refused_where_nobody_has_endpoints() -> None:
    assert far() == ({Verdict.REFUSE}, {Verdict.REFUSE})


def test_a_service_that_asks_for_it_is_proxied_from_far_away_too() -> None:
    (near,), (from_off_node,) = far(HERE, THERE, annotations=((FORWARDING, "proxied"),))
    assert isinstance(near, int)
    assert isinstance(from_off_node, int)
    assert near != from_off_node


def test_the_masquerade_is_the_portals_own() -> None:
    rules = plan(service(**DIRECT), endpoints(HERE)).rules
    found = {one: action.masquerade for one, action in rules.portals.items() if isinstance(action, Direct)}
    assert found == {portal("10.96.0.1:80"): Masquerade.FOREIGN, **dict.fromkeys(EXTERNAL[:2], Masquerade.ALWAYS)}
    assert len(rules.forwards) == 1


def test_a_node_port_that_the_kernel_forwards_is_proxied_at_loopback() -> None:
    state = plan(service(**DIRECT), endpoints(HERE))
    (listener,) = state.frontends
    assert state.rules.loopback == {node_port(30080): listener.at.port}
    assert isinstance(state.rules.node_ports[node_port(30080)], Direct)
    assert state.rules.listening == {listener.at}


def test_loopback_leads_nowhere_without_endpoints_or_a_proxy_port() -> None:
    assert not plan(service(**DIRECT)).rules.loopback
    plans, ownership = Planner().plan(snapshot(service(**DIRECT), endpoints(HERE)), FACTS)
    state = desired_state(plans, allocation_of(ownership, {}, FACTS))
    assert not state.rules.loopback
    assert isinstance(state.rules.node_ports[node_port(30080)], Direct)
    assert ["no proxy port" in problem.message for problem in state.problems] == [True]


@pytest.mark.parametrize("protocol", [UDP, Protocol.SCTP])
def test_what_is_not_tcp_has_no_proxy_port_at_all(protocol: Protocol) -> None:
    ports = (ServicePort("", protocol, 80, node_port=30080),)
    pods = replace(endpoints(HERE), ports=(EndpointPort("", protocol, 80),))
    state = plan(service(**{**FULL, "ports": ports}), pods, facts=replace(FACTS, has_sctp=True))
    assert (state.frontends, state.rules.loopback, len(state.rules.forwards)) == ({}, {}, 1)


RANGES = tuple(map(ip_network, ("203.0.113.0/24", "fd00:5::/64")))
GUARDED = {**FULL, "load_balancer_source_ranges": RANGES, "load_balancer_ips": ("192.0.2.2", "2001:db8::2")}
BOTH = {"cluster_ips": ("10.96.0.1", "fd00:96::1")}


def test_guards_are_of_the_load_balancers_addresses_alone() -> None:
    rules = plan(service(**{**GUARDED, **BOTH}), endpoints(HERE)).rules
    assert rules.source_ranges == {portal("192.0.2.2:80"): RANGES[:1], portal("[2001:db8::2]:80"): RANGES[1:]}


def test_a_node_that_may_come_may_come_from_the_portals_own_address() -> None:
    planned, web = Planned(), service(**{**GUARDED, **BOTH})
    assert planned(web, endpoints(HERE)).rules.source_ranges[portal("192.0.2.2:80")] == RANGES[:1]
    for address, own in (("203.0.113.9", ["192.0.2.2/32"]), ("198.51.100.1", [])):
        facts = replace(FACTS, local_addresses=FACTS.local_addresses | {ip_address(address)})
        ranges = planned(web, endpoints(HERE), facts=facts).rules.source_ranges
        assert ranges[portal("192.0.2.2:80")] == (*RANGES[:1], *map(ip_network, own))
        assert ranges[portal("[2001:db8::2]:80")] == RANGES[1:]


def test_hairpins_count_the_forwards_that_have_an_endpoint_of_this_node() -> None:
    planned, nowhere = Planned(), replace(THERE, node_name="")
    one, other = (dns(), of_udp(HERE, THERE)), (dns("b", "10.96.0.2"), of_udp(HERE, of="b"))
    assert planned(*one).rules.hairpins == {HERE.address: 1}
    assert planned(*one, *other).rules.hairpins == {HERE.address: 2}
    assert planned(one[0], of_udp(HERE, nowhere), *other).rules.hairpins == {HERE.address: 2, THERE.address: 1}
    assert planned(one[0], of_udp(THERE), *other).rules.hairpins == {HERE.address: 1}
    assert planned(*one).rules.hairpins == {HERE.address: 1}
    assert planned(one[0]).rules.hairpins == {}


def test_a_pod_of_a_service_with_two_sets_is_counted_twice() -> None:
    assert plan(service(**LOCAL), endpoints(HERE, THERE)).rules.hairpins == {HERE.address: 1}
    assert plan(service(**{**DIRECT, **LOCAL}), endpoints(HERE, THERE)).rules.hairpins == {HERE.address: 2}


def test_what_is_proxied_has_no_hairpins() -> None:
    assert plan(service(**FULL), endpoints(HERE)).rules.hairpins == {}


def test_where_kpf_listens_for_tcp_a_pod_of_udp_is_reached_and_a_portal_of_udp_is_captured() -> None:
    planned, web = Planned(), (service(), endpoints("10.0.0.1"))
    (proxy,) = (listener.at for listener in planned(*web).frontends)
    facts = replace(FACTS, own_listeners=(at("0.0.0.0:10256"),))
    ports = (ServicePort("", UDP, proxy.port, node_port=10256),)
    game = service("game", cluster_ips=("10.96.0.2",), external_ips=(str(proxy.address),), ports=ports)
    pods = endpoints(str(proxy.address), of="game")
    pods = replace(pods, ports=(EndpointPort("", UDP, proxy.port),))
    state = planned(*web, game, pods, facts=facts)
    assert [one.endpoints for one in state.rules.forwards.values()] == [(proxy,)]
    assert isinstance(state.rules.node_ports[NodePort(Family.IPV4, UDP, 10256)], Direct)
    assert not state.problems


def test_an_address_and_port_is_a_portal_as_long_as_one_protocol_has_it() -> None:
    """Else it might be dialled, by a Service of its own, for ever."""
    both = (ServicePort("t", TCP, 53), ServicePort("u", UDP, 53))
    planned, web = Planned(), (service(cluster_ips=("10.96.0.9",)), endpoints("10.96.0.1", port=53))
    for ports, refused in ((both, True), (both[1:], True), (both[:1], True), ((ServicePort("t", TCP, 54),), False)):
        state = planned(*web, service("dns", ports=ports))
        assert ["itself a portal" in problem.message for problem in state.problems] == [True] * refused


def test_a_health_check_port_is_nobody_elses_external_address() -> None:
    checked = service("checked", **LOCAL, health_check_node_port=32100)
    port = ServicePort("", TCP, 32100)
    thief = service("thief", cluster_ips=("10.96.0.9",), external_ips=("192.168.1.10",), ports=(port,))
    state = plan(checked, thief, endpoints(HERE, of="checked"), endpoints(THERE, of="thief"))
    assert portal("192.168.1.10:32100") not in state.rules.portals
    assert portal("10.96.0.9:32100") in state.rules.portals
    assert [(problem.object, problem.field) for problem in state.problems] == [
        ("Service default/thief", "spec.externalIPs")
    ]
    assert list(state.health_checks) == [32100]
