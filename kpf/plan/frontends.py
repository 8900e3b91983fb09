"""One Service on its own: its frontends, and the portals that lead to them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol, ServicePortName, SocketAddress, family_of
from kpf.model.rules import NodePort, Portal, Verdict
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Problem
from kpf.plan.policy import Backends, Usable, reserved_kind, usable_endpoints

# that are told of one slice, or of one frontend: who writes it may have written a thousand
MAX_PROBLEMS = 10


class EndpointSet(StrEnum):
    CLUSTER = "cluster"
    LOCAL = "local"


class FrontendKey(NamedTuple):
    """What has a proxy port, a turn and pins of its own."""

    port: ServicePortName
    family: Family
    endpoint_set: EndpointSet

    def __str__(self) -> str:
        suffix = "" if self.endpoint_set is EndpointSet.CLUSTER else ", local endpoints"
        return f"{self.port} ({self.family}{suffix})"


@dataclass(frozen=True, slots=True)
class FrontendPlan:
    """`members` are the endpoints as a set. `when_empty`: what becomes of connections while there are none.

    `affinity_timeout_s` is None without session affinity.
    """

    endpoints: Backends
    members: frozenset[SocketAddress]
    when_empty: Verdict
    affinity_timeout_s: int | None


class PortalPlan(NamedTuple):
    """A portal, where it leads, and the field that asks for it."""

    portal: Portal | NodePort
    frontend: FrontendKey
    field: str


class Claims(NamedTuple):
    """What a Service asks for that another one might ask for too. Sorts by age, as claims are decided.

    Endpoints come and go without changing it.
    """

    created: str
    name: ObjectName
    origin: str
    portals: tuple[PortalPlan, ...]
    cluster_ips: tuple[IPAddress, ...]

    def problem(self, field: str, message: str) -> Problem:
        return Problem(self.origin, f"Service {self.name}", field, message)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one Service asks for, before it meets the others."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    claims: Claims
    frontends: Mapping[FrontendKey, FrontendPlan]
    problems: tuple[Problem, ...]

    def refused_endpoints(self, refused: Sequence[tuple[SocketAddress, str]]) -> Iterator[Problem]:
        """Complaints about endpoints, with why they are refused."""
        for address, reason in refused[:MAX_PROBLEMS]:
            yield self._endpoint_problem(address, reason)
        if len(refused) > MAX_PROBLEMS:
            message = f"{len(refused) - MAX_PROBLEMS} more endpoints are refused"
            yield Problem(self.service.origin, f"Service {self.service.name}", "", message)

    def _endpoint_problem(self, refused: SocketAddress, reason: str) -> Problem:
        """A complaint about an endpoint, naming the slice that has it."""
        for piece in self.slices:
            for index, endpoint in enumerate(piece.endpoints):
                if endpoint.address == refused.address:
                    field = f"endpoints[{index}].addresses[0]"
                    message = f"endpoint {refused} is refused: {reason}"
                    return Problem(piece.origin, f"EndpointSlice {piece.name}", field, message)
        raise LookupError(f"{refused} is in no slice of {self.service.name}")


def counts(service: Service) -> bool:
    """False for those that are left to others, or need no proxy: ExternalName, headless, a foreign proxy's."""
    return service.type is not ServiceType.EXTERNAL_NAME and bool(service.cluster_ips) and not service.foreign_proxy


def plan_service(
    service: Service,
    slices: tuple[EndpointSlice, ...],
    *,
    node_name: str,
    families: Iterable[Family],
    external_ips_allowed: bool,
) -> ServicePlan:
    """Plan each IP family on its own; a family that the Service or this node lacks is left out."""
    frontends: dict[FrontendKey, FrontendPlan] = {}
    portals: list[PortalPlan] = []
    reserved: list[tuple[str, str]] = []
    own_families = [family for family in families if any(ip.version == family for ip in service.cluster_ips)]
    for index, port in enumerate(service.ports):
        if port.protocol is not Protocol.TCP:
            continue
        name = ServicePortName(service.name.namespace, service.name.name, port.name, port.protocol)
        for family in own_families:
            usable = usable_endpoints(slices, port.name, protocol=port.protocol, family=family, node_name=node_name)
            for portal, policy, field in _portals(service, port, index, family, external_ips_allowed):
                if isinstance(portal, Portal) and (kind := reserved_kind(portal.address)):
                    reserved.append((field, f"{portal.address} is {kind}: it is not served"))
                    continue
                key = FrontendKey(name, family, _endpoint_set(policy))
                if key not in frontends:
                    frontends[key] = _frontend(usable, policy, service.affinity_timeout_s)
                portals.append(PortalPlan(portal, key, field))
    cluster_ips = tuple(ip for ip in service.cluster_ips if family_of(ip) in own_families and not reserved_kind(ip))
    claims = Claims(service.created, service.name, service.origin, tuple(portals), cluster_ips)
    problems = [claims.problem(*one) for one in reserved]
    problems += [claims.problem(*one)._replace(is_limit=True) for one in _unsupported(service)]
    return ServicePlan(service, slices, claims, frontends, (*problems, *_reserved_endpoints(slices)))


def _endpoint_set(policy: TrafficPolicy) -> EndpointSet:
    return EndpointSet.LOCAL if policy is TrafficPolicy.LOCAL else EndpointSet.CLUSTER


def _frontend(usable: Usable, policy: TrafficPolicy, affinity_timeout_s: int | None) -> FrontendPlan:
    backends, when_empty = usable.cluster, Verdict.REFUSE
    if policy is TrafficPolicy.LOCAL:
        # none here but some elsewhere: the client may try another node, so it must not be told that the service is gone
        backends, when_empty = usable.local, Verdict.DROP if usable.cluster else Verdict.REFUSE
    return FrontendPlan(backends, frozenset(backends), when_empty, affinity_timeout_s)


def _portals(
    service: Service, port: ServicePort, index: int, family: Family, external_ips_allowed: bool
) -> Iterator[tuple[Portal | NodePort, TrafficPolicy, str]]:
    internal, external = service.internal_policy, service.external_policy
    for ip in _of(family, service.cluster_ips):
        yield Portal(ip, port.protocol, port.port), internal, "spec.clusterIPs"
    if external_ips_allowed:
        for ip in _of(family, service.external_ips):
            yield Portal(ip, port.protocol, port.port), external, "spec.externalIPs"
    if not service.load_balancer_source_ranges:
        for ip in _of(family, service.load_balancer_ips):
            yield Portal(ip, port.protocol, port.port), external, "status.loadBalancer.ingress"
    if port.node_port:
        yield NodePort(family, port.protocol, port.node_port), external, f"spec.ports[{index}].nodePort"


def _of(family: Family, addresses: Iterable[IPAddress]) -> Iterator[IPAddress]:
    return (address for address in addresses if address.version == family)


def _unsupported(service: Service) -> Iterator[tuple[str, str]]:
    """(field, message)."""
    for index, port in enumerate(service.ports):
        if port.protocol is not Protocol.TCP:
            yield f"spec.ports[{index}].protocol", f"{port.protocol} is not forwarded yet: port {port.port} is left out"
    # an unguarded address would be worse than none
    if service.load_balancer_source_ranges and service.load_balancer_ips:
        message = "source ranges are not supported yet: the load-balancer addresses are left out"
        yield "spec.loadBalancerSourceRanges", message


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
