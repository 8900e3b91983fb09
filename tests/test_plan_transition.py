"""A transition that stops after any step leaves no portal without a place to go."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, Protocol, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.planner import Planner
from kpf.plan.routes import FORWARDING
from kpf.plan.transition import FlowsKept, Forget, is_all_forgotten, transition
from tests.transition_world import RefusedError, World, allowed
from tests.values import FACTS, TCP, UDP, endpoints, service, snapshot

PORTS = ProxyPorts(range(20000, 20040), 1000, lambda _: True)


class Wanted(NamedTuple):
    """A Service. `number` of its address; `pods` on this node and `far` on another; `affinity_s` is 0 for none."""

    pods: int = 1
    far: int = 0
    protocol: Protocol = TCP
    number: int = 0
    node_port: int = 0
    forwarding: str = ""
    policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_s: int = 0
    port: int = 80


@dataclass
class Planned:
    """A world, and what was wanted of it last."""

    world: World = field(default_factory=World)
    planner: Planner = field(default_factory=Planner)
    desired: DesiredState = field(default_factory=DesiredState)


def desire(wanted: dict[str, Wanted], planned: Planned) -> DesiredState:
    """By the Service's name, of one letter."""
    objects: list[Service | EndpointSlice] = []
    for name, want in wanted.items():
        objects.append(
            service(
                name,
                type=ServiceType.NODE_PORT,
                ports=(ServicePort("", want.protocol, want.port, node_port=want.node_port),),
                cluster_ips=(f"10.96.0.{want.number or ord(name)}",),
                affinity_timeout_s=want.affinity_s or None,
                external_policy=want.policy,
                internal_policy=want.policy,
                annotations=((FORWARDING, want.forwarding),) if want.forwarding else (),
            )
        )
        for node, count in (("node-1", want.pods), ("node-2", want.far)):
            addresses = [ip_address(f"10.{node[-1]}.{ord(name)}.{number}") for number in range(1, count + 1)]
            pods = endpoints(*(Endpoint(one, node_name=node) for one in addresses), of=name, name=f"{name}-{node}")
            objects.append(replace(pods, ports=(EndpointPort("", want.protocol, 8080),)))
    plans, ownership = planned.planner.plan(snapshot(*objects), FACTS)
    allocation = allocate(
        ownership,
        FACTS,
        PORTS,
        before=planned.desired.allocation,
        open_now=planned.world.now.frontends,
        still_open=frozenset(planned.world.now.frontends),
    )
    planned.desired = desired_state(plans, allocation, planned.desired)
    return planned.desired


states = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(
        Wanted,
        pods=st.integers(0, 2),
        far=st.integers(0, 1),
        protocol=st.sampled_from([TCP, TCP, UDP]),
        # two of them may claim one portal
        number=st.integers(0, 2),
        node_port=st.sampled_from([0, 30000, 30001]),
        forwarding=st.sampled_from(["", "direct", "proxied"]),
        policy=st.sampled_from(TrafficPolicy),
        affinity_s=st.sampled_from([0, 10]),
    ),
    max_size=4,
)


class Sync(NamedTuple):
    """One that may come to nothing. `stop_after`, `touched_before`: so many steps; `forgets`: conntrack obeys."""

    wanted: dict[str, Wanted]
    stop_after: int | None = None
    touched_before: int | None = None
    unknown_rules: bool = False
    forgets: bool = True


def sync(planned: Planned, one: Sync) -> DesiredState:
    world, desired = planned.world, desire(one.wanted, planned)
    world.heed()
    if one.unknown_rules:
        world.table.doubt()
    with suppress(RefusedError):
        for count, step in enumerate(transition(world.now, world.table.rules, desired)):
            if count == one.touched_before:
                world.touch()
            if count == one.stop_after:
                break
            if one.forgets or not isinstance(step, Forget):
                world.perform(step)
    return desired


# how many steps there may be
counts = st.none() | st.integers(0, 8)
syncs = st.builds(
    Sync, states, stop_after=counts, touched_before=counts, unknown_rules=st.booleans(), forgets=st.booleans()
)


@given(st.lists(syncs, max_size=6))
def test_every_prefix_of_every_transition_is_safe(history: list[Sync]) -> None:
    planned = Planned()
    world = planned.world
    for one in history:
        desired = sync(planned, one)
        assert not (world.strays and is_all_forgotten(world.now, desired)), "nobody would come back for them"
    desired = sync(planned, Sync(history[-1].wanted if history else {}))
    assert world.now.frontends == desired.frontends
    assert world.table.rules == world.rules == desired.rules
    assert not world.strays, "clients go on with what they had before there was a portal"
    assert allowed(world.now.flows) == allowed(FlowsKept(desired.captured, desired.flows_kept))
    assert is_all_forgotten(world.now, desired)
    assert list(transition(world.now, world.table.rules, desired)) == []


def steps(planned: Planned, **wanted: Wanted) -> list[str]:
    done = []
    for step in transition(planned.world.now, planned.world.table.rules, desire(wanted, planned)):
        planned.world.perform(step)
        # or nothing but a note of what is
        if not isinstance(step, Forget) or step.unreplied or step.flows:
            done.append(type(step).__name__)
    return done


def test_a_new_service_listens_before_it_is_redirected() -> None:
    assert steps(Planned(), a=Wanted(node_port=30000)) == ["OpenFrontends", "Announce", "WriteRules", "Forget"]


def test_a_service_that_goes_is_closed_last() -> None:
    planned = Planned()
    steps(planned, a=Wanted())
    assert steps(planned) == ["WriteRules", "CloseFrontends"]


def test_changed_endpoints_touch_no_rule() -> None:
    planned = Planned()
    steps(planned, a=Wanted())
    assert steps(planned, a=Wanted(2)) == ["UpdateFrontends"]


@pytest.mark.parametrize(
    ("before", "after", "order"), [(1, 0, ["WriteRules", "UpdateFrontends"]), (0, 1, ["UpdateFrontends", "WriteRules"])]
)
def test_the_last_endpoint_goes_after_the_refusal_and_the_first_comes_before(
    before: int, after: int, order: list[str]
) -> None:
    planned = Planned()
    steps(planned, a=Wanted(before))
    assert steps(planned, a=Wanted(after)) == order


def test_only_portals_that_are_new_have_early_connections_to_forget() -> None:
    planned = Planned()
    steps(planned, a=Wanted(node_port=30000))
    steps(planned, a=Wanted(node_port=30000), b=Wanted(node_port=30001))
    assert [{str(one) for one in forgotten.unreplied} for forgotten in planned.world.forgotten] == [
        {"10.96.0.97:80/TCP", "node port 30000/TCP (IPv4)"},
        {"10.96.0.98:80/TCP", "node port 30001/TCP (IPv4)"},
    ]


def test_what_was_not_forgotten_is_forgotten_next_time_if_it_is_still_there() -> None:
    planned = Planned()
    wanted = {"a": Wanted(), "b": Wanted(), "c": Wanted(protocol=UDP)}
    assert not is_all_forgotten(planned.world.now, sync(planned, Sync(wanted, forgets=False)))
    del wanted["b"]
    assert not is_all_forgotten(planned.world.now, sync(planned, Sync(wanted, forgets=False)))
    assert is_all_forgotten(planned.world.now, sync(planned, Sync(wanted)))
    (forgotten,) = planned.world.forgotten
    assert forgotten.unreplied == {Portal(AT_A.address, TCP, 80)}
    assert forgotten.flows == {Portal(ip_address(f"10.96.0.{ord('c')}"), UDP, 80): of("c", 1)}
    assert steps(planned, **wanted) == []


def test_flows_that_come_into_doubt_while_others_are_forgotten_are_forgotten_again() -> None:
    planned = Planned()
    # the portal is written, and its flows are being forgotten, when somebody deletes the table
    before_forget = 1
    sync(planned, Sync({"a": DNS}, touched_before=before_forget))
    planned.world.heed()
    assert steps(planned, a=DNS) == ["WriteRules", "Forget"]


PROXIED, DIRECT = Wanted(node_port=30000), Wanted(node_port=30000, forwarding="direct")


def test_from_proxied_to_direct_the_listener_closes_last_and_back_it_opens_first() -> None:
    """The node port at 127.0.0.1 is proxied always, so there is none that changes."""
    planned = Planned()
    proxied, direct = PROXIED._replace(node_port=0), DIRECT._replace(node_port=0)
    steps(planned, a=proxied)
    assert steps(planned, a=direct) == ["WriteRules", "CloseFrontends"]
    assert steps(planned, a=proxied) == ["OpenFrontends", "Announce", "WriteRules"]
    steps(planned, a=PROXIED)
    assert steps(planned, a=DIRECT) == ["WriteRules"]
    assert steps(planned, a=PROXIED) == ["WriteRules"]


DNS = Wanted(2, protocol=UDP)
AT_A, AT_B = (Portal(ip_address(f"10.96.0.{ord(name)}"), UDP, 80) for name in "ab")
NODE_PORT = NodePort(Family.IPV4, UDP, 30000)


def of(name: str, *numbers: int) -> frozenset[SocketAddress]:
    """The endpoints of a Service on this node."""
    return frozenset(SocketAddress(ip_address(f"10.1.{ord(name)}.{number}"), 8080) for number in numbers)


@pytest.mark.parametrize(
    ("before", "after", "flows"),
    [
        ({}, {"a": DNS}, {AT_A: of("a", 1, 2)}),
        ({"a": DNS}, {"a": DNS._replace(pods=1)}, {AT_A: of("a", 1)}),
        ({"a": DNS}, {"a": DNS._replace(pods=0)}, {AT_A: frozenset()}),
        ({"a": DNS}, {}, {AT_A: frozenset()}),
        ({"a": DNS}, {"a": DNS, "b": DNS}, {AT_B: of("b", 1, 2)}),
        ({"a": DNS}, {"a": DNS, "b": Wanted()}, {}),
        ({"a": DNS}, {"a": DNS._replace(port=81)}, {AT_A: frozenset(), AT_A._replace(port=81): of("a", 1, 2)}),
        ({"a": DNS}, {"a": DNS._replace(protocol=TCP)}, {AT_A: frozenset()}),
        ({"a": DNS}, {"b": DNS._replace(number=ord("a"))}, {AT_A: of("b", 1, 2)}),
        (
            {"b": DNS._replace(node_port=30000)},
            {"a": DNS._replace(node_port=30000), "b": DNS},
            {AT_A: of("a", 1, 2), AT_B: of("b", 1, 2), NODE_PORT: of("a", 1, 2)},
        ),
        ({"a": DNS}, {"a": DNS._replace(affinity_s=10)}, {}),
    ],
    ids=[
        "service new",
        "endpoint gone",
        "all endpoints gone",
        "service gone",
        "another one",
        "another one of TCP",
        "port changed",
        "protocol changed",
        "portal of another service",
        "node port of another service",
        "affinity changed",
    ],
)
def test_flows_of_udp_are_left_to_the_endpoints_that_are_still_there(
    before: dict[str, Wanted], after: dict[str, Wanted], flows: dict[Portal | NodePort, frozenset[SocketAddress]]
) -> None:
    planned = Planned()
    steps(planned, **before)
    planned.world.forgotten.clear()
    steps(planned, **after)
    assert [one.flows for one in planned.world.forgotten if one.flows] == [flows] * bool(flows)


def test_flows_of_udp_are_of_this_node_alone_only_for_who_is_sent_there() -> None:
    """External policy Local: this node's processes are sent to endpoints on other nodes, too."""
    planned = Planned()
    steps(planned, a=Wanted(1, 1, UDP, policy=TrafficPolicy.LOCAL, node_port=30000))
    (forgotten,) = planned.world.forgotten
    elsewhere = SocketAddress(ip_address(f"10.2.{ord('a')}.1"), 8080)
    assert forgotten.flows == {AT_A: of("a", 1), NODE_PORT: of("a", 1) | {elsewhere}}
