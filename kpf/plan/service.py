"""One Service on its own: from its objects to its plan."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import (
    EndpointSet,
    Family,
    Forwarding,
    FrontendKey,
    IPAddress,
    IPNetwork,
    Protocol,
    ServicePortName,
    SocketAddress,
    family_of,
)
from kpf.model.rules import NodePort, Verdict
from kpf.model.service import Service, ServicePort, ServiceType
from kpf.model.snapshot import Problem
from kpf.plan.frontends import MAX_PROBLEMS, Claims, FrontendPlan, PortalPlan, ServicePlan
from kpf.plan.health import health_check
from kpf.plan.node import NodeFacts
from kpf.plan.policy import Backends, Usable, flows_kept, local_addresses, reserved_kind, usable_endpoints
from kpf.plan.routes import FORWARDING, Ways, asked_forwarding, portals

Slices = tuple[EndpointSlice, ...]


class Basis(NamedTuple):
    """What a Service's plan depends on beside its own objects. `forwarding`: None where kpf is to choose."""

    node_name: str
    zone: str
    families: tuple[Family, ...]
    external_ips_allowed: bool
    forwarding: Forwarding | None
    has_sctp: bool
    pod_networks: tuple[IPNetwork, ...]


def basis_of(facts: NodeFacts) -> Basis:
    """Compared with the one before: if they are equal, plans of unchanged Services still hold."""
    return Basis(
        node_name=facts.name,
        zone=facts.zone,
        families=tuple(sorted(facts.proxy_addresses)),
        external_ips_allowed=facts.external_ips_allowed,
        forwarding=facts.forwarding,
        has_sctp=facts.has_sctp,
        pod_networks=facts.pod_networks,
    )


def counts(service: Service) -> bool:
    """False for those that are left to others, or need no proxy: ExternalName, headless, a foreign proxy's."""
    return service.type is not ServiceType.EXTERNAL_NAME and bool(service.cluster_ips) and not service.foreign_proxy


def plan_service(service: Service, slices: Slices, basis: Basis) -> ServicePlan:
    """Plan each IP family on its own; a family that the Service or this node lacks is left out."""
    frontends: dict[FrontendKey, FrontendPlan] = {}
    claimed: list[PortalPlan] = []
    refused: list[tuple[str, str]] = []
    families = [family for family in basis.families if any(ip.version == family for ip in service.cluster_ips)]
    forwarding, complaints = _forwarding(service, basis)
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.SCTP and not basis.has_sctp:
            continue
        for family in families:
            ways = Ways(_name(service, port), family, forwarding)
            found = _Endpoints(service, slices, ways, basis)
            for plan in portals(service, port, index, ways, external_ips_allowed=basis.external_ips_allowed):
                if complaint := _refusal(plan, basis):
                    refused.append((plan.field, complaint))
                    continue
                for key in plan.frontends:
                    if key not in frontends:
                        frontends[key] = found.frontend(key)
                claimed.append(plan)
    cluster_ips = tuple(ip for ip in service.cluster_ips if family_of(ip) in families and not reserved_kind(ip))
    checked = health_check(service, slices, basis.node_name)
    check_port = service.health_check_node_port if checked else 0
    claims = Claims(service.created, service.name, service.origin, tuple(claimed), cluster_ips, check_port)
    problems = [claims.problem(*one) for one in (*refused, *complaints)]
    problems += [claims.problem(*one)._replace(is_limit=True) for one in _unsupported(service, basis)]
    return ServicePlan(service, slices, claims, frontends, (*problems, *_reserved_endpoints(slices)), checked)


def _refusal(plan: PortalPlan, basis: Basis) -> str:
    """Why a portal is not served; empty if it is."""
    portal = plan.portal
    if isinstance(portal, NodePort):
        return ""
    kind = reserved_kind(portal.address)
    # what other nodes dial comes here from outside, so whoever claims a pod's address would have its Service's traffic
    if not plan.is_cluster_ip and any(portal.address in network for network in basis.pod_networks):
        kind = "an address of this node's pods"
    return f"{portal.address} is {kind}: it is not served" if kind else ""


def _name(service: Service, port: ServicePort) -> ServicePortName:
    return ServicePortName(service.name.namespace, service.name.name, port.name, port.protocol)


def _forwarding(service: Service, basis: Basis) -> tuple[Forwarding | None, list[tuple[str, str]]]:
    try:
        return asked_forwarding(service) or basis.forwarding, []
    except ValueError:
        message = f"must be {' or '.join(Forwarding)}: it is as if it was not there"
        return basis.forwarding, [(f"metadata.annotations[{FORWARDING}]", message)]


class _Endpoints:
    """The endpoints of one port and family, as each of its frontends has them."""

    def __init__(self, service: Service, slices: Slices, ways: Ways, basis: Basis) -> None:
        self._service, self._slices, self._name, self._family = service, slices, ways.name, ways.family
        self._node_name = basis.node_name
        self._usable: Usable = usable_endpoints(
            slices,
            ways.name.port,
            protocol=ways.name.protocol,
            family=ways.family,
            node_name=basis.node_name,
            zone=basis.zone,
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


def _unsupported(service: Service, basis: Basis) -> Iterator[tuple[str, str]]:
    """(field, message)."""
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.SCTP and not basis.has_sctp:
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
