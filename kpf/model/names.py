"""Names and addresses."""

from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Family(IntEnum):
    """An IP family; the value is `address.version`."""

    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


def family_of(address: IPAddress | IPNetwork) -> Family:
    """An IPv4-mapped IPv6 address counts as IPv6."""
    return Family.IPV6 if address.version == 6 else Family.IPV4


class Protocol(StrEnum):
    """All that a Service's port may have (`spec.ports[].protocol`, core/v1)."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class ObjectName(NamedTuple):
    """Namespace and name of an object; `namespace` is empty for cluster-wide kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ServicePortName(NamedTuple):
    """The unit of proxying: 53/TCP and 53/UDP of one service are two."""

    namespace: str
    service: str
    port: str
    protocol: Protocol

    @property
    def service_name(self) -> ObjectName:
        """Without port and protocol: what the API's objects are known by."""
        return ObjectName(self.namespace, self.service)

    @property
    def short(self) -> str:
        """Where it stands beside an address that tells the protocol: "shop/web:http"."""
        return f"{self.namespace}/{self.service}" + (f":{self.port}" if self.port else "")

    def __str__(self) -> str:
        return f"{self.short}/{self.protocol}"


class EndpointSet(StrEnum):
    """Which endpoints: those of the whole cluster, or this node's own."""

    CLUSTER = "cluster"
    LOCAL = "local"


class Forwarding(StrEnum):
    """Who carries: the workers, or the kernel alone."""

    PROXIED = "proxied"
    DIRECT = "direct"


class FrontendKey(NamedTuple):
    """What has a round-robin cursor and affinity of its own; if it is proxied, a proxy port, too."""

    port: ServicePortName
    family: Family
    endpoint_set: EndpointSet
    forwarding: Forwarding = Forwarding.PROXIED

    def __str__(self) -> str:
        suffix = "" if self.endpoint_set is EndpointSet.CLUSTER else ", local endpoints"
        return f"{self.port} ({self.family}{suffix})"


class SocketAddress(NamedTuple):
    """An address and a port, 1..65535. Sorts as numbers: 10.0.0.2 before 10.0.0.10 (within one family)."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"
