"""What a plan takes from the one before is what it would have found by itself, whatever has changed in between."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from operator import attrgetter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, Forwarding, IPNetwork, ObjectName, Protocol
from kpf.model.rules import Forward, NodePort, Portal
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Snapshot
from kpf.plan.allocation import Allocation, ProxyPorts, allocate, allocation_of, why_left_out
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.differences import differences, replaced
from kpf.plan.ownership import Ownership, assign_portals
from kpf.plan.planner import Planner
from kpf.plan.routes import FORWARDING, PortalClaim
from kpf.plan.transition import InForce, OpenFrontends, UpdateFrontends, transition
from tests.values import FACTS, TCP, UDP, WORKERS, at, endpoints, service, snapshot

# few, so that they run out, and are asked for as node ports and endpoints
PORTS = ProxyPorts(range(20000, 20005), 5, lambda _: True)

# as addresses of a node that a load balancer's source ranges have
Claimants = Mapping[Portal | NodePort, tuple[PortalClaim, ...]]
RANGED = ip_interface("203.0.113.1/24")
NODES = (
    FACTS,
    replace(FACTS, proxy_addresses={Family.IPV4: ip_address("192.168.1.10")}),
    replace(FACTS, proxy_addresses={Family.IPV4: ip_address("127.0.0.1")}, external_ips_allowed=False),
    replace(FACTS, wildcard=frozenset(Family), name="node-2"),
    replace(FACTS, own_listeners=(at("0.0.0.0:20001"), at("10.96.0.2:80"))),
    replace(FACTS, forwarding=Forwarding.DIRECT, zone="b", local_addresses=FACTS.local_addresses | {RANGED.ip}),
    replace(FACTS, forwarding=Forwarding.PROXIED, zone="a", masquerade_all=True),
    replace(FACTS, worker_uid=WORKERS),
    replace(FACTS, pod_networks=(ip_network("192.0.2.0/31"),)),
)
CLUSTER_IPS = (("10.96.0.1",), ("10.96.0.2",), ("192.168.1.10",), ("10.96.0.1", "fd00:96::1"))
# pods, a portal, the node itself, and what is never dialled; with ports that are portals, proxy ports and node ports
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.96.0.1", "192.168.1.10", "127.0.0.1")
NUMBERS = (80, 20000, 20001, 20002)


class Wanted(NamedTuple):
    """A Service and its slice."""

    created: str
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    balanced: tuple[str, ...]
    protocol: Protocol
    port: int
    node_port: int
    health_port: int
    policies: tuple[TrafficPolicy, TrafficPolicy]
    forwarding: str | None
    affinity_s: int | None
    ranges: tuple[IPNetwork, ...]
    addresses: frozenset[str]
    leaving: frozenset[str]
    number: int
    has_hints: bool


wanted = st.builds(
    Wanted,
    created=st.sampled_from(["", "2026-01-01T00:00:00Z"]),
    cluster_ips=st.sampled_from(CLUSTER_IPS),
    external_ips=st.sampled_from([(), ("192.0.2.1",), ("192.168.1.10", "10.96.0.2")]),
    balanced=st.sampled_from([(), ("192.0.2.2",), ("192.0.2.1", "2001:db8::1")]),
    protocol=st.sampled_from([TCP, TCP, UDP]),
    port=st.sampled_from(NUMBERS),
    node_port=st.sampled_from((0, *NUMBERS)),
    health_port=st.sampled_from((0, 80, 30900)),
    policies=st.tuples(st.sampled_from(TrafficPolicy), st.sampled_from(TrafficPolicy)),
    forwarding=st.sampled_from([None, "direct", "proxied", "nonsense"]),
    affinity_s=st.sampled_from([None, 10]),
    ranges=st.sampled_from([(), (RANGED.network,), (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))]),
    addresses=st.frozensets(st.sampled_from(ADDRESSES)),
    leaving=st.frozensets(st.sampled_from(ADDRESSES)),
    number=st.sampled_from(NUMBERS),
    has_hints=st.booleans(),
)


@dataclass(frozen=True)
class Change:
    """What comes after the last state: Services (None: it goes), the node, and how it is brought into force.

    `is_told`: the snapshot says what has changed. `steps`: how many are taken. `left_out`: how many frontends fail.
    """

    services: Mapping[str, Wanted | None]
    facts: int
    is_told: bool
    steps: int
    left_out: int


changes = st.builds(
    Change,
    st.dictionaries(st.sampled_from("abcd"), st.none() | wanted, max_size=3),
    # mostly the same node as before
    st.integers(0, 4 * len(NODES)).map(lambda number: number if number < len(NODES) else 0),
    st.booleans(),
    st.integers(0, 8).map(lambda count: count if count < 4 else 8),
    st.integers(0, 8).map(lambda count: count if count < 3 else 0),
)


def objects(name: str, want: Wanted) -> tuple[Service, EndpointSlice]:
    internal, external = want.policies
    made = service(
        name,
        type=ServiceType.LOAD_BALANCER,
        created=want.created,
        cluster_ips=want.cluster_ips,
        external_ips=want.external_ips,
        load_balancer_ips=want.balanced,
        load_balancer_source_ranges=want.ranges,
        ports=(ServicePort("", want.protocol, want.port, node_port=want.node_port),),
        internal_policy=internal,
        external_policy=external,
        affinity_timeout_s=want.affinity_s,
        health_check_node_port=want.health_port,
        annotations=() if want.forwarding is None else ((FORWARDING, want.forwarding),),
    )
    pods = [
        Endpoint(
            ip_address(one),
            ready=one not in want.leaving,
            terminating=one in want.leaving,
            # one of them may be anywhere
            node_name=f"node-{number}" if number < 5 else "",
            for_zones=("ab"[number % 2],) if want.has_hints else (),
        )
        for number, one in enumerate(ADDRESSES, 1)
        if one in want.addresses
    ]
    piece = endpoints(*pods, of=name)
    return made, replace(piece, ports=(EndpointPort("", want.protocol, want.number),))


class History:
    """A planner that goes from one state to the next, and what is open meanwhile."""

    def __init__(self) -> None:
        self.planner, self.state, self.now = Planner(), DesiredState(), InForce()
        self.objects: dict[str, tuple[Service, EndpointSlice]] = {}
        self.serial = 0

    def read(self, change: Change) -> Snapshot:
        for name, want in change.services.items():
            self.objects.pop(name, None)
            if want is not None:
                self.objects[name] = objects(name, want)
        made = snapshot(*(one for pair in self.objects.values() for one in pair))
        if not change.is_told:
            return made
        self.serial += 1
        touched = frozenset(ObjectName("default", name) for name in change.services)
        return replace(made, serial=self.serial, previous=self.serial - 1, touched=touched)

    def follow(self, change: Change) -> None:
        snapshot, facts = self.read(change), NODES[change.facts]
        had = self.state.allocation.ownership.claimants
        plans, ownership = self.planner.plan(snapshot, facts)
        left_out = dict.fromkeys(list(ownership.proxied)[: change.left_out], "told to fail")
        still_open = frozenset(self.now.frontends)

        def lay(before: Allocation | None) -> Allocation:
            return allocate(
                ownership,
                facts,
                PORTS,
                before=before,
                open_now=self.now.frontends,
                still_open=still_open,
                left_out=left_out,
            )

        allocation = lay(self.state.allocation)
        assert_same(allocation, lay(None))
        self.state = desired_state(plans, allocation, self.state)

        plans, ownership = Planner().plan(snapshot, facts)
        alone = anew(ownership, had)
        assigned = {key: listener.at.port for key, listener in allocation.listeners.items()}
        reasons = why_left_out(alone, len(assigned), PORTS.limit) | left_out
        fresh = allocation_of(alone, assigned, facts, left_out=reasons, still_open=still_open)
        assert_same(allocation, fresh)
        expected = desired_state(plans, fresh)
        assert self.state.frontends == expected.frontends
        assert self.state.rules == expected.rules
        assert self.state.captured == expected.captured
        assert self.state.flows_kept == expected.flows_kept
        assert self.state.health_checks == expected.health_checks
        for key, flows in self.state.flows_kept.items():
            # else whoever has just been sent there would be sent elsewhere
            assert flows.endpoints.issuperset(self.state.rules.forwards.get(key, Forward(())).endpoints)
        assert sorted(self.state.problems) == sorted(expected.problems)
        self.perform(change.steps)

    def perform(self, steps: int) -> None:
        for _, step in zip(range(steps), transition(self.now, None, self.state), strict=False):
            if isinstance(step, OpenFrontends | UpdateFrontends):
                self.now.frontends.update({one.listener: one for one in step.frontends})
        if steps == 8:
            self.now.frontends = dict(self.state.frontends)


def anew(ownership: Ownership, had: Claimants) -> Ownership:
    """The ownership made of nothing but who has had what."""
    claims = ownership.claims
    asked = {claim.portal for one in claims.values() for claim in one.portals}
    known = {portal: claimants[:1] for portal, claimants in had.items() if portal in asked}
    gone = dict.fromkeys(one.service_name for (one,) in known.values())
    made = assign_portals(Ownership(claimants=known), {**gone, **claims})
    for portal, (first, *others) in made.claimants.items():
        # a ClusterIP first, then who has had it as one of the same kind, then the oldest
        rivals = [one for one in others if one.is_cluster_ip == first.is_cluster_ip]
        assert first.is_cluster_ip or not any(one.is_cluster_ip for one in others)
        kept = [one for one in (first, *rivals) if portal in known and same_claim(one, known[portal][0])]
        assert kept[:1] in ([], [first])
        assert kept or all(claims[first.service_name].age <= claims[one.service_name].age for one in rivals)
    return made


def same_claim(one: PortalClaim, other: PortalClaim) -> bool:
    return (one.service_name, one.is_cluster_ip) == (other.service_name, other.is_cluster_ip)


def assert_same(allocation: Allocation, other: Allocation) -> None:
    assert allocation.listeners == other.listeners
    assert allocation.protected == other.protected
    assert allocation.captured == other.captured
    assert allocation.listening == other.listening
    assert (allocation.forbidden, allocation.portals_at) == (other.forbidden, other.portals_at)
    assert {one: allocation.why_forbidden(one) for one in allocation.forbidden} == {
        one: other.why_forbidden(one) for one in other.forbidden
    }
    assert allocation.cluster_ips == other.cluster_ips
    assert sorted(allocation.problems) == sorted(other.problems)


@settings(max_examples=300)
@given(st.lists(changes, max_size=6))
def test_a_plan_that_follows_another_is_the_plan_made_alone(history: list[Change]) -> None:
    one = History()
    for change in history:
        one.follow(change)


def test_only_what_has_changed_is_another_object() -> None:
    planner = Planner()
    web, shop = service(), service("shop", cluster_ips=("10.96.0.2",))
    pods = endpoints("10.0.0.1")

    def plan(*others: Service | EndpointSlice, before: DesiredState | None = None) -> DesiredState:
        plans, ownership = planner.plan(snapshot(web, pods, *others), FACTS)
        known, allocation = (before.frontends, before.allocation) if before else ({}, None)
        allocation = allocate(ownership, FACTS, PORTS, before=allocation, open_now=known, still_open=frozenset(known))
        return desired_state(plans, allocation, before)

    first = plan(shop, endpoints("10.0.0.2", of="shop"))
    assert plan(shop, endpoints("10.0.0.2", of="shop"), before=first).rules == first.rules
    second = plan(shop, endpoints("10.0.0.3", of="shop"), before=first)
    assert second.allocation is first.allocation
    assert second.rules.portals is first.rules.portals
    (changed,), gone = differences(second.frontends, first.frontends, attrgetter("listener"))
    assert not gone
    assert second.frontends[changed].endpoints == (at("10.0.0.3:8080"),)
    third = plan(shop, endpoints(of="shop"), before=second)
    assert third.allocation is first.allocation
    assert [str(portal) for portal in changed_actions(third, second)] == ["10.96.0.2:80/TCP"]
    fourth = plan(before=third)
    assert differences(fourth.frontends, third.frontends, attrgetter("listener")) == ([], {changed})


def changed_actions(new: DesiredState, old: DesiredState) -> list[object]:
    return [portal for portal, action in new.rules.portals.items() if old.rules.portals[portal] != action]


class Value(NamedTuple):
    key: int


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_differences_are_found_in_any_order(keys: list[int], then: list[tuple[int, bool]]) -> None:
    old = {key: Value(key) for key in keys}
    new = {key: old[key] if stays and key in old else Value(key) for key, stays in then}
    changed, gone = differences(new, old, attrgetter("key"))
    assert changed == [key for key, value in new.items() if old.get(key) is not value]
    assert gone == old.keys() - new.keys()


def test_what_replaces_nothing_makes_nothing_new() -> None:
    old = {"a": 1, "b": 2}
    assert replaced(old, {"a": 1}, {"a", "c"}) is old
    assert replaced(old, {"c": 3}, {"a", "c"}) == {"b": 2, "c": 3}
    assert list(replaced(old, {"a": 3}, {"a"}).items()) == [("a", 3), ("b", 2)]


@pytest.mark.parametrize(
    ("thief", "why"),
    [
        (service("thief", cluster_ips=("10.0.0.9",), ports=(ServicePort("", TCP, 8080),)), "itself a portal"),
        (service("thief", cluster_ips=("10.96.0.2",), ports=(ServicePort("", TCP, 80, 8080),)), "itself a node port"),
    ],
    ids=["portal", "node port"],
)
def test_an_endpoint_that_another_service_captures_is_refused_until_that_has_gone(thief: Service, why: str) -> None:
    planner, state = Planner(), DesiredState()
    mine = (service(), endpoints("10.0.0.9", "192.168.1.10"))
    for others, refused in (((), 0), ((thief,), 1), ((), 0)):
        plans, ownership = planner.plan(snapshot(*mine, *others), FACTS)
        state = desired_state(plans, allocate(ownership, FACTS, PORTS, before=state.allocation), state)
        assert [why in problem.message for problem in state.problems] == [True] * refused
        assert sum(len(one.endpoints) for one in state.frontends.values()) == 2 - refused
