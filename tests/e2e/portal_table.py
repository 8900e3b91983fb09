"""The Services of the table of every portal: one for each combination of policies, endpoints and forwarding.

And where each cell of the table is dialled. Load-balancer addresses with source ranges are those of Services of their
own, as ranges are a Service's.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from kpf.lab.cluster import NODE_ADDRESSES, SECOND_NODE_ADDRESSES
from kpf.lab.crowd import Address
from kpf.lab.datagrams import Dial
from kpf.lab.manifests import Object, endpoint_slice, service, with_ingress
from tests.e2e.semantics import ELSEWHERE, Cell, Endpoints, Forwarding, Kind, Policy

POD_PORT = 8080
PORT, UNUSED_PORT = 80, 81
FIRST_NODE_PORT = 30100
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
LOOPBACK = ("127.0.0.1", "::1")
# spaces are forgiven
INSIDE = ("192.168.0.0/16 ", " 10.244.0.0/16", "fd00::/16")
# addresses that the outside host might have, and has not
OUTSIDE = ("192.168.50.128/25", "10.244.1.64/26", "fd00:192:168:50:8000::/65")
RANGES: Mapping[Kind, Sequence[str]] = {Kind.BALANCER: (), Kind.BALANCER_INSIDE: INSIDE, Kind.BALANCER_OUTSIDE: OUTSIDE}

Combination = tuple[Kind, Policy, Policy, Endpoints, Forwarding]
_NUMBERS: Mapping[Combination, int] = {
    one: number for number, one in enumerate(product(RANGES, Policy, Policy, Endpoints, Forwarding), 1)
}


def service_of(cell: Cell) -> str:
    """The name of the cell's Service."""
    return f"table-{_number(cell)}"


def _number(cell: Cell) -> int:
    kind = cell.kind if cell.kind in RANGES else Kind.BALANCER
    return _NUMBERS[kind, cell.internal, cell.external, cell.endpoints, cell.forwarding]


def _cluster_ips(number: int) -> tuple[str, str]:
    return f"10.96.1.{number}", f"fd00:96::1{number:02x}"


def _external_ips(number: int) -> tuple[str, str]:
    return f"203.0.113.{number}", f"2001:db8:1::{number:x}"


def _balancer_ips(number: int) -> tuple[str, str]:
    return f"198.51.100.{number}", f"2001:db8:2::{number:x}"


def dial_of(cell: Cell) -> Dial:
    """Where the cell is dialled."""
    return Dial("UDP" if cell.forwarding is Forwarding.UDP else "TCP", _target(cell))


def _target(cell: Cell) -> Address:
    number, six = _number(cell), cell.family == 6
    if cell.kind in RANGES:
        return _balancer_ips(number)[six], PORT
    if cell.kind is Kind.CLUSTER_IP:
        return _cluster_ips(number)[six], PORT
    if cell.kind is Kind.UNUSED_PORT:
        return _cluster_ips(number)[six], UNUSED_PORT
    if cell.kind is Kind.EXTERNAL_IP:
        return _external_ips(number)[six], PORT
    address = {
        Kind.NODE_PORT: NODE_ADDRESSES,
        Kind.SECOND_NODE_PORT: SECOND_NODE_ADDRESSES,
        Kind.LOOPBACK: LOOPBACK,
    }[cell.kind][six]
    return address, FIRST_NODE_PORT + number


def manifest(servers: Mapping[str, tuple[str, str]], nodes: Mapping[str, str]) -> str:
    """All Services, as JSON. `servers`: the addresses of each; `nodes`: where it is."""
    items = [item for one, number in _NUMBERS.items() for item in _objects(one, number, servers, nodes)]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _objects(
    one: Combination, number: int, servers: Mapping[str, tuple[str, str]], nodes: Mapping[str, str]
) -> Iterator[Object]:
    kind, internal, external, endpoints, forwarding = one
    protocol = "UDP" if forwarding is Forwarding.UDP else "TCP"
    name, port = f"table-{number}", {"port": PORT, "protocol": protocol}
    if kind is Kind.BALANCER:
        port["nodePort"] = FIRST_NODE_PORT + number
    yield with_ingress(
        service(
            name,
            cluster_ips=_cluster_ips(number),
            annotations={"kpf.io/forwarding": "direct"} if forwarding is Forwarding.DIRECT_TCP else {},
            type="LoadBalancer",
            ipFamilyPolicy="RequireDualStack",
            ipFamilies=["IPv4", "IPv6"],
            externalIPs=list(_external_ips(number)),
            internalTrafficPolicy=internal,
            externalTrafficPolicy=external,
            allocateLoadBalancerNodePorts=kind is Kind.BALANCER,
            loadBalancerSourceRanges=list(RANGES[kind]),
            ports=[port],
        ),
        *_balancer_ips(number),
    )
    for server, addresses in servers.items():
        if endpoints is Endpoints.BOTH or (endpoints is Endpoints.ELSEWHERE and server in ELSEWHERE):
            for family, address in zip(("v4", "v6"), addresses, strict=True):
                yield endpoint_slice(
                    name,
                    [address],
                    port=POD_PORT,
                    suffix=f"{server}-{family}",
                    node_name=nodes[server],
                    protocol=protocol,
                )
