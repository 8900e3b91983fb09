"""This node as the plan needs to know it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kpf.model.names import Family, Forwarding, IPAddress, IPNetwork, SocketAddress
from kpf.model.rules import OwnPods


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the plan needs to know of this node.

    `proxy_addresses`: the one local address of each served family that portals are sent to.
    `own_addresses`: those of them that kpf itself has put on `lo`: nobody else's business.
    `wildcard`: families whose proxy ports listen on every local address.
    `local_addresses`: every address of this node but `own_addresses`.
    `own_listeners`: where kpf serves something else than Services (health, metrics); may be the unspecified address.
    `zone`: its label topology.kubernetes.io/zone, "" if it is not known. `forwarding`: how TCP is carried where the
    Service does not say, None for what suits it. `has_sctp`: the kernel can track SCTP. `worker_uid`: by which the
    workers' own dials are known and left alone, None where nothing tells them from others. `pod_networks`: whose
    addresses are this node's pods', as its Node says.
    """

    name: str
    proxy_addresses: Mapping[Family, IPAddress]
    own_addresses: frozenset[IPAddress] = frozenset()
    wildcard: frozenset[Family] = frozenset()
    local_addresses: frozenset[IPAddress] = frozenset()
    node_port_networks: tuple[IPNetwork, ...] = ()
    external_ips_allowed: bool = True
    own_listeners: tuple[SocketAddress, ...] = ()
    zone: str = ""
    forwarding: Forwarding | None = None
    has_sctp: bool = False
    own_pods: OwnPods = field(default_factory=OwnPods)
    masquerade_all: bool = False
    masquerade_bridged: bool = False
    service_cidrs: tuple[IPNetwork, ...] = ()
    worker_uid: int | None = None
    pod_networks: tuple[IPNetwork, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that are served, in a fixed order."""
        return tuple(sorted(self.proxy_addresses))

    @property
    def read_by_service_plans(self) -> tuple[object, ...]:
        """All that a Service's plan depends on beside its own objects: as long as it is equal, plans stay."""
        return (
            self.name,
            self.zone,
            self.families,
            self.external_ips_allowed,
            self.forwarding,
            self.has_sctp,
            self.pod_networks,
        )

    def listening_addresses(self) -> Mapping[Family, IPAddress]:
        """Where proxy ports of each served family listen: one address, or the unspecified one."""
        return {
            family: type(address)(0) if family in self.wildcard else address
            for family, address in self.proxy_addresses.items()
        }

    def everywhere(self, places: Iterable[SocketAddress]) -> Iterator[SocketAddress]:
        """Who listens on the unspecified address listens on every local one of the family."""
        for at in places:
            if not at.address.is_unspecified:
                yield at
                continue
            for address in self.local_addresses:
                if address.version == at.address.version:
                    yield SocketAddress(address, at.port)
