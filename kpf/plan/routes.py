"""Which portals a port of a Service has, and where each of them leads: pure functions of Service and policies."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpf.model.names import (
    EndpointSet,
    Family,
    Forwarding,
    FrontendKey,
    IPAddress,
    IPNetwork,
    Protocol,
    ServicePortName,
)
from kpf.model.rules import Masquerade, NodePort, Portal
from kpf.model.service import Service, ServicePort, TrafficPolicy
from kpf.plan.frontends import PortalPlan

FORWARDING = "kpf.io/forwarding"


def asked_forwarding(service: Service) -> Forwarding | None:
    """What the Service's annotation asks for, None if it asks for nothing. Raises ValueError if it makes no sense."""
    asked = dict(service.annotations).get(FORWARDING)
    return None if asked is None else Forwarding(asked)


class Ways(NamedTuple):
    """The frontends that a port of one family may have; `forwarding` is None where kpf is to choose.

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

    def from_far(self) -> FrontendKey:
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
    service: Service, port: ServicePort, index: int, ways: Ways, *, external_ips_allowed: bool
) -> Iterator[PortalPlan]:
    """ClusterIPs, external IPs, the load balancer's, the node port. `index` is the port's place in the Service."""
    family, protocol = ways.family, port.protocol
    for ip in _of(family, service.cluster_ips):
        yield _internal(Portal(ip, protocol, port.port), "spec.clusterIPs", service.internal_policy, ways)
    balanced = dict.fromkeys(_of(family, service.load_balancer_ips))
    if external_ips_allowed:
        for ip in dict.fromkeys(_of(family, service.external_ips)):
            # an address that the load balancer has too is guarded
            if ip not in balanced:
                yield _external(Portal(ip, protocol, port.port), "spec.externalIPs", service.external_policy, ways)
    sources = guard(service.load_balancer_source_ranges, family)
    for ip in balanced:
        portal = Portal(ip, protocol, port.port)
        plan = _external(portal, "status.loadBalancer.ingress", service.external_policy, ways)
        yield plan._replace(sources=sources)
    if port.node_port:
        node_port = NodePort(family, protocol, port.node_port)
        plan = _external(node_port, f"spec.ports[{index}].nodePort", service.external_policy, ways)
        yield plan._replace(loopback=ways.from_loopback())


def _of(family: Family, addresses: Iterable[IPAddress]) -> Iterator[IPAddress]:
    return (address for address in addresses if address.version == family)


def guard(ranges: Iterable[IPNetwork], family: Family) -> tuple[IPNetwork, ...]:
    """Who alone may come, none for anybody. A family that no range is of is not guarded, as with kube-proxy."""
    own = tuple(one for one in ranges if one.version == family)
    return () if any(one.prefixlen == 0 for one in own) else own


def _internal(portal: Portal, field: str, policy: TrafficPolicy, ways: Ways) -> PortalPlan:
    endpoints = EndpointSet.LOCAL if policy is TrafficPolicy.LOCAL else EndpointSet.CLUSTER
    return PortalPlan(portal, field, ways.to(endpoints), masquerade=Masquerade.FOREIGN, is_cluster_ip=True)


def _external(portal: Portal | NodePort, field: str, policy: TrafficPolicy, ways: Ways) -> PortalPlan:
    if policy is TrafficPolicy.CLUSTER:
        return PortalPlan(portal, field, ways.to(EndpointSet.CLUSTER), masquerade=Masquerade.ALWAYS)
    return PortalPlan(portal, field, ways.to(EndpointSet.CLUSTER), far=ways.from_far(), masquerade=Masquerade.FOREIGN)
