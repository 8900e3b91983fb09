"""The order of effects, as data: make before break.

After every step each portal that is redirected has a listener that listens, workers that accept, and endpoints to dial;
a listener closes only when nothing is sent to it any more. So a transition may stop after any step, for ever.
Effects are elsewhere (`kpf.master.effects`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

from kpf.model.names import FrontendKey, IPAddress, ObjectName, Protocol, SocketAddress
from kpf.model.rules import NodePort, Portal, Rules
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState, Flows, Frontend
from kpf.plan.differences import differences, missing
from kpf.plan.routes import PortalClaim


@dataclass(frozen=True, slots=True)
class OpenFrontends:
    """Give each a slot in shared memory, its members, and sockets that listen.

    `own_addresses`: where they may listen without fear that the address goes: kpf's own.
    """

    frontends: tuple[Frontend, ...]
    own_addresses: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class Announce:
    """Hand the listeners to the workers, and wait (a while) until they accept."""

    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class UpdateFrontends:
    """Replace members and affinity of open frontends."""

    frontends: tuple[Frontend, ...]


@dataclass(frozen=True, slots=True)
class WriteRules:
    """One transaction. `old`: what the kernel is known to have; None for a full sync, which writes everything.

    `unreplied`: portals of TCP, those that come with it among them, to which attempts to connect may have come before
    them.
    """

    old: Rules | None
    new: Rules
    unreplied: frozenset[Portal | NodePort]


@dataclass(frozen=True, slots=True)
class FlowsKept:
    """Whose flows are left: portals by their Service, and the endpoints that each frontend of UDP still has."""

    captured: Mapping[ObjectName, tuple[PortalClaim, ...]] = field(default_factory=dict)
    flows: Mapping[FrontendKey, Flows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete conntrack entries that keep clients from the endpoints that they should have.

    `unreplied`: portals of TCP that have come: attempts to connect that came before them go.
    `flows`: portals of UDP, and the endpoints whose flows may go on: those of all others go.
    `was`, `kept`: what was true of all flows, and what is after that, unless it has come into doubt meanwhile.
    """

    unreplied: frozenset[Portal | NodePort]
    flows: Mapping[Portal | NodePort, frozenset[SocketAddress]]
    was: FlowsKept
    kept: FlowsKept


@dataclass(frozen=True, slots=True)
class CloseFrontends:
    """Nothing is sent to these any more: accept what is queued, close the listeners, free the slots."""

    listeners: tuple[Listener, ...]


Step = OpenFrontends | Announce | UpdateFrontends | WriteRules | Forget | CloseFrontends


@dataclass(slots=True)
class InForce:
    """What is, but for the kernel's rules: open frontends, and those that workers do not accept on yet.

    And what conntrack may still have: attempts that came before these portals of TCP, and whose flows.
    """

    frontends: dict[Listener, Frontend] = field(default_factory=dict)
    unannounced: set[Listener] = field(default_factory=set)
    unreplied: frozenset[Portal | NodePort] = frozenset()
    flows: FlowsKept = FlowsKept()


def transition(now: InForce, rules: Rules | None, desired: DesiredState) -> Iterator[Step]:
    """Steps from what is, as it is at the call, to what must hold. `rules`: the kernel's, None if it is not known."""
    unreplied, flows = now.unreplied, now.flows
    listeners, closed = differences(desired.frontends, now.frontends, attrgetter("listener"))
    suspects = [desired.frontends[listener] for listener in listeners]
    opened = tuple(new for new in suspects if new.listener not in now.frontends)
    changed = tuple(new for new in suspects if now.frontends.get(new.listener, new) != new)
    unannounced = (*(now.unannounced - closed), *(new.listener for new in opened))
    emptied = tuple(frontend for frontend in changed if not frontend.endpoints)
    if opened:
        yield OpenFrontends(opened, desired.rules.own_addresses)
    if unannounced:
        yield Announce(unannounced)
    if len(emptied) < len(changed):
        yield UpdateFrontends(tuple(frontend for frontend in changed if frontend.endpoints))
    if rules != desired.rules:
        unreplied = _unreplied(unreplied, rules, desired.rules)
        yield WriteRules(rules, desired.rules, unreplied)
    yield from _forget(unreplied, flows, desired)
    if emptied:
        # only once their portals refuse: a connection may still be on its way to the listener
        yield UpdateFrontends(emptied)
    if closed:
        yield CloseFrontends(tuple(closed))


def is_all_forgotten(now: InForce, desired: DesiredState) -> bool:
    """Whether conntrack has nothing left that keeps clients from the endpoints that they should have."""
    return not now.unreplied and now.flows.captured is desired.captured and now.flows.flows is desired.flows_kept


def _unreplied(before: frozenset[Portal | NodePort], old: Rules | None, new: Rules) -> frozenset[Portal | NodePort]:
    """Those of before that are still there, and those that have come."""
    known = old or Rules()
    left = (one for one in before if one in new.portals or one in new.node_ports)
    portals, node_ports = missing(new.portals, known.portals), missing(new.node_ports, known.node_ports)
    found = chain[Portal | NodePort](left, portals, node_ports)
    return frozenset(one for one in found if one.protocol is Protocol.TCP)


def _forget(unreplied: frozenset[Portal | NodePort], was: FlowsKept, desired: DesiredState) -> Iterator[Forget]:
    kept = FlowsKept(desired.captured, desired.flows_kept)
    if kept.captured is was.captured and kept.flows is was.flows:
        if unreplied:
            yield Forget(unreplied, {}, was, kept)
        return
    captured = differences(kept.captured, was.captured, lambda claims: claims[0].service_name)
    flows = differences(kept.flows, was.flows, attrgetter("frontend"))
    allowed: dict[Portal | NodePort, frozenset[SocketAddress]] = {}
    for name in {*chain(*captured), *(key.port.service_name for key in chain(*flows))}:
        for claim in was.captured.get(name, ()):
            if claim.portal.protocol is Protocol.UDP:
                allowed.setdefault(claim.portal, frozenset())
        for claim in kept.captured.get(name, ()):
            if claim.portal.protocol is Protocol.UDP:
                allowed[claim.portal] = frozenset().union(*(kept.flows[key].endpoints for key in claim.frontends))
    yield Forget(unreplied, allowed, was, kept)
