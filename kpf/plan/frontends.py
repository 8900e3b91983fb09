"""One Service on its own: its frontends, and the portals that lead to them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol, ServicePortName, SocketAddress, family_of
from kpf.model.rules import NodePort, Portal, Verdict
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Problem
from kpf.plan.policy import Backends, Usable, reserved_kind, usable_endpoints


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
    """`members` are the endpoints as a set. `affinity_timeout_s` is None without session affinity."""

    endpoints: Backends
    members: frozenset[SocketAddress]
    affinity_timeout_s: int | None


class PortalPlan(NamedTuple):
    """A portal, the field that asks for it, and what becomes of its connections while the frontend has no endpoint."""

    portal: Portal | NodePort
    frontend: FrontendKey
    when_empty: Verdict
    field: str


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one Service asks for, before it meets the others."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    frontends: Mapping[FrontendKey, FrontendPlan]
    portals: tuple[PortalPlan, ...]
    cluster_ips: tuple[IPAddress, ...]
    problems: tuple[Problem, ...]

    def problem(self, field: str, message: str) -> Problem:
        return Problem(self.service.origin, f"Service {self.service.name}", field, message)

    def endpoint_problem(self, refused: SocketAddress, reason: str) -> Problem:
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
                key, backends, when_empty = _target(name, family, policy, usable)
                if key not in frontends:
                    frontends[key] = _frontend(backends, service)
                portals.append(PortalPlan(portal, key, when_empty, field))
    cluster_ips = tuple(ip for ip in service.cluster_ips if family_of(ip) in own_families and not reserved_kind(ip))
    plan = ServicePlan(service, slices, frontends, tuple(portals), cluster_ips, ())
    problems = (plan.problem(field, message) for field, message in reserved)
    return replace(plan, problems=(*problems, *_unsupported(plan), *_reserved_endpoints(plan)))


def _frontend(backends: Backends, service: Service) -> FrontendPlan:
    return FrontendPlan(backends, frozenset(backends), service.affinity_timeout_s)


def _target(
    name: ServicePortName, family: Family, policy: TrafficPolicy, usable: Usable
) -> tuple[FrontendKey, Backends, Verdict]:
    if policy is TrafficPolicy.CLUSTER:
        return FrontendKey(name, family, EndpointSet.CLUSTER), usable.cluster, Verdict.REFUSE
    # none here but some elsewhere: the client may try another node, so it must not be told that the service is gone
    when_empty = Verdict.DROP if usable.cluster else Verdict.REFUSE
    return FrontendKey(name, family, EndpointSet.LOCAL), usable.local, when_empty


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


def _unsupported(plan: ServicePlan) -> Iterator[Problem]:
    service = plan.service
    for index, port in enumerate(service.ports):
        if port.protocol is not Protocol.TCP:
            message = f"{port.protocol} is not forwarded yet: port {port.port} is left out"
            yield plan.problem(f"spec.ports[{index}].protocol", message)
    # an unguarded address would be worse than none
    if service.load_balancer_source_ranges and service.load_balancer_ips:
        message = "source ranges are not supported yet: the load-balancer addresses are left out"
        yield plan.problem("spec.loadBalancerSourceRanges", message)


def _reserved_endpoints(plan: ServicePlan) -> Iterator[Problem]:
    for piece in plan.slices:
        for index, endpoint in enumerate(piece.endpoints):
            if kind := reserved_kind(endpoint.address):
                field, message = f"endpoints[{index}].addresses[0]", f"{endpoint.address} is {kind}: it is not dialled"
                yield Problem(piece.origin, f"EndpointSlice {piece.name}", field, message)


def order_of_age(plan: ServicePlan) -> tuple[str, ObjectName]:
    """Sort key: of two that claim one portal, the older one has it."""
    return plan.service.created, plan.service.name
