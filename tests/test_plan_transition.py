"""A transition that stops after any step leaves no portal without a place to go."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.endpoint import EndpointSlice
from kpf.model.rules import Rules
from kpf.model.service import Service, ServicePort
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.ground import ProxyPorts, ground_for
from kpf.plan.intent import Planner
from kpf.plan.transition import (
    Announce,
    CloseFrontends,
    Forget,
    InForce,
    OpenFrontends,
    Step,
    UpdateFrontends,
    WriteRules,
    transition,
)
from tests.values import FACTS, TCP, endpoints, service, snapshot


@dataclass
class World:
    """What the steps act on, and what must hold of it at every moment. `rules`: what the kernel really has."""

    now: InForce = field(default_factory=InForce)
    rules: Rules = field(default_factory=Rules)
    forgotten: list[Forget] = field(default_factory=list)

    def perform(self, step: Step) -> None:
        match step:
            case OpenFrontends(frontends):
                assert not self.now.frontends.keys() & {one.listener for one in frontends}
                self.now.frontends.update({one.listener: one for one in frontends})
                self.now.unheard.update(one.listener for one in frontends)
            case Announce(listeners):
                self.now.unheard.difference_update(listeners)
            case UpdateFrontends(frontends):
                assert self.now.frontends.keys() >= {one.listener for one in frontends}
                self.now.frontends.update({one.listener: one for one in frontends})
            case WriteRules(old, new):
                assert old is None or old == self.now.rules
                self.now.rules = self.rules = new
            case Forget():
                self.now.flows = step.kept
                if step.early or step.flows:
                    self.forgotten.append(step)
            case CloseFrontends(listeners):
                for listener in listeners:
                    del self.now.frontends[listener]
                    self.now.unheard.discard(listener)
        self.check()

    def check(self) -> None:
        rules = self.rules
        by_port = {listener.at.port: listener for listener in self.now.frontends}
        for action in (*rules.portals.values(), *rules.node_ports.values()):
            if isinstance(action, int):
                assert action in by_port, "redirected to a port that does not listen"
                assert by_port[action] not in self.now.unheard, "redirected to a listener that nobody accepts on"
                assert self.now.frontends[by_port[action]].endpoints, "redirected to nobody"


PORTS = ProxyPorts(range(20000, 20040), 1000, lambda _: True)


def desire(wanted: dict[str, tuple[int, bool, int]], world: World) -> DesiredState:
    """`wanted`: by service name, how many endpoints, whether it has a node port, and its affinity."""
    objects: list[Service | EndpointSlice] = []
    for name, (count, with_node_port, affinity_s) in wanted.items():
        number = ord(name)
        port = ServicePort("", TCP, 80, node_port=30000 + number if with_node_port else 0)
        ip, timeout = f"10.96.0.{number}", affinity_s or None
        objects += [service(name, ports=(port,), cluster_ips=(ip,), affinity_timeout_s=timeout)]
        objects += [endpoints(f"10.0.{number}.{n}", of=name, name=f"{name}{n}") for n in range(1, count + 1)]
    intent = Planner().intent(snapshot(*objects), FACTS)
    return desired_state(intent, ground_for(intent.united, FACTS, PORTS, open_now=world.now.frontends))


states = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from([0, 10])), max_size=4
)


@given(st.lists(st.tuples(states, st.integers(0, 8), st.booleans()), max_size=6))
def test_every_prefix_of_every_transition_is_safe(
    history: list[tuple[dict[str, tuple[int, bool, int]], int, bool]],
) -> None:
    world = World()
    for wanted, stop_after, unknown_rules in history:
        desired = desire(wanted, world)
        if unknown_rules:
            world.now.rules = None
        for count, step in enumerate(transition(world.now, desired)):
            if count == stop_after:
                break
            world.perform(step)
    desired = desire(history[-1][0] if history else {}, world)
    for step in transition(world.now, desired):
        world.perform(step)
    assert world.now.frontends == desired.frontends
    assert world.now.rules == desired.rules
    assert list(transition(world.now, desired)) == []


def steps(world: World, wanted: dict[str, tuple[int, bool, int]]) -> list[str]:
    done = []
    for step in transition(world.now, desire(wanted, world)):
        world.perform(step)
        # or nothing but a note of what is
        if not isinstance(step, Forget) or step.early or step.flows:
            done.append(type(step).__name__)
    return done


def test_a_new_service_listens_before_it_is_redirected() -> None:
    assert steps(World(), {"a": (1, True, 0)}) == ["OpenFrontends", "Announce", "WriteRules", "Forget"]


def test_a_service_that_goes_is_closed_last() -> None:
    world = World()
    steps(world, {"a": (1, False, 0)})
    assert steps(world, {}) == ["WriteRules", "CloseFrontends"]


def test_changed_endpoints_touch_no_rule() -> None:
    world = World()
    steps(world, {"a": (1, False, 0)})
    assert steps(world, {"a": (2, False, 0)}) == ["UpdateFrontends"]


@pytest.mark.parametrize(
    ("before", "after", "order"), [(1, 0, ["WriteRules", "UpdateFrontends"]), (0, 1, ["UpdateFrontends", "WriteRules"])]
)
def test_the_last_endpoint_goes_after_the_refusal_and_the_first_comes_before(
    before: int, after: int, order: list[str]
) -> None:
    world = World()
    steps(world, {"a": (before, False, 0)})
    assert steps(world, {"a": (after, False, 0)}) == order


def test_only_portals_that_are_new_have_early_connections_to_forget() -> None:
    world = World()
    steps(world, {"a": (1, True, 0)})
    steps(world, {"a": (1, True, 0), "b": (1, True, 0)})
    assert [{str(one) for one in forgotten.early} for forgotten in world.forgotten] == [
        {"10.96.0.97:80/TCP", "node port 30097/TCP (IPv4)"},
        {"10.96.0.98:80/TCP", "node port 30098/TCP (IPv4)"},
    ]
