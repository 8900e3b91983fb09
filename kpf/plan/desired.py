"""Stage 4: what must hold.

Knows each Service's plan, and what is allocated. Adds what each frontend dials and what each portal does: the open
frontends, the kernel's rules, whose flows may go on, health checks, and all problems. A change costs what it changes:
Services of which something may be otherwise are decided anew, and all else is taken from the desired state before.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from kpf.model.health import HealthCheck
from kpf.model.names import Forwarding, FrontendKey, IPAddress, IPNetwork, ObjectName, Protocol, SocketAddress
from kpf.model.rules import Action, Direct, Forward, Masquerade, NodePort, Portal, Rules, Verdict
from kpf.model.snapshot import Problem
from kpf.plan.allocation import Allocation, Listener
from kpf.plan.differences import differences, replaced
from kpf.plan.routes import PortalClaim
from kpf.plan.service_plan import FrontendPlan, ServicePlan, ServicePlans


class Frontend(NamedTuple):
    """A frontend as it must be: where it listens and whom it dials.

    `may_loop`: its connections may come back by another node, so it may not have all that workers can carry.
    """

    listener: Listener
    endpoints: tuple[SocketAddress, ...]
    affinity_timeout_s: int | None
    may_loop: bool = False


class Flows(NamedTuple):
    """A frontend without connections (UDP), and the endpoints whose flows may go on."""

    frontend: FrontendKey
    endpoints: frozenset[SocketAddress]


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What must hold: `frontends` by their listener; and what it was made of.

    `flows_kept`: whose flows may go on, of frontends without connections (UDP). `health_checks`: those served, by port.
    `service_problems`: those of each Service that has any, but for those of `allocation`; `problems`: all.
    """

    frontends: Mapping[Listener, Frontend] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    flows_kept: Mapping[FrontendKey, Flows] = field(default_factory=dict)
    health_checks: Mapping[int, HealthCheck] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    service_problems: Mapping[ObjectName, tuple[Problem, ...]] = field(default_factory=dict)
    plans: ServicePlans = field(default_factory=dict, compare=False)
    allocation: Allocation = field(default_factory=Allocation, compare=False)

    @property
    def captured(self) -> Mapping[ObjectName, tuple[PortalClaim, ...]]:
        """The portals of each Service that has any."""
        return self.allocation.captured


def desired_state(plans: ServicePlans, allocation: Allocation, before: DesiredState | None = None) -> DesiredState:
    """Make the whole desired state. What `before` says of Services of which nothing has changed is taken from there."""
    before = before or DesiredState()
    names = _suspects(plans, allocation, before)
    changes = _Changes(allocation)
    for name in names:
        if (had := before.plans.get(name)) is not None:
            changes.withdraw(had, before.allocation)
        if (plan := plans.get(name)) is not None:
            changes.decide(plan)
    service_problems = replaced(before.service_problems, changes.problems, names.keys())
    problems = before.problems
    if not (service_problems is before.service_problems and allocation is before.allocation):
        problems = (*allocation.problems, *chain.from_iterable(service_problems.values()))
    return DesiredState(
        frontends=replaced(before.frontends, changes.frontends, changes.old_listeners),
        rules=_rules(changes, plans, allocation, before),
        flows_kept=replaced(before.flows_kept, changes.flows_kept, changes.old_keys),
        health_checks=_health_checks(changes, plans, allocation, before),
        problems=problems,
        service_problems=service_problems,
        plans=plans,
        allocation=allocation,
    )


def _suspects(plans: ServicePlans, allocation: Allocation, before: DesiredState) -> dict[ObjectName, None]:
    """Services of which something may be otherwise than before, those that are gone included."""
    changed, gone = differences(plans, before.plans, attrgetter("claims.name"))
    # a set in which they stay in order
    names, was = dict.fromkeys(chain(changed, gone)), before.allocation
    if was is allocation or not before.plans:
        return names
    listeners = differences(allocation.listeners, was.listeners, attrgetter("frontend"))
    captured = differences(allocation.captured, was.captured, lambda claims: claims[0].service_name)
    names |= dict.fromkeys(key.port.service_name for key in chain(*listeners))
    names |= dict.fromkeys(chain(*captured))
    if moved := allocation.ruled_otherwise(was):
        names |= dict.fromkeys(
            name
            for name, plan in plans.items()
            for frontend in plan.frontends.values()
            if not frontend.members.isdisjoint(moved)
        )
    if not allocation.same_portals(was):
        names |= dict.fromkeys(
            name
            for name, plan in plans.items()
            for key, frontend in plan.frontends.items()
            if key.forwarding is Forwarding.PROXIED and allocation.may_loop(frontend) != was.may_loop(frontend)
        )
    if allocation.facts.local_addresses != was.facts.local_addresses:
        names |= dict.fromkeys(
            name for name, claims in allocation.captured.items() if any(one.sources for one in claims)
        )
    return names


class _Changes:
    """Of some Services: what they had, by its keys, and what they have, in the terms of `DesiredState` and `Rules`."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self.old_listeners: set[Listener] = set()
        self.old_portals: set[Portal | NodePort] = set()
        self.old_keys: set[FrontendKey] = set()
        self.frontends: dict[Listener, Frontend] = {}
        self.portals: dict[Portal, Action] = {}
        self.node_ports: dict[NodePort, Action] = {}
        self.off_node: dict[Portal | NodePort, Action] = {}
        self.loopback: dict[NodePort, int] = {}
        self.source_ranges: dict[Portal, tuple[IPNetwork, ...]] = {}
        self.forwards: dict[FrontendKey, Forward] = {}
        self.comments: dict[Portal | NodePort, str] = {}
        self.flows_kept: dict[FrontendKey, Flows] = {}
        self.health_checks: dict[int, HealthCheck] = {}
        self.problems: dict[ObjectName, tuple[Problem, ...]] = {}

    def withdraw(self, plan: ServicePlan, allocation: Allocation) -> None:
        """The Service had what follows from these."""
        listeners = allocation.listeners
        self.old_keys.update(plan.frontends)
        self.old_listeners.update(listeners[key] for key in plan.frontends if key in listeners)
        self.old_portals.update(claim.portal for claim in allocation.captured.get(plan.claims.name, ()))

    def decide(self, plan: ServicePlan) -> None:
        """The Service has what follows from this plan."""
        name, problems = plan.claims.name, dict.fromkeys(plan.problems)
        claims = self._allocation.captured.get(name, ())
        actions: dict[FrontendKey, Action] = {}
        for key in dict.fromkeys(key for claim in claims for key in claim.frontends):
            endpoints, refused = self._dialled(plan, key)
            problems |= dict.fromkeys(refused)
            actions[key] = self._serve(key, plan.frontends[key], endpoints)
        for claim in claims:
            self._capture(claim, actions)
        check, port = plan.health_check, plan.claims.health_check_port
        if check is not None and self._allocation.ownership.health_checks.get(port) == name:
            self.health_checks[port] = check
        if problems:
            self.problems[name] = tuple(problems)

    def _serve(self, key: FrontendKey, wanted: FrontendPlan, endpoints: tuple[SocketAddress, ...]) -> Action:
        """What portals do that lead there."""
        if key.forwarding is Forwarding.PROXIED:
            listener = self._allocation.listeners.get(key)
            if listener is None:
                return Verdict.REFUSE
            may_loop = self._allocation.may_loop(wanted)
            self.frontends[listener] = Frontend(listener, endpoints, wanted.affinity_timeout_s, may_loop)
            return listener.at.port if endpoints else wanted.when_empty
        if key.port.protocol is Protocol.UDP:
            self.flows_kept[key] = Flows(key, wanted.flows_kept)
        if not endpoints:
            return wanted.when_empty
        self.forwards[key] = Forward(endpoints, wanted.affinity_timeout_s)
        return Direct(key, Masquerade.NEVER)

    def _capture(self, claim: PortalClaim, actions: Mapping[FrontendKey, Action]) -> None:
        portal = claim.portal
        self.comments[portal] = claim.frontend.port.short
        action = _masqueraded(actions[claim.frontend], claim)
        if isinstance(portal, Portal):
            self.portals[portal] = action
            if claim.sources:
                self.source_ranges[portal] = self._sources(portal, claim.sources)
        else:
            self.node_ports[portal] = action
            if claim.loopback is not None and isinstance(port := actions[claim.loopback], int):
                self.loopback[portal] = port
        if claim.off_node is not None:
            self.off_node[portal] = _masqueraded(actions[claim.off_node], claim)

    def _sources(self, portal: Portal, sources: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        """A node that may come may also come from the portal's own address, as it does where that is local to it."""
        local = self._allocation.facts.local_addresses
        if not any(one in network for network in sources for one in local):
            return sources
        return *sources, ip_network(portal.address)

    def _dialled(self, plan: ServicePlan, key: FrontendKey) -> tuple[tuple[SocketAddress, ...], tuple[Problem, ...]]:
        """The endpoints that may be dialled, and the others as problems."""
        wanted, forbidden = plan.frontends[key], self._allocation.forbidden_to(key)
        if wanted.members.isdisjoint(forbidden):
            return wanted.endpoints, ()
        refused = [(one, self._allocation.why_forbidden(one)) for one in wanted.endpoints if one in forbidden]
        dialled = tuple(one for one in wanted.endpoints if one not in forbidden)
        return dialled, tuple(plan.refused_endpoints(refused))


def _masqueraded(action: Action, claim: PortalClaim) -> Action:
    """What the kernel forwards is masqueraded as the portal asks for."""
    return Direct(action.frontend, claim.masquerade) if isinstance(action, Direct) else action


def _health_checks(
    changes: _Changes, plans: ServicePlans, allocation: Allocation, before: DesiredState
) -> Mapping[int, HealthCheck]:
    ownership = allocation.ownership
    if ownership is before.allocation.ownership:
        return replaced(before.health_checks, changes.health_checks, frozenset())
    checks = ((port, plans[name].health_check) for port, name in ownership.health_checks.items())
    return {port: check for port, check in checks if check is not None}


def _rules(changes: _Changes, plans: ServicePlans, allocation: Allocation, before: DesiredState) -> Rules:
    old, facts, gone = before.rules, allocation.facts, changes.old_portals
    return Rules(
        proxy_addresses=dict(facts.proxy_addresses),
        own_addresses=facts.own_addresses,
        node_port_networks=facts.node_port_networks,
        portals=replaced(old.portals, changes.portals, gone),
        node_ports=replaced(old.node_ports, changes.node_ports, gone),
        off_node=replaced(old.off_node, changes.off_node, gone),
        loopback=replaced(old.loopback, changes.loopback, gone),
        source_ranges=replaced(old.source_ranges, changes.source_ranges, gone),
        forwards=replaced(old.forwards, changes.forwards, changes.old_keys),
        hairpins=_hairpins(changes, plans, before),
        cluster_ips=allocation.cluster_ips,
        service_cidrs=facts.service_cidrs,
        listening=allocation.listening,
        comments=replaced(old.comments, changes.comments, gone),
        own_pods=facts.own_pods,
        masquerade_all=facts.masquerade_all,
        masquerade_bridged=facts.masquerade_bridged,
        worker_uid=facts.worker_uid,
    )


def _hairpins(changes: _Changes, plans: ServicePlans, before: DesiredState) -> Mapping[IPAddress, int]:
    """By how many forwards each endpoint on this node is had."""
    change: Counter[IPAddress] = Counter()
    for key in changes.forwards:
        change.update(plans[key.port.service_name].frontends[key].hairpins)
    for key in changes.old_keys:
        if key in before.rules.forwards:
            change.subtract(before.plans[key.port.service_name].frontends[key].hairpins)
    counts = {address: before.rules.hairpins.get(address, 0) + more for address, more in change.items() if more}
    left = {address: count for address, count in counts.items() if count}
    return replaced(before.rules.hairpins, left, counts.keys())
