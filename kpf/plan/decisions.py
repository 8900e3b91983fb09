"""What becomes of some Services, on a ground that is laid."""

from collections.abc import Mapping
from ipaddress import ip_network
from typing import NamedTuple

from kpf.model.names import Forwarding, FrontendKey, IPNetwork, ObjectName, Protocol, SocketAddress
from kpf.model.rules import Action, Direct, Forward, NodePort, Portal, Verdict
from kpf.model.snapshot import Problem
from kpf.plan.frontends import FrontendPlan, PortalPlan, ServicePlan
from kpf.plan.ground import Ground, Listener
from kpf.plan.health_ports import AskedHealthCheck


class Frontend(NamedTuple):
    """A frontend as it must be: where it listens and whom it dials.

    `may_return`: its connections may come back by another node, so it may not have all that workers can carry.
    """

    listener: Listener
    endpoints: tuple[SocketAddress, ...]
    affinity_timeout_s: int | None
    may_return: bool = False


class Flows(NamedTuple):
    """A frontend without connections (UDP), and the endpoints whose flows may go on."""

    frontend: FrontendKey
    endpoints: frozenset[SocketAddress]


Outcome = int | Verdict | None
"""Of a frontend: the proxy port, a verdict, or that the kernel forwards to it."""


def _action(key: FrontendKey, claim: PortalPlan, outcomes: Mapping[FrontendKey, Outcome]) -> Action:
    outcome = outcomes[key]
    return Direct(key, claim.masquerade) if outcome is None else outcome


class Decisions:
    """What has been decided so far, in the terms of `DesiredState` and `Rules`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.frontends: dict[Listener, Frontend] = {}
        self.portals: dict[Portal, Action] = {}
        self.node_ports: dict[NodePort, Action] = {}
        self.far: dict[Portal | NodePort, Action] = {}
        self.loopback: dict[NodePort, int] = {}
        self.guards: dict[Portal, tuple[IPNetwork, ...]] = {}
        self.forwards: dict[FrontendKey, Forward] = {}
        self.flows_kept: dict[FrontendKey, Flows] = {}
        self.health_checks: dict[ObjectName, AskedHealthCheck] = {}
        self.complaints: dict[ObjectName, tuple[Problem, ...]] = {}

    def decide(self, plan: ServicePlan) -> None:
        """Add what becomes of one Service: once for each, in any order. Portals that another one has count nothing."""
        name, problems = plan.claims.name, dict.fromkeys(plan.problems)
        claims = self._ground.captured.get(name, ())
        outcomes: dict[FrontendKey, Outcome] = {}
        for key in dict.fromkeys(key for claim in claims for key in claim.frontends):
            wanted = plan.frontends[key]
            endpoints, refused = self._dialled(plan, wanted, key)
            problems |= dict.fromkeys(refused)
            outcomes[key] = self._outcome(key, wanted, endpoints)
        for claim in claims:
            self._capture(claim, outcomes)
        if plan.health_check is not None:
            self.health_checks[name] = AskedHealthCheck(plan.service.health_check_node_port, plan.health_check)
        if problems:
            self.complaints[name] = tuple(problems)

    def _outcome(self, key: FrontendKey, wanted: FrontendPlan, endpoints: tuple[SocketAddress, ...]) -> Outcome:
        if key.forwarding is Forwarding.PROXIED:
            listener = self._ground.listeners.get(key)
            if listener is None:
                return Verdict.REFUSE
            may_return = self._ground.may_return(wanted)
            self.frontends[listener] = Frontend(listener, endpoints, wanted.affinity_timeout_s, may_return)
            return listener.at.port if endpoints else wanted.when_empty
        if key.port.protocol is Protocol.UDP:
            self.flows_kept[key] = Flows(key, wanted.flows_kept)
        if not endpoints:
            return wanted.when_empty
        self.forwards[key] = Forward(endpoints, wanted.affinity_timeout_s)
        return None

    def _capture(self, claim: PortalPlan, outcomes: Mapping[FrontendKey, Outcome]) -> None:
        portal = claim.portal
        action = _action(claim.frontend, claim, outcomes)
        if isinstance(portal, Portal):
            self.portals[portal] = action
            if claim.sources:
                self.guards[portal] = self._sources(claim)
        else:
            self.node_ports[portal] = action
            if claim.loopback is not None and isinstance(port := outcomes[claim.loopback], int):
                self.loopback[portal] = port
        if claim.far is not None:
            self.far[portal] = _action(claim.far, claim, outcomes)

    def _sources(self, claim: PortalPlan) -> tuple[IPNetwork, ...]:
        """A node that may come may also come from the portal's own address, as it does where that is local to it."""
        portal, local = claim.portal, self._ground.facts.local_addresses
        if isinstance(portal, NodePort) or not any(one in network for network in claim.sources for one in local):
            return claim.sources
        return *claim.sources, ip_network(portal.address)

    def _dialled(
        self, plan: ServicePlan, wanted: FrontendPlan, key: FrontendKey
    ) -> tuple[tuple[SocketAddress, ...], tuple[Problem, ...]]:
        """The endpoints that may be dialled, and complaints about the others."""
        ground = self._ground
        forbidden = ground.forbidden_to(key)
        if wanted.members.isdisjoint(forbidden):
            return wanted.endpoints, ()
        refused = [(one, ground.why_forbidden(one)) for one in wanted.endpoints if one in forbidden]
        dialled = tuple(one for one in wanted.endpoints if one not in forbidden)
        return dialled, tuple(plan.refused_endpoints(refused))
