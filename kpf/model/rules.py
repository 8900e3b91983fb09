"""What the kernel's ruleset must say, in terms of portals: made by the plan, written by `nft`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from kpf.model.names import Family, FrontendKey, IPAddress, IPNetwork, Protocol, SocketAddress, family_of


class Verdict(StrEnum):
    """What happens to a new connection that no endpoint may take."""

    REFUSE = "refuse"  # TCP reset, else ICMP port unreachable
    DROP = "drop"


class Portal(NamedTuple):
    """An address and port that is captured for a ServicePort."""

    address: IPAddress
    protocol: Protocol
    port: int

    @property
    def family(self) -> Family:
        """By its address: a Service may have portals of both."""
        return family_of(self.address)

    def __str__(self) -> str:
        return f"{SocketAddress(self.address, self.port)}/{self.protocol}"


class NodePort(NamedTuple):
    """A port that is captured on the node's addresses of one family."""

    family: Family
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"node port {self.port}/{self.protocol} ({self.family})"


class Masquerade(StrEnum):
    """Whose connections get this node's address as their source, so that the answers come back through it."""

    NEVER = "never"
    FOREIGN = "foreign"  # all but those of this node's pods; if it is not known which they are, its own processes alone
    ALWAYS = "always"


class Direct(NamedTuple):
    """New connections are sent to an endpoint of that frontend by the kernel itself."""

    frontend: FrontendKey
    masquerade: Masquerade


Action = int | Verdict | Direct
"""The proxy port that new connections are sent to (TCP only), a verdict, or the kernel's own forwarding."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A frontend in the kernel: at least one endpoint, and how long session affinity lasts (None without)."""

    endpoints: tuple[SocketAddress, ...]
    affinity_timeout_s: int | None = None


@dataclass(frozen=True, slots=True)
class OwnPods:
    """How connections of this node's pods are known: by their source address, or by the interface they come from.

    `interface` is a name, or what names begin with where `is_prefix`. Nothing of both: it is not known.
    """

    networks: tuple[IPNetwork, ...] = ()
    interface: str = ""
    is_prefix: bool = False

    def are_known(self, family: Family) -> bool:
        """An interface tells for both families, a network for its own."""
        return bool(self.interface) or any(network.version == family for network in self.networks)


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole state of table `inet kpf`.

    `proxy_addresses`: where portals of a family are sent, one local address each.
    `own_addresses`: those of them that kpf itself has put on the node: reached through portals only, at any port.
    `node_port_networks`: NodePorts answer on local addresses inside these; a family that none of them names answers
    on all of its local addresses.
    `off_node`: portals that do something else with connections that come neither from this node's processes nor its
    pods. `loopback`: proxy ports of node ports that are forwarded by the kernel, which cannot do that for 127.0.0.1 and
    ::1. `source_ranges`: portals that only these sources may reach. `forwards`: what `Direct` actions name. `hairpins`:
    endpoints on this node which the kernel forwards to, and how many forwards have each: a connection of one of them to
    itself is masqueraded. `cluster_ips`: ClusterIPs in use; a port of theirs that is no portal is refused.
    `service_cidrs`: what is sent to an address in them that is no ClusterIP in use is dropped. `listening`: where kpf
    itself listens; connections that reach it other than through a portal are refused. `comments`: what `nft list` says
    of portals beside their elements: whose they are. `masquerade_all`: for
    `Masquerade.FOREIGN`, this node's pods are foreign too. `masquerade_bridged`: what is forwarded from port to port of
    a bridge is masqueraded, for the kernel would not see the answers. `worker_uid`: whose dials go where they are sent,
    whatever portal is there; None: nobody's.
    """

    proxy_addresses: Mapping[Family, IPAddress] = field(default_factory=dict)
    own_addresses: frozenset[IPAddress] = frozenset()
    node_port_networks: tuple[IPNetwork, ...] = ()
    portals: Mapping[Portal, Action] = field(default_factory=dict)
    node_ports: Mapping[NodePort, Action] = field(default_factory=dict)
    off_node: Mapping[Portal | NodePort, Action] = field(default_factory=dict)
    loopback: Mapping[NodePort, int] = field(default_factory=dict)
    source_ranges: Mapping[Portal, tuple[IPNetwork, ...]] = field(default_factory=dict)
    forwards: Mapping[FrontendKey, Forward] = field(default_factory=dict)
    hairpins: Mapping[IPAddress, int] = field(default_factory=dict)
    cluster_ips: frozenset[IPAddress] = frozenset()
    service_cidrs: tuple[IPNetwork, ...] = ()
    listening: frozenset[SocketAddress] = frozenset()
    comments: Mapping[Portal | NodePort, str] = field(default_factory=dict)
    own_pods: OwnPods = field(default_factory=OwnPods)
    masquerade_all: bool = False
    masquerade_bridged: bool = False
    worker_uid: int | None = None

    def dropping(self) -> "Rules":
        """These rules with portals closed for new connections, which are dropped; established ones go on.

        What the kernel forwards needs nobody of us, and goes on. Ports that are no portal are not refused any more: a
        packet may meet the old rules before they redirect it, and these where an undefined port would be refused.
        """
        return replace(
            self,
            cluster_ips=frozenset(),
            portals={portal: _closed(action) for portal, action in self.portals.items()},
            node_ports={portal: _closed(action) for portal, action in self.node_ports.items()},
            off_node={portal: _closed(action) for portal, action in self.off_node.items()},
            loopback={},
        )

    def stepping_aside(self) -> "Rules":
        """These rules without anything that concerns new connections: they are somebody else's; established ones go on.

        What kpf itself listens at is still reached by nobody else.
        """
        return replace(
            self,
            portals={},
            node_ports={},
            off_node={},
            loopback={},
            source_ranges={},
            forwards={},
            hairpins={},
            cluster_ips=frozenset(),
            service_cidrs=(),
        )


def _closed(action: Action) -> Action:
    return action if isinstance(action, Direct) else Verdict.DROP
