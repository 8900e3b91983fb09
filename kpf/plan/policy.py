"""Stage 1, of endpoints: which ones of a ServicePort take connections and keep their flows, here and cluster-wide.

Behaviour as in kube-proxy's `CategorizeEndpoints`, `endpointslicecache.go` and `conntrack/cleanup.go` (Kubernetes 1.36,
pkg/proxy).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import NamedTuple

from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import Family, IPAddress, Protocol, SocketAddress

Backends = tuple[SocketAddress, ...]
# the endpoints of a slice, and one of its ports
Piece = tuple[tuple[Endpoint, ...], int]
_Item = tuple[SocketAddress, Endpoint]

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
    """Usable endpoints in stored order (by address, then port, as numbers): of the whole cluster, and of this node.

    Hints leave some out of `cluster`, never all: it is empty only if no endpoint anywhere is usable. They concern
    `local` not at all, so that it may have endpoints that `cluster` lacks.
    """

    cluster: Backends
    local: Backends


def usable_endpoints(
    slices: Iterable[EndpointSlice], port_name: str, *, protocol: Protocol, family: Family, node_name: str, zone: str
) -> Usable:
    """Decide each set on its own: the ready ones, or without any those that serve while they terminate.

    Endpoints that may not be dialled are none. `zone`: this node's label topology.kubernetes.io/zone, "" if unknown.
    """
    ordered = sorted(unique_endpoints(pieces_of(slices, port_name, protocol, family)).items(), key=_as_numbers)
    here = [item for item in ordered if item[1].node_name == node_name]
    return Usable(
        cluster=_addresses(_hinted(_ready(ordered), node_name, zone) or _leaving(ordered)),
        local=_addresses(_ready(here) or _leaving(here)),
    )


def flows_kept(
    slices: Iterable[EndpointSlice], port_name: str, *, protocol: Protocol, family: Family, node_name: str | None
) -> frozenset[SocketAddress]:
    """The endpoints whose flows may go on: all that serve or are ready, terminating or not, whatever hints say.

    Of the whole cluster if `node_name` is None, else of that node. Endpoints that may not be dialled are none.
    """
    # publishNotReadyAddresses makes endpoints ready that do not serve: they get new flows, so they keep them
    return frozenset(
        address
        for address, endpoint in unique_endpoints(pieces_of(slices, port_name, protocol, family)).items()
        if (endpoint.serving or endpoint.ready) and node_name in (None, endpoint.node_name)
    )


def local_addresses(slices: Iterable[EndpointSlice], family: Family, node_name: str) -> frozenset[IPAddress]:
    """Addresses of the endpoints that are, or as far as their slices tell may be, on this node.

    Whatever their ports and conditions. Endpoints that may not be dialled are none.
    """
    return frozenset(
        endpoint.address
        for piece in slices
        if piece.family is family
        for endpoint in piece.endpoints
        if endpoint.node_name in ("", node_name) and not reserved_kind(endpoint.address)
    )


def unique_endpoints(pieces: Iterable[Piece]) -> dict[SocketAddress, Endpoint]:
    """Each address and port of one ServicePort and family once.

    A terminating duplicate never hides another one; else the last one counts. Endpoints that may not be dialled are
    none.
    """
    known: dict[SocketAddress, Endpoint] = {}
    for endpoints, port in pieces:
        for endpoint in endpoints:
            if reserved_kind(endpoint.address):
                continue
            address = SocketAddress(endpoint.address, port)
            # to hash an address costs more than all else here: so once, unless it is a duplicate
            held = known.setdefault(address, endpoint)
            if held is not endpoint and not endpoint.terminating:
                known[address] = endpoint
    return known


def pieces_of(slices: Iterable[EndpointSlice], port_name: str, protocol: Protocol, family: Family) -> Iterator[Piece]:
    """What slices of that family have for a port of that name and protocol."""
    for piece in slices:
        if piece.family is family:
            for port in piece.ports:
                if port.name == port_name and port.protocol is protocol and port.port:
                    yield piece.endpoints, port.port


def _as_numbers(item: _Item) -> tuple[int, int]:
    (address, port), _ = item
    return int(address), port


def _ready(endpoints: list[_Item]) -> list[_Item]:
    return [item for item in endpoints if item[1].ready]


def _leaving(endpoints: list[_Item]) -> list[_Item]:
    return [item for item in endpoints if item[1].serving and item[1].terminating]


def _addresses(endpoints: list[_Item]) -> Backends:
    return tuple([address for address, _ in endpoints])


def _hinted(ready: list[_Item], node_name: str, zone: str) -> list[_Item]:
    """Those hinted for this node, or without any those for its zone, or without any all.

    One ready endpoint without hints of a kind makes the others' void: so the first one tells whether to look further.
    """
    if not ready or not (ready[0][1].for_nodes or ready[0][1].for_zones):
        return ready
    if all(endpoint.for_nodes for _, endpoint in ready):
        for_node = [item for item in ready if node_name in item[1].for_nodes]
        if for_node:
            return for_node
    if all(endpoint.for_zones for _, endpoint in ready):
        for_zone = [item for item in ready if zone in item[1].for_zones]
        if for_zone:
            return for_zone
    return ready


def reserved_kind(address: IPAddress) -> str:
    """Why a Service may neither have nor dial this address: it would be a way into the node. Empty if it may."""
    ranges, number = _IPV6 if address.version == 6 else _IPV4, int(address)
    place = bisect_left(ranges.lasts, number)
    return ranges.kinds[place] if place < len(ranges.kinds) and ranges.firsts[place] <= number else ""
