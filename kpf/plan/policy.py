"""Which endpoints of a ServicePort take connections, cluster-wide and on this node.

Behaviour as in kube-proxy's `CategorizeEndpoints` and `endpointslicecache.go` (Kubernetes 1.36, pkg/proxy).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import NamedTuple

from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import Family, IPAddress, Protocol, SocketAddress

Backends = tuple[SocketAddress, ...]

# in the order of addresses
_RESERVED_IPV4 = {
    "0.0.0.0/32": "the unspecified address",
    "127.0.0.0/8": "a loopback address",
    "169.254.0.0/16": "a link-local address",
    "224.0.0.0/4": "a multicast address",
    "255.255.255.255/32": "the broadcast address",
}
_RESERVED_IPV6 = {
    "::/128": "the unspecified address",
    "::1/128": "a loopback address",
    "::ffff:0:0/96": "an IPv4-mapped address",
    "fe80::/10": "a link-local address",
    "ff00::/8": "a multicast address",
}


class _Ranges:
    """Ranges of addresses as numbers: `lasts[i]` is the last one of the range that begins with `firsts[i]`."""

    def __init__(self, reserved: Mapping[str, str]) -> None:
        networks = list(map(ip_network, reserved))
        self.firsts = [int(network.network_address) for network in networks]
        self.lasts = [int(network.broadcast_address) for network in networks]
        self.kinds = list(reserved.values())


_IPV4, _IPV6 = _Ranges(_RESERVED_IPV4), _Ranges(_RESERVED_IPV6)


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
        # to hash an address costs more than all else here: so once, unless it is a duplicate
        held = known.setdefault(address, endpoint)
        # a terminating duplicate never hides another one; the rest: the last seen counts
        if held is not endpoint and not endpoint.terminating:
            known[address] = endpoint
    ordered = sorted(known.items(), key=_as_numbers)
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


def _as_numbers(item: tuple[SocketAddress, Endpoint]) -> tuple[int, int]:
    (address, port), _ = item
    return int(address), port


def _choose(endpoints: list[tuple[SocketAddress, Endpoint]]) -> Backends:
    ready = tuple(address for address, endpoint in endpoints if endpoint.ready)
    if ready:
        return ready
    return tuple(address for address, endpoint in endpoints if endpoint.serving and endpoint.terminating)


def reserved_kind(address: IPAddress) -> str:
    """Why a Service may neither have nor dial this address: it would be a way into the node. Empty if it may."""
    ranges, number = _IPV6 if address.version == 6 else _IPV4, int(address)
    place = bisect_left(ranges.lasts, number)
    return ranges.kinds[place] if place < len(ranges.kinds) and ranges.firsts[place] <= number else ""
