"""Stage 1, of health: what a Service's `healthCheckNodePort` says, and where it is served.

Behaviour as in kube-proxy's `LocalReadyEndpoints` (Kubernetes 1.36, pkg/proxy/endpointschangetracker.go).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from kpf.model.endpoint import EndpointSlice
from kpf.model.health import HealthCheck
from kpf.model.names import Family, IPAddress, IPNetwork, Protocol, family_of
from kpf.model.service import Service, ServiceType, TrafficPolicy
from kpf.plan.policy import Piece, unique_endpoints

_UNSPECIFIED: dict[Family, IPAddress] = {Family.IPV4: IPv4Address(0), Family.IPV6: IPv6Address(0)}


def health_check(service: Service, slices: Iterable[EndpointSlice], node_name: str) -> HealthCheck | None:
    """None if the Service asks for none. `service` is one that counts."""
    asked = service.type is ServiceType.LOAD_BALANCER and service.external_policy is TrafficPolicy.LOCAL
    if not asked or not service.health_check_node_port:
        return None
    return HealthCheck(service.name, local_endpoints(slices, node_name))


def local_endpoints(slices: Iterable[EndpointSlice], node_name: str) -> int:
    """How many addresses on this node, over all ports of the Service, are ready and do not terminate.

    A pod of a dual-stack Service has an address of each family and is one endpoint: so the families are counted apart
    and the larger number counts. Their sum would say two of each pod, and give a node with single-stack pods half of
    its share. Each of kube-proxy's two proxiers counts its own family, too.
    """
    pieces: defaultdict[tuple[str, Protocol, Family], list[Piece]] = defaultdict(list)
    for piece in slices:
        for port in piece.ports:
            if port.port:
                pieces[port.name, port.protocol, piece.family].append((piece.endpoints, port.port))
    here = {
        at.address
        for one in pieces.values()
        for at, endpoint in unique_endpoints(one).items()
        if endpoint.node_name == node_name and endpoint.ready and not endpoint.terminating
    }
    return max(Counter(address.version for address in here).values(), default=0)


def health_check_addresses(
    networks: Sequence[IPNetwork], local_addresses: Iterable[IPAddress]
) -> tuple[IPAddress, ...]:
    """Where health checks listen, in a fixed order: where NodePorts answer (`Rules.node_port_networks`).

    The unspecified address stands for every address of its family.
    """
    found: set[IPAddress] = set()
    # to be bound, those of IPv6 need the interface's name, too
    local = [one for one in local_addresses if not (one.version == 6 and one.is_link_local)]
    for family, unspecified in _UNSPECIFIED.items():
        own = [network for network in networks if family_of(network) is family]
        if not own or any(network.prefixlen == 0 for network in own):
            found.add(unspecified)
            continue
        found.update(one for one in local if any(one in network for network in own))
    return tuple(sorted(found, key=lambda one: (one.version, int(one))))
