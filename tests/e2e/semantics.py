"""What must become of a packet for a Service, by where it comes from and what the Service says: the rules, once more.

Written from what a Service means, in the words of its users, and knowing nothing of how kpf does it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import NamedTuple


class Kind(StrEnum):
    CLUSTER_IP = "clusterIP"
    UNUSED_PORT = "clusterIP, unused port"
    EXTERNAL_IP = "externalIP"
    BALANCER = "LB address"
    BALANCER_INSIDE = "LB address, in range"
    BALANCER_OUTSIDE = "LB address, out of range"
    NODE_PORT = "node address:nodePort"
    SECOND_NODE_PORT = "2nd address:nodePort"
    LOOPBACK = "loopback:nodePort"


class Origin(StrEnum):
    OUTSIDE = "outside"
    REMOTE = "remote"
    ROUTED = "routed"
    BRIDGED = "bridged"
    NODE = "node"


class Policy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class Endpoints(StrEnum):
    BOTH = "here+elsewhere"
    ELSEWHERE = "elsewhere"
    NONE = "none"


class Forwarding(StrEnum):
    """How the port is asked for."""

    TCP = "TCP"
    DIRECT_TCP = "TCP direct"
    UDP = "UDP"


class Cell(NamedTuple):
    origin: Origin
    kind: Kind
    internal: Policy
    external: Policy
    endpoints: Endpoints
    forwarding: Forwarding
    family: int


class Client(StrEnum):
    """The address that a server sees."""

    KEPT = "its own"
    NODE = "the node's"


REFUSED, DROPPED = "refused", "dropped"
# by the server's name: who may answer, and whom that server sees
Expected = Mapping[str, Client] | str

OWN_PODS = frozenset({Origin.ROUTED, Origin.BRIDGED})
# servers, by where they are; an origin that is a server has its name
ELSEWHERE = frozenset({"remote"})


def cells() -> Iterator[Cell]:
    """All combinations."""
    everything = product(Origin, Kind, Policy, Policy, Endpoints, Forwarding, (4, 6))
    return (Cell(*one) for one in everything)


@dataclass(frozen=True)
class Model:
    """`here`: the servers on this node, of which "node" is one of the node's own processes; `elsewhere`: the others.

    Whether an endpoint's address and port is also somebody's portal makes no difference.
    """

    here: frozenset[str]
    elsewhere: frozenset[str] = ELSEWHERE

    def expected(self, cell: Cell) -> Expected:
        if cell.kind is Kind.LOOPBACK and (cell.origin is not Origin.NODE or cell.forwarding is Forwarding.UDP):
            # the loopback address of somebody else's machine; and UDP is not forwarded from there
            return REFUSED
        if cell.kind is Kind.UNUSED_PORT:
            return REFUSED
        if cell.kind is Kind.BALANCER_OUTSIDE:
            return DROPPED
        servers = self.servers(cell)
        if servers:
            return {server: _client(cell, server) for server in servers}
        return DROPPED if self._everywhere(cell) else REFUSED

    def servers(self, cell: Cell) -> frozenset[str]:
        """Who may answer."""
        everywhere = self._everywhere(cell)
        if _policy(cell) is Policy.CLUSTER:
            return everywhere
        # whoever is on this node has no other node to try
        if _is_external(cell) and (cell.origin in OWN_PODS or cell.origin is Origin.NODE):
            return everywhere
        return everywhere & self.here

    def _everywhere(self, cell: Cell) -> frozenset[str]:
        if cell.endpoints is Endpoints.NONE:
            return frozenset()
        return self.elsewhere if cell.endpoints is Endpoints.ELSEWHERE else self.elsewhere | self.here


def _is_external(cell: Cell) -> bool:
    return cell.kind is not Kind.CLUSTER_IP


def _policy(cell: Cell) -> Policy:
    return cell.external if _is_external(cell) else cell.internal


def _client(cell: Cell, server: str) -> Client:
    if cell.origin is Origin.NODE or not _is_direct(cell):
        return Client.NODE
    if server == "node":
        # nothing is masqueraded on its way to the node's own processes
        return Client.KEPT
    if server == cell.origin:
        # it would not take an answer from itself
        return Client.NODE
    if _is_external(cell):
        return Client.KEPT if cell.external is Policy.LOCAL else Client.NODE
    return Client.KEPT if cell.origin in OWN_PODS else Client.NODE


def _is_direct(cell: Cell) -> bool:
    if cell.forwarding is not Forwarding.TCP:
        return True
    off_node = cell.origin in (Origin.OUTSIDE, Origin.REMOTE)
    return off_node and _is_external(cell) and cell.external is Policy.LOCAL
