"""Stage 1, of one port and family: which portals it asks for, and where each of them is to lead."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpf.model.names import (
    EndpointSet,
    Family,
    Forwarding,
    FrontendKey,
    IPAddress,
    IPNetwork,
    ObjectName,
    Protocol,
    ServicePortName,
)
from kpf.model.rules import Masquerade, NodePort, Portal
from kpf.model.service import Service, ServicePort, TrafficPolicy

FORWARDING = "kpf.io/forwarding"
# all that a Service may ask of kpf
ANNOTATIONS = (FORWARDING,)


class PortalClaim(NamedTuple):
    """A portal that a Service asks for, where it is to lead, and the field that asks for it.

    `off_node`: where it leads for connections from elsewhere than this node and its pods, if that is another place.
    `loopback`: where the node port leads that is reached at 127.0.0.1 or ::1, if that is another place.
    `masquerade` is of direct forwarding. `sources`: who alone may come, anybody if there is none. `is_cluster_ip`: it
    is asked for as such, and comes before what is asked for as an external address.
    """

    portal: Portal | NodePort
    field: str
    frontend: FrontendKey
    off_node: FrontendKey | None = None
    loopback: FrontendKey | None = None
    masquerade: Masquerade = Masquerade.NEVER
    sources: tuple[IPNetwork, ...] = ()
    is_cluster_ip: bool = False

    @property
    def service_name(self) -> ObjectName:
        """Whose claim it is."""
        return self.frontend.port.service_name

    @property
    def frontends(self) -> tuple[FrontendKey, ...]:
        """All places where it leads."""
        return tuple(one for one in (self.frontend, self.off_node, self.loopback) if one is not None)


def asked_forwarding(service: Service) -> Forwarding | None:
    """What the Service's annotation asks for, None if it asks for nothing. Raises ValueError if it makes no sense."""
    asked = dict(service.annotations).get(FORWARDING)
    return None if asked is None else Forwarding(asked)


class Routes(NamedTuple):
    """The frontends that a port of one family may lead to; `forwarding` is None where kpf is to choose.

    UDP and SCTP are always forwarded by the kernel. So is TCP from elsewhere under external policy Local, which
    promises the client's address to the endpoints.
    """

    name: ServicePortName
    family: Family
    forwarding: Forwarding | None

    def to(self, endpoints: EndpointSet) -> FrontendKey:
        """Proxied, unless it is asked to be direct, or is not TCP."""
        asked = Forwarding.DIRECT if self.forwarding is Forwarding.DIRECT else Forwarding.PROXIED
        return FrontendKey(self.name, self.family, endpoints, asked if self._is_tcp else Forwarding.DIRECT)

    def from_off_node(self) -> FrontendKey:
        """For connections from elsewhere under external policy Local: direct, unless TCP is asked to be proxied."""
        asked = Forwarding.PROXIED if self.forwarding is Forwarding.PROXIED else Forwarding.DIRECT
        return FrontendKey(self.name, self.family, EndpointSet.LOCAL, asked if self._is_tcp else Forwarding.DIRECT)

    def from_loopback(self) -> FrontendKey | None:
        """For a node port at 127.0.0.1 and ::1, where the kernel cannot; None if it need not, and for all but TCP."""
        if not self._is_tcp or self.to(EndpointSet.CLUSTER).forwarding is Forwarding.PROXIED:
            return None
        return FrontendKey(self.name, self.family, EndpointSet.CLUSTER, Forwarding.PROXIED)

    @property
    def _is_tcp(self) -> bool:
        return self.name.protocol is Protocol.TCP


def portals(
    service: Service, port: ServicePort, index: int, routes: Routes, *, external_ips_allowed: bool
) -> Iterator[PortalClaim]:
    """`index` is the port's place in the Service."""
    family, protocol = routes.family, port.protocol
    for ip in _of(family, service.cluster_ips):
        yield _internal(Portal(ip, protocol, port.port), "spec.clusterIPs", service.internal_policy, routes)
    balanced = dict.fromkeys(_of(family, service.load_balancer_ips))
    if external_ips_allowed:
        for ip in dict.fromkeys(_of(family, service.external_ips)):
            # an address that the load balancer has too has its source ranges
            if ip not in balanced:
                yield _external(Portal(ip, protocol, port.port), "spec.externalIPs", service.external_policy, routes)
    sources = effective_source_ranges(service.load_balancer_source_ranges, family)
    for ip in balanced:
        portal = Portal(ip, protocol, port.port)
        claim = _external(portal, "status.loadBalancer.ingress", service.external_policy, routes)
        yield claim._replace(sources=sources)
    if port.node_port:
        node_port = NodePort(family, protocol, port.node_port)
        claim = _external(node_port, f"spec.ports[{index}].nodePort", service.external_policy, routes)
        yield claim._replace(loopback=routes.from_loopback())


def _of(family: Family, addresses: Iterable[IPAddress]) -> Iterator[IPAddress]:
    return (address for address in addresses if address.version == family)


def effective_source_ranges(ranges: Iterable[IPNetwork], family: Family) -> tuple[IPNetwork, ...]:
    """Who alone may come, none for anybody: also where no range is of the family, as with kube-proxy."""
    own = tuple(one for one in ranges if one.version == family)
    return () if any(one.prefixlen == 0 for one in own) else own


def _internal(portal: Portal, field: str, policy: TrafficPolicy, routes: Routes) -> PortalClaim:
    endpoints = EndpointSet.LOCAL if policy is TrafficPolicy.LOCAL else EndpointSet.CLUSTER
    return PortalClaim(portal, field, routes.to(endpoints), masquerade=Masquerade.FOREIGN, is_cluster_ip=True)


def _external(portal: Portal | NodePort, field: str, policy: TrafficPolicy, routes: Routes) -> PortalClaim:
    if policy is TrafficPolicy.CLUSTER:
        return PortalClaim(portal, field, routes.to(EndpointSet.CLUSTER), masquerade=Masquerade.ALWAYS)
    return PortalClaim(
        portal, field, routes.to(EndpointSet.CLUSTER), off_node=routes.from_off_node(), masquerade=Masquerade.FOREIGN
    )
