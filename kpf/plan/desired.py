"""What must hold: which frontends are open and whom they dial, and the rules that follow."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

from kpf.model.health import HealthCheck
from kpf.model.names import Forwarding, FrontendKey, IPAddress, ObjectName
from kpf.model.rules import NodePort, Portal, Rules
from kpf.model.snapshot import Problem
from kpf.plan.decisions import Decisions, Flows, Frontend
from kpf.plan.differences import differences, replaced
from kpf.plan.frontends import PortalPlan
from kpf.plan.ground import Ground, Listener
from kpf.plan.health_ports import AskedHealthCheck, health_checks
from kpf.plan.intent import Intent


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What must hold: `frontends` by their listener; and what it was made of.

    `flows_kept`: whose flows may go on, of frontends without connections (UDP).
    `asked_health_checks`: what Services ask for; `health_checks`: what is served, by port.
    `complaints`: the problems of each Service that has any, but for those of `ground`.
    """

    frontends: Mapping[Listener, Frontend] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    flows_kept: Mapping[FrontendKey, Flows] = field(default_factory=dict)
    asked_health_checks: Mapping[ObjectName, AskedHealthCheck] = field(default_factory=dict)
    health_checks: Mapping[int, HealthCheck] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    complaints: Mapping[ObjectName, tuple[Problem, ...]] = field(default_factory=dict)
    intent: Intent = field(default_factory=Intent, compare=False)
    ground: Ground | None = field(default=None, compare=False)

    @property
    def captured(self) -> Mapping[ObjectName, tuple[PortalPlan, ...]]:
        """The portals of each Service that has any."""
        return self.ground.captured if self.ground is not None else {}


def desired_state(intent: Intent, ground: Ground, before: DesiredState | None = None) -> DesiredState:
    """Make the whole desired state. What `before` says of Services of which nothing has changed is taken from there."""
    before = before or DesiredState()
    names = _suspects(intent, ground, before)
    decided = Decisions(ground)
    for name in names:
        if (plan := intent.plans.get(name)) is not None:
            decided.decide(plan)
    had = _Had(names, before)
    complaints = replaced(before.complaints, decided.complaints, names.keys())
    asked = replaced(before.asked_health_checks, decided.health_checks, names.keys())
    checks, problems = before.health_checks, before.problems
    if not (complaints is before.complaints and asked is before.asked_health_checks and ground is before.ground):
        checks, refused = health_checks(asked, ground.united)
        problems = (*ground.problems, *refused, *chain.from_iterable(complaints.values()))
    return DesiredState(
        frontends=replaced(before.frontends, decided.frontends, had.listeners),
        rules=_rules(decided, ground, intent, before, had),
        flows_kept=replaced(before.flows_kept, decided.flows_kept, had.keys),
        asked_health_checks=asked,
        health_checks=checks,
        problems=problems,
        complaints=complaints,
        intent=intent,
        ground=ground,
    )


def _suspects(intent: Intent, ground: Ground, before: DesiredState) -> dict[ObjectName, None]:
    """Services of which something may be otherwise than before, those that are gone included."""
    changed, gone = differences(intent.plans, before.intent.plans, attrgetter("claims.name"))
    # a set in which they stay in order
    names, was = dict.fromkeys(chain(changed, gone)), before.ground
    if was is None or was is ground:
        return names
    listeners = differences(ground.listeners, was.listeners, attrgetter("frontend"))
    captured = differences(ground.captured, was.captured, lambda claims: claims[0].service_name)
    names |= dict.fromkeys(key.port.service_name for key in chain(*listeners))
    names |= dict.fromkeys(chain(*captured))
    if moved := ground.ruled_otherwise(was):
        names |= dict.fromkeys(
            name
            for name, plan in intent.plans.items()
            for frontend in plan.frontends.values()
            if not frontend.members.isdisjoint(moved)
        )
    if not ground.same_portals(was):
        names |= dict.fromkeys(
            name
            for name, plan in intent.plans.items()
            for key, frontend in plan.frontends.items()
            if key.forwarding is Forwarding.PROXIED and ground.may_return(frontend) != was.may_return(frontend)
        )
    if ground.facts.local_addresses != was.facts.local_addresses:
        names |= dict.fromkeys(name for name, claims in ground.captured.items() if any(one.sources for one in claims))
    return names


class _Had:
    """What these Services had."""

    def __init__(self, names: Iterable[ObjectName], before: DesiredState) -> None:
        self.listeners: set[Listener] = set()
        self.portals: set[Portal | NodePort] = set()
        self.keys: set[FrontendKey] = set()
        for name in names:
            plan = before.intent.plans.get(name)
            if before.ground is None or plan is None:
                continue
            self.keys.update(plan.frontends)
            self.listeners.update(
                before.ground.listeners[key] for key in plan.frontends if key in before.ground.listeners
            )
            self.portals.update(claim.portal for claim in before.ground.captured.get(name, ()))


def _rules(decided: Decisions, ground: Ground, intent: Intent, before: DesiredState, had: _Had) -> Rules:
    old, facts = before.rules, ground.facts
    return Rules(
        proxy_addresses=dict(facts.proxy_addresses),
        own_addresses=facts.own_addresses,
        node_port_networks=facts.node_port_networks,
        portals=replaced(old.portals, decided.portals, had.portals),
        node_ports=replaced(old.node_ports, decided.node_ports, had.portals),
        far=replaced(old.far, decided.far, had.portals),
        loopback=replaced(old.loopback, decided.loopback, had.portals),
        guards=replaced(old.guards, decided.guards, had.portals),
        forwards=replaced(old.forwards, decided.forwards, had.keys),
        hairpins=_hairpins(decided, intent, before, had),
        cluster_ips=ground.cluster_ips,
        service_cidrs=facts.service_cidrs,
        listening=ground.listening,
        own_pods=facts.own_pods,
        masquerade_all=facts.masquerade_all,
        masquerade_bridged=facts.masquerade_bridged,
        worker_uid=facts.worker_uid,
    )


def _hairpins(decided: Decisions, intent: Intent, before: DesiredState, had: _Had) -> Mapping[IPAddress, int]:
    """By how many forwards each endpoint on this node is had."""
    change: Counter[IPAddress] = Counter()
    for key in decided.forwards:
        change.update(intent.plans[key.port.service_name].frontends[key].hairpins)
    for key in had.keys:
        if key in before.rules.forwards:
            change.subtract(before.intent.plans[key.port.service_name].frontends[key].hairpins)
    counts = {address: before.rules.hairpins.get(address, 0) + more for address, more in change.items() if more}
    left = {address: count for address, count in counts.items() if count}
    return replaced(before.rules.hairpins, left, counts.keys())
