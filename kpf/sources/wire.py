"""The API's objects as they are written: exactly the fields in use, with their types and the values each may have.

Fields that kpf has no use for are passed over; null stands for a field that is not given, as everywhere in the API.
Limits are the API server's own (Kubernetes 1.36, pkg/apis/core/validation and pkg/apis/discovery/validation).
Rules that concern more than one field are in `decode`.
"""

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, with_config

# pydantic: typing.TypedDict will do from Python 3.12 on
from typing_extensions import TypedDict

from kpf.model.names import IPAddress, IPNetwork

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"

_STRICT = ConfigDict(strict=True)


def ip_of(text: str) -> IPAddress:
    """The address. Raises ValueError for anything but a plain IPv4 or IPv6 address in its usual form."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        address = IPv6Address(text)
    except ValueError:
        raise ValueError("must be an IP address") from None
    if address.scope_id:
        raise ValueError("must be an IP address without a zone")
    if address.ipv4_mapped:
        raise ValueError("must not be an IPv4-mapped IPv6 address")
    return address


def cidr_of(text: str) -> IPNetwork:
    """The network; spaces around it and bits of the host are forgiven, as the API server does. Raises ValueError."""
    address, slash, length = text.strip().partition("/")
    # ip_network would take a bare address and a netmask too
    if slash and length.isascii() and length.isdigit() and len(length) <= 3:
        try:
            return ip_network((str(ip_of(address)), int(length)), strict=False)
        except ValueError:
            pass
    raise ValueError("must be a CIDR, such as 10.0.0.0/8")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


IP = Annotated[IPAddress, PlainValidator(lambda value: ip_of(_text(value)))]
IPOrNone = Annotated[IPAddress | None, PlainValidator(lambda value: ip_of(_text(value)) if value else None)]
CIDR = Annotated[IPNetwork, PlainValidator(lambda value: cidr_of(_text(value)))]
Port = Annotated[int, Field(ge=1, le=65535)]
PortOrNone = Annotated[int, Field(ge=0, le=65535)]  # 0 stands for none
Label = Annotated[str, Field(pattern=DNS_LABEL)]
Subdomain = Annotated[str, Field(pattern=DNS_SUBDOMAIN)]
# where the API has a plain string, the empty one stands for the default
ProtocolText = Literal["", "TCP", "UDP", "SCTP"]


@with_config(_STRICT)
class ServiceMetadata(TypedDict, total=False):
    name: Required[Label]
    namespace: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    labels: dict[str, str | None] | None
    annotations: dict[str, str | None] | None
    creationTimestamp: str | None


@with_config(_STRICT)
class ServicePort(TypedDict, total=False):
    name: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    protocol: ProtocolText | None
    port: Required[Port]
    nodePort: PortOrNone | None


@with_config(_STRICT)
class ClientIPConfig(TypedDict, total=False):
    timeoutSeconds: Annotated[int, Field(ge=1, le=86400)] | None


@with_config(_STRICT)
class SessionAffinityConfig(TypedDict, total=False):
    clientIP: ClientIPConfig | None


@with_config(_STRICT)
class ServiceSpec(TypedDict, total=False):
    type: Literal["", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None
    clusterIP: str | None
    clusterIPs: list[str] | None
    ports: list[ServicePort] | None
    externalIPs: list[IP] | None
    loadBalancerSourceRanges: list[CIDR] | None
    sessionAffinity: Literal["", "None", "ClientIP"] | None
    sessionAffinityConfig: SessionAffinityConfig | None
    internalTrafficPolicy: Literal["Cluster", "Local"] | None
    externalTrafficPolicy: Literal["", "Cluster", "Local"] | None
    healthCheckNodePort: PortOrNone | None


@with_config(_STRICT)
class Ingress(TypedDict, total=False):
    ip: IPOrNone
    ipMode: Literal["VIP", "Proxy"] | None


@with_config(_STRICT)
class LoadBalancer(TypedDict, total=False):
    ingress: list[Ingress] | None


@with_config(_STRICT)
class ServiceStatus(TypedDict, total=False):
    loadBalancer: LoadBalancer | None


@with_config(_STRICT)
class Service(TypedDict, total=False):
    metadata: Required[ServiceMetadata]
    spec: Required[ServiceSpec]
    status: ServiceStatus | None


@with_config(_STRICT)
class Metadata(TypedDict, total=False):
    name: Required[Subdomain]
    namespace: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    labels: dict[str, str | None] | None
    annotations: dict[str, str | None] | None
    deletionTimestamp: str | None


@with_config(_STRICT)
class EndpointPort(TypedDict, total=False):
    name: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    protocol: ProtocolText | None
    port: Port | None


@with_config(_STRICT)
class Conditions(TypedDict, total=False):
    ready: bool | None
    serving: bool | None
    terminating: bool | None


@with_config(_STRICT)
class Hint(TypedDict, total=False):
    name: Required[str]


@with_config(_STRICT)
class Hints(TypedDict, total=False):
    forZones: list[Hint] | None
    forNodes: list[Hint] | None


@with_config(_STRICT)
class Endpoint(TypedDict, total=False):
    addresses: Required[Annotated[list[str], Field(min_length=1, max_length=100)]]
    conditions: Conditions | None
    nodeName: str | None
    hints: Hints | None


@with_config(_STRICT)
class EndpointSlice(TypedDict, total=False):
    metadata: Required[Metadata]
    addressType: Required[Literal["IPv4", "IPv6", "FQDN"]]
    ports: Annotated[list[EndpointPort], Field(max_length=20_000)] | None
    endpoints: Annotated[list[Endpoint], Field(max_length=1000)] | None


@with_config(_STRICT)
class NodeAddress(TypedDict, total=False):
    type: Required[str]
    address: Required[str]


@with_config(_STRICT)
class Taint(TypedDict, total=False):
    key: Required[str]


@with_config(_STRICT)
class NodeSpec(TypedDict, total=False):
    podCIDR: Annotated[IPNetwork | None, PlainValidator(lambda value: cidr_of(_text(value)) if value else None)]
    podCIDRs: list[CIDR] | None
    taints: list[Taint] | None


@with_config(_STRICT)
class NodeStatus(TypedDict, total=False):
    addresses: list[NodeAddress] | None


@with_config(_STRICT)
class Node(TypedDict, total=False):
    metadata: Required[Metadata]
    spec: NodeSpec | None
    status: NodeStatus | None


@with_config(_STRICT)
class ServiceCIDRSpec(TypedDict, total=False):
    cidrs: list[CIDR] | None


@with_config(_STRICT)
class ServiceCIDR(TypedDict, total=False):
    metadata: Required[Metadata]
    spec: ServiceCIDRSpec | None


SERVICE = TypeAdapter(Service)
ENDPOINT_SLICE = TypeAdapter(EndpointSlice)
NODE = TypeAdapter(Node)
SERVICE_CIDR = TypeAdapter(ServiceCIDR)
