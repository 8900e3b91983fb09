"""Which endpoints of a ServicePort take connections, cluster-wide and on this node.

Behaviour as in kube-proxy's `CategorizeEndpoints` and `endpointslicecache.go` (Kubernetes 1.36, pkg/proxy).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import Family, IPAddress, Protocol, SocketAddress

Backends = tuple[SocketAddress, ...]


class Usable(NamedTuple):
    """Usable endpoints in stored order (by address, then port, as numbers): of the whole cluster, and of this node."""

    cluster: Backends
    local: Backends


def usable_endpoints(
    slices: Iterable[EndpointSlice], port_name: str, *, protocol: Protocol, family: Family, node_name: str
) -> Usable:
    """Decide each set on its own: the ready ones, or without any those that serve while they terminate.

    Endpoints that may not be dialled are none.
    """
    known: dict[SocketAddress, Endpoint] = {}
    for address, endpoint in _endpoints_of(slices, port_name, protocol, family):
        # a terminating duplicate never hides another one; the rest: the last seen counts
        if address not in known or not endpoint.terminating:
            known[address] = endpoint
    ordered = sorted(known.items())
    return Usable(
        cluster=_choose(ordered),
        local=_choose([item for item in ordered if item[1].node_name == node_name]),
    )


def _endpoints_of(
    slices: Iterable[EndpointSlice], port_name: str, protocol: Protocol, family: Family
) -> Iterator[tuple[SocketAddress, Endpoint]]:
    for piece in slices:
        if piece.family is not family:
            continue
        for port in piece.ports:
            if port.name == port_name and port.protocol is protocol and port.port:
                for endpoint in piece.endpoints:
                    if not reserved_kind(endpoint.address):
                        yield SocketAddress(endpoint.address, port.port), endpoint


def _choose(endpoints: list[tuple[SocketAddress, Endpoint]]) -> Backends:
    ready = tuple(address for address, endpoint in endpoints if endpoint.ready)
    if ready:
        return ready
    return tuple(address for address, endpoint in endpoints if endpoint.serving and endpoint.terminating)


def reserved_kind(address: IPAddress) -> str:
    """Why a Service may neither have nor dial this address: it would be a way into the node. Empty if it may."""
    if address.version == 6 and address.ipv4_mapped is not None:
        return "an IPv4-mapped address"
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_link_local, "a link-local address"),
        (address.is_multicast, "a multicast address"),
        (address.version == 4 and int(address) == 0xFFFFFFFF, "the broadcast address"),
    )
    return next((name for holds, name in kinds if holds), "")
