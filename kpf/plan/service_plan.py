"""Stage 1: what one Service asks for.

Knows one Service, its EndpointSlices, and this node's facts; nothing of other Services. Adds its frontends with their
endpoints, and the portals that it claims and that are to lead to them.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.health import HealthCheck
from kpf.model.names import (
    EndpointSet,
    Forwarding,
    FrontendKey,
    IPAddress,
    ObjectName,
    Protocol,
    ServicePortName,
    SocketAddress,
    family_of,
)
from kpf.model.rules import NodePort, Verdict
from kpf.model.service import Service, ServicePort, ServiceType
from kpf.model.snapshot import Problem
from kpf.plan.health import health_check
from kpf.plan.node import NodeFacts
from kpf.plan.policy import Backends, Usable, flows_kept, local_addresses, reserved_kind, usable_endpoints
from kpf.plan.routes import FORWARDING, PortalClaim, Routes, asked_forwarding, portals

Slices = tuple[EndpointSlice, ...]

# that are told of one slice, or of one frontend: who writes it may have written a thousand
MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class FrontendPlan:
    """A frontend as its own Service has it. `members` are the endpoints as a set, `ports` those that they have.

    `when_empty`: what becomes of connections while there are none.
    `affinity_timeout_s` is None without session affinity. `flows_kept`: the endpoints whose flows may go on, of a
    frontend without connections (UDP). `hairpins`: endpoints on this node, of one that the kernel forwards.
    """

    endpoints: Backends
    members: frozenset[SocketAddress]
    ports: frozenset[int]
    when_empty: Verdict
    affinity_timeout_s: int | None
    flows_kept: frozenset[SocketAddress] = frozenset()
    hairpins: frozenset[IPAddress] = frozenset()


class Claims(NamedTuple):
    """The part of a Service's plan that stage 2 sees: what another one might ask for too.

    Endpoints come and go without changing it. `created` is "" if it is not known; `health_check_port` is 0 for none.
    """

    created: str
    name: ObjectName
    origin: str
    portals: tuple[PortalClaim, ...]
    cluster_ips: tuple[IPAddress, ...]
    health_check_port: int = 0

    @property
    def age(self) -> tuple[bool, str, ObjectName]:
        """Sorts the older one first. Who does not say when it was made is younger than who does."""
        return not self.created, self.created, self.name

    def problem(self, field: str, message: str) -> Problem:
        """What is wrong with the Service, as its author is told; `field` is "" for the whole of it."""
        return Problem(self.origin, f"Service {self.name}", field, message)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one Service asks for, before it meets the others. `problems`: those that it has by itself.

    `health_check`: what its health check says, None if it has none.
    """

    service: Service
    slices: Slices
    claims: Claims
    frontends: Mapping[FrontendKey, FrontendPlan]
    problems: tuple[Problem, ...]
    health_check: HealthCheck | None = None

    def refused_endpoints(self, refused: Sequence[tuple[SocketAddress, str]]) -> Iterator[Problem]:
        """Problems of endpoints, given with why they are refused. Raises LookupError for one that no slice has."""
        for address, reason in refused[:MAX_PROBLEMS]:
            yield self._endpoint_problem(address, reason)
        if len(refused) > MAX_PROBLEMS:
            message = f"{len(refused) - MAX_PROBLEMS} more endpoints are refused"
            yield Problem(self.service.origin, f"Service {self.service.name}", "", message)

    def _endpoint_problem(self, refused: SocketAddress, reason: str) -> Problem:
        """Names the slice that has the endpoint."""
        for piece in self.slices:
            for index, endpoint in enumerate(piece.endpoints):
                if endpoint.address == refused.address:
                    field = f"endpoints[{index}].addresses[0]"
                    message = f"endpoint {refused} is refused: {reason}"
                    return Problem(piece.origin, f"EndpointSlice {piece.name}", field, message)
        raise LookupError(f"{refused} is in no slice of {self.service.name}")


ServicePlans = Mapping[ObjectName, ServicePlan]


def counts(service: Service) -> bool:
    """False for those that are left to others, or need no proxy: ExternalName, headless, a foreign proxy's."""
    return service.type is not ServiceType.EXTERNAL_NAME and bool(service.cluster_ips) and not service.foreign_proxy


def plan_service(service: Service, slices: Slices, facts: NodeFacts) -> ServicePlan:
    """Plan each IP family on its own; a family that the Service or this node lacks is left out.

    Of `facts` it reads `NodeFacts.read_by_service_plans` alone.
    """
    frontends: dict[FrontendKey, FrontendPlan] = {}
    claimed: list[PortalClaim] = []
    wrong: list[tuple[str, str]] = []
    families = [family for family in facts.families if any(ip.version == family for ip in service.cluster_ips)]
    forwarding, ignored = _forwarding(service, facts)
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.SCTP and not facts.has_sctp:
            continue
        for family in families:
            routes = Routes(_name(service, port), family, forwarding)
            found = _Endpoints(service, slices, routes, facts)
            for claim in portals(service, port, index, routes, external_ips_allowed=facts.external_ips_allowed):
                if reason := _refusal(claim, facts):
                    wrong.append((claim.field, reason))
                    continue
                for key in claim.frontends:
                    if key not in frontends:
                        frontends[key] = found.frontend(key)
                claimed.append(claim)
    cluster_ips = tuple(ip for ip in service.cluster_ips if family_of(ip) in families and not reserved_kind(ip))
    checked = health_check(service, slices, facts.name)
    check_port = service.health_check_node_port if checked else 0
    claims = Claims(service.created, service.name, service.origin, tuple(claimed), cluster_ips, check_port)
    problems = [claims.problem(*one) for one in (*wrong, *ignored)]
    problems += [claims.problem(*one)._replace(is_limit=True) for one in _unsupported(service, facts)]
    return ServicePlan(service, slices, claims, frontends, (*problems, *_reserved_endpoints(slices)), checked)


def _refusal(claim: PortalClaim, facts: NodeFacts) -> str:
    """Why a portal is not served; empty if it is."""
    portal = claim.portal
    if isinstance(portal, NodePort):
        return ""
    kind = reserved_kind(portal.address)
    # what other nodes dial comes here from outside, so whoever claims a pod's address would have its Service's traffic
    if not claim.is_cluster_ip and any(portal.address in network for network in facts.pod_networks):
        kind = "an address of this node's pods"
    return f"{portal.address} is {kind}: it is not served" if kind else ""


def _name(service: Service, port: ServicePort) -> ServicePortName:
    return ServicePortName(service.name.namespace, service.name.name, port.name, port.protocol)


def _forwarding(service: Service, facts: NodeFacts) -> tuple[Forwarding | None, list[tuple[str, str]]]:
    """With what is wrong with the annotation: (field, message)."""
    try:
        return asked_forwarding(service) or facts.forwarding, []
    except ValueError:
        message = f"must be {' or '.join(Forwarding)}: it is as if it was not there"
        return facts.forwarding, [(f"metadata.annotations[{FORWARDING}]", message)]


class _Endpoints:
    """The endpoints of one port and family, as each of its frontends has them."""

    def __init__(self, service: Service, slices: Slices, routes: Routes, facts: NodeFacts) -> None:
        self._service, self._slices, self._name, self._family = service, slices, routes.name, routes.family
        self._node_name = facts.name
        self._usable: Usable = usable_endpoints(
            slices,
            routes.name.port,
            protocol=routes.name.protocol,
            family=routes.family,
            node_name=facts.name,
            zone=facts.zone,
        )

    def frontend(self, key: FrontendKey) -> FrontendPlan:
        backends, when_empty = self._usable.cluster, Verdict.REFUSE
        is_local = key.endpoint_set is EndpointSet.LOCAL
        if is_local:
            # none here but some elsewhere: the client may try another node, so it must not be told that there is none
            backends, when_empty = self._usable.local, Verdict.DROP if self._usable.cluster else Verdict.REFUSE
        is_direct = key.forwarding is Forwarding.DIRECT
        return FrontendPlan(
            backends,
            frozenset(backends),
            frozenset([at.port for at in backends]),
            when_empty,
            self._service.affinity_timeout_s,
            flows_kept=self._flows_kept(is_local) if self._name.protocol is Protocol.UDP else frozenset(),
            hairpins=self._hairpins(backends) if is_direct else frozenset(),
        )

    def _hairpins(self, backends: Backends) -> frozenset[IPAddress]:
        here = self._here
        # mostly none is here, and to hash an address takes longer than all else
        return here.intersection(endpoint.address for endpoint in backends) if here else here

    @functools.cached_property
    def _here(self) -> frozenset[IPAddress]:
        return local_addresses(self._slices, self._family, self._node_name)

    def _flows_kept(self, is_local: bool) -> frozenset[SocketAddress]:
        return flows_kept(
            self._slices,
            self._name.port,
            protocol=self._name.protocol,
            family=self._family,
            node_name=self._node_name if is_local else None,
        )


def _unsupported(service: Service, facts: NodeFacts) -> Iterator[tuple[str, str]]:
    """(field, message)."""
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.SCTP and not facts.has_sctp:
            message = f"this node's kernel does not track SCTP: port {port.port} is left out"
            yield f"spec.ports[{index}].protocol", message


def _reserved_endpoints(slices: Iterable[EndpointSlice]) -> Iterator[Problem]:
    for piece in slices:
        found = [
            (index, endpoint.address, kind)
            for index, endpoint in enumerate(piece.endpoints)
            if (kind := reserved_kind(endpoint.address))
        ]
        described = f"EndpointSlice {piece.name}"
        for index, address, kind in found[:MAX_PROBLEMS]:
            field, message = f"endpoints[{index}].addresses[0]", f"{address} is {kind}: it is not dialled"
            yield Problem(piece.origin, described, field, message)
        if len(found) > MAX_PROBLEMS:
            message = f"{len(found) - MAX_PROBLEMS} more are not dialled"
            yield Problem(piece.origin, described, "endpoints", message)
