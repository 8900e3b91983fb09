"""What must hold: which frontends are open and whom they dial, and the rules that follow."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from kpf.model.names import ObjectName, SocketAddress
from kpf.model.rules import Action, NodePort, Portal, Rules, Verdict
from kpf.model.snapshot import Problem
from kpf.plan.differences import differences, replaced
from kpf.plan.frontends import FrontendKey, FrontendPlan, PortalPlan, ServicePlan
from kpf.plan.ground import Ground, Listener
from kpf.plan.intent import Intent


class Frontend(NamedTuple):
    """A frontend as it must be: where it listens and whom it dials."""

    listener: Listener
    endpoints: tuple[SocketAddress, ...]
    affinity_timeout_s: int | None


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What must hold: `frontends` by their listener; and what it was made of.

    `complaints`: the problems of each Service that has any, but for those of `ground`.
    """

    frontends: Mapping[Listener, Frontend] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    problems: tuple[Problem, ...] = ()
    complaints: Mapping[ObjectName, tuple[Problem, ...]] = field(default_factory=dict)
    intent: Intent = field(default_factory=Intent, compare=False)
    ground: Ground | None = field(default=None, compare=False)

    @property
    def claims(self) -> Mapping[FrontendKey, tuple[PortalPlan, ...]]:
        """The portals of each frontend, whether or not it is open."""
        return self.intent.united.claims


class _Decisions:
    """What becomes of some Services."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.frontends: dict[Listener, Frontend] = {}
        self.portals: dict[Portal, Action] = {}
        self.node_ports: dict[NodePort, Action] = {}
        self.complaints: dict[ObjectName, tuple[Problem, ...]] = {}

    def decide(self, plan: ServicePlan) -> None:
        problems = plan.problems
        for key, wanted in plan.frontends.items():
            action: Action = Verdict.REFUSE
            listener = self._ground.listeners.get(key)
            if listener is not None:
                endpoints, refused = self._dialled(plan, wanted)
                problems += refused
                self.frontends[listener] = Frontend(listener, endpoints, wanted.affinity_timeout_s)
                action = listener.at.port if endpoints else wanted.when_empty
            for claim in self._ground.captured.get(key, ()):
                portal = claim.portal
                if isinstance(portal, Portal):
                    self.portals[portal] = action
                else:
                    self.node_ports[portal] = action
        if problems:
            self.complaints[plan.claims.name] = problems

    def _dialled(
        self, plan: ServicePlan, wanted: FrontendPlan
    ) -> tuple[tuple[SocketAddress, ...], tuple[Problem, ...]]:
        """The endpoints that may be dialled, and complaints about the others."""
        ground = self._ground
        if wanted.members.isdisjoint(ground.forbidden):
            return wanted.endpoints, ()
        refused = [(one, ground.why_forbidden(one)) for one in wanted.endpoints if one in ground.forbidden]
        dialled = tuple(one for one in wanted.endpoints if one not in ground.forbidden)
        return dialled, tuple(plan.refused_endpoints(refused))


def desired_state(intent: Intent, ground: Ground, before: DesiredState | None = None) -> DesiredState:
    """Make the whole desired state. What `before` says of Services of which nothing has changed is taken from there."""
    before = before or DesiredState()
    names = _suspects(intent, ground, before)
    decided = _Decisions(ground)
    for name in names:
        if (plan := intent.plans.get(name)) is not None:
            decided.decide(plan)
    listeners, portals = _had(names, before)
    complaints = replaced(before.complaints, decided.complaints, names.keys())
    problems = before.problems
    if complaints is not before.complaints or ground is not before.ground:
        problems = (*ground.problems, *chain.from_iterable(complaints.values()))
    rules = Rules(
        proxy_addresses=dict(ground.facts.proxy_addresses),
        node_port_networks=ground.facts.node_port_networks,
        portals=replaced(before.rules.portals, decided.portals, portals),
        node_ports=replaced(before.rules.node_ports, decided.node_ports, portals),
        cluster_ips=ground.cluster_ips,
        listening=ground.listening,
    )
    frontends = replaced(before.frontends, decided.frontends, listeners)
    return DesiredState(frontends, rules, problems, complaints, intent, ground)


def _suspects(intent: Intent, ground: Ground, before: DesiredState) -> dict[ObjectName, None]:
    """Services of which something may be otherwise than before, those that are gone included."""
    changed, gone = differences(intent.plans, before.intent.plans, attrgetter("claims.name"))
    # a set in which they stay in order
    names, was = dict.fromkeys(chain(changed, gone)), before.ground
    if was is None or was is ground:
        return names
    listeners = differences(ground.listeners, was.listeners, attrgetter("frontend"))
    captured = differences(ground.captured, was.captured, lambda claims: claims[0].frontend)
    names |= dict.fromkeys(key.port.service_name for key in chain(*listeners, *captured))
    if moved := ground.ruled_otherwise(was):
        names |= dict.fromkeys(
            name
            for name, plan in intent.plans.items()
            for frontend in plan.frontends.values()
            if not frontend.members.isdisjoint(moved)
        )
    return names


def _had(names: Iterable[ObjectName], before: DesiredState) -> tuple[set[Listener], set[Portal | NodePort]]:
    """The listeners and portals that these Services had."""
    listeners: set[Listener] = set()
    portals: set[Portal | NodePort] = set()
    if before.ground is not None:
        for name in names:
            plan = before.intent.plans.get(name)
            for key in plan.frontends if plan else ():
                if key in before.ground.listeners:
                    listeners.add(before.ground.listeners[key])
                portals.update(claim.portal for claim in before.ground.captured.get(key, ()))
    return listeners, portals
