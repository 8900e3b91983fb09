"""Where WHAT is found: portals, addresses, endpoints. Pure; a search gives way to others as it goes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from kpf.explain.packet import answers_node_ports
from kpf.explain.question import At, Named, NodePortOf
from kpf.explain.rows import Destination
from kpf.explain.state import State, Turns
from kpf.model.names import Family, FrontendKey, IPAddress, ObjectName, Protocol
from kpf.model.rules import NodePort, Portal
from kpf.plan.service_plan import ServicePlan

# that are looked at before others get their turn
PORTALS_A_TURN, ENDPOINTS_A_TURN = 2_000, 2_000
# of an answer
MAX_FRONTENDS, MAX_NOTES = 64, 20

_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


@dataclass(slots=True)
class Found:
    """`destinations` to be explained; `frontends` that have the address among their endpoints, used or not.

    `services`: those concerned. `notes`: what is to be said beside.
    """

    destinations: list[Destination] = field(default_factory=list)
    frontends: list[FrontendKey] = field(default_factory=list)
    services: dict[ObjectName, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def of_service(what: Named, state: State) -> Found:
    """Nothing if there is no such Service, or port."""
    plan = state.desired.plans.get(what.service)
    found = Found()
    if plan is None:
        return found
    claims = [one for one in plan.claims.portals if what.port in (None, one.frontend.port.port)]
    standing = _StandIns(state)
    for claim in claims:
        found.destinations += standing.destinations(claim.portal)
    if what.port is None or any(port.name == what.port for port in plan.service.ports):
        found.services[what.service] = None
        if not claims:
            found.notes.append(f"{what} has no portal that is served")
    return found


def of_node_port(what: NodePortOf, state: State) -> Found:
    """Nothing if no Service asks for it."""
    found, claimants, standing = Found(), state.desired.allocation.ownership.claimants, _StandIns(state)
    for portal in (NodePort(family, what.protocol, what.port) for family in Family):
        if portal in claimants:
            found.destinations += standing.destinations(portal)
    return found


class _StandIns:
    """A node port is explained at an address that stands for all on which it answers, and at loopback."""

    def __init__(self, state: State) -> None:
        own = sorted((one for one in state.local if not one.is_loopback), key=int)
        self._answering = [one for one in own if answers_node_ports(one, state.in_force)]
        self._claimants = state.desired.allocation.ownership.claimants

    def destinations(self, portal: Portal | NodePort) -> Iterator[Destination]:
        if isinstance(portal, Portal):
            yield Destination(portal.address, portal.protocol, portal.port)
            return
        for one in self._answering:
            # one with a portal of the same number would tell of that one
            if one.version == portal.family and Portal(one, portal.protocol, portal.port) not in self._claimants:
                yield Destination(one, portal.protocol, portal.port, str(portal))
                break
        yield Destination(_LOOPBACK[portal.family], portal.protocol, portal.port)


def at_address(what: At, state: State) -> Turns[Found]:
    """Whatever is there: portals, and endpoints."""
    found = Found()
    if what.port is not None:
        protocol = what.protocol or Protocol.TCP
        found.destinations.append(Destination(what.address, protocol, what.port))
    else:
        found.destinations = yield from _portals_at(what.address, what.protocol, state)
    yield from _endpoints_at(what, state, found)
    return found


def _portals_at(address: IPAddress, protocol: Protocol | None, state: State) -> Turns[list[Destination]]:
    is_local = address in state.local or address.is_loopback
    takes_node_ports = is_local and answers_node_ports(address, state.in_force)
    # a node port may be a portal of the address, too
    places = set[tuple[int, Protocol]]()
    for number, portal in enumerate(state.desired.allocation.ownership.claimants, 1):
        if isinstance(portal, Portal):
            is_there = portal.address == address
        else:
            is_there = takes_node_ports and portal.family == address.version
        if is_there and protocol in (None, portal.protocol):
            places.add((portal.port, portal.protocol))
        if number % PORTALS_A_TURN == 0:
            yield
    yield
    in_order = sorted(places)
    yield
    return [Destination(address, protocol, port) for port, protocol in in_order]


def _endpoints_at(what: At, state: State, found: Found) -> Turns[None]:
    looked = 0
    for plan in state.desired.plans.values():
        _names(what, plan, state, found)
        if _has(plan, what.address):
            found.frontends += _frontends_with(plan, what, MAX_FRONTENDS - len(found.frontends))
        looked += 1 + sum(len(piece.endpoints) for piece in plan.slices)
        if looked >= ENDPOINTS_A_TURN:
            looked = 0
            yield


def _has(plan: ServicePlan, address: IPAddress) -> bool:
    return any(one.address == address for piece in plan.slices for one in piece.endpoints)


def _frontends_with(plan: ServicePlan, what: At, limit: int) -> list[FrontendKey]:
    keys = (key for key in plan.frontends if key.family == what.address.version)
    return [key for key in keys if what.protocol in (None, key.port.protocol)][:limit]


def _names(what: At, plan: ServicePlan, state: State, found: Found) -> None:
    """A Service whose ClusterIP it is; or that names the address and port, and has no portal there."""
    service = plan.service
    if len(found.notes) == MAX_NOTES:
        return
    if what.address in service.cluster_ips:
        found.services[service.name] = None
        found.notes.append(f"{what.address} is a ClusterIP of Service {service.name}")
    elif what.address in (*service.external_ips, *service.load_balancer_ips):
        why = "see the problems"
        if what.address in service.external_ips and not state.desired.allocation.facts.external_ips_allowed:
            why = "allowExternalIPs is false"
        ports = {(one.protocol, one.port) for one in service.ports}
        asked = {(one.portal.protocol, one.portal.port) for one in plan.claims.portals if _is_at(one.portal, what)}
        unserved = [
            f"{port}/{protocol}"
            for protocol, port in sorted(ports - asked)
            if what.port in (None, port) and what.protocol in (None, protocol)
        ]
        if unserved:
            found.services[service.name] = None
            names = ", ".join(unserved[:MAX_NOTES])
            found.notes.append(f"Service {service.name} names port {names} there, which is not served: {why}")


def _is_at(portal: Portal | NodePort, what: At) -> bool:
    return isinstance(portal, Portal) and portal.address == what.address
