"""What the kernel's ruleset must say, in terms of portals: made by the plan, written by `nft`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from kpf.model.names import Family, IPAddress, IPNetwork, Protocol, SocketAddress


class Verdict(StrEnum):
    """What happens to a new connection that no endpoint may take."""

    REFUSE = "refuse"  # TCP reset, else ICMP port unreachable
    DROP = "drop"


class Portal(NamedTuple):
    """An address and port that is captured for a ServicePort."""

    address: IPAddress
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"{SocketAddress(self.address, self.port)}/{self.protocol}"


class NodePort(NamedTuple):
    """A port that is captured on the node's addresses of one family."""

    family: Family
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"node port {self.port}/{self.protocol} ({self.family})"


Action = int | Verdict
"""The proxy port that new connections are sent to (TCP only), or a verdict."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole state of table `inet kpf`.

    `proxy_addresses`: where portals of a family are sent, one local address each.
    `node_port_networks`: NodePorts answer on local addresses inside these; a family that none of them names answers
    on all of its local addresses.
    `cluster_ips`: ClusterIPs in use; a port of theirs that is no portal is refused.
    `listening`: where kpf itself listens; connections that reach it other than through a portal are refused.
    """

    proxy_addresses: Mapping[Family, IPAddress] = field(default_factory=dict)
    node_port_networks: tuple[IPNetwork, ...] = ()
    portals: Mapping[Portal, Action] = field(default_factory=dict)
    node_ports: Mapping[NodePort, Action] = field(default_factory=dict)
    cluster_ips: frozenset[IPAddress] = frozenset()
    listening: frozenset[SocketAddress] = frozenset()

    def dropping(self) -> "Rules":
        """These rules with every portal closed for new connections, which are dropped; established ones go on."""
        return replace(
            self,
            portals=dict.fromkeys(self.portals, Verdict.DROP),
            node_ports=dict.fromkeys(self.node_ports, Verdict.DROP),
        )
