"""The API's objects as they are written: the fields in use, with their types and the values each may have.

Fields that kpf has no use for are passed over; null stands for a field that is not given, as everywhere in the API.
Limits are the API server's own (Kubernetes 1.36, pkg/apis/core/validation and pkg/apis/discovery/validation), but where
kpf can serve what is beyond them. What a mistake costs is in `parts`. Addresses, and rules that concern more than one
field, are in `services`, `slices` and `nodes`.
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field, TypeAdapter, with_config

# pydantic: typing.TypedDict will do from Python 3.12 on
from typing_extensions import TypedDict

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
MAX_INT32 = 2**31 - 1

_STRICT = ConfigDict(strict=True)

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
    timeoutSeconds: Annotated[int, Field(ge=1, le=MAX_INT32)] | None


@with_config(_STRICT)
class SessionAffinityConfig(TypedDict, total=False):
    clientIP: ClientIPConfig | None


@with_config(_STRICT)
class ServiceSpec(TypedDict, total=False):
    type: str | None
    clusterIP: str | None
    clusterIPs: list[str] | None
    ports: list[ServicePort] | None
    externalIPs: list[str] | None
    loadBalancerSourceRanges: list[str] | None
    sessionAffinity: Literal["", "None", "ClientIP"] | None
    sessionAffinityConfig: SessionAffinityConfig | None
    internalTrafficPolicy: Literal["Cluster", "Local"] | None
    externalTrafficPolicy: Literal["", "Cluster", "Local"] | None
    healthCheckNodePort: PortOrNone | None


@with_config(_STRICT)
class Ingress(TypedDict, total=False):
    ip: str | None
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
class ZoneHint(TypedDict, total=False):
    name: str | None


@with_config(_STRICT)
class NodeHint(TypedDict, total=False):
    name: Required[str]


@with_config(_STRICT)
class Hints(TypedDict, total=False):
    forZones: list[ZoneHint] | None
    forNodes: list[NodeHint] | None


@with_config(_STRICT)
class Endpoint(TypedDict, total=False):
    addresses: Required[list[str]]
    conditions: Conditions | None
    nodeName: str | None
    hints: Hints | None


@with_config(_STRICT)
class EndpointSlice(TypedDict, total=False):
    metadata: Required[Metadata]
    addressType: Required[str]
    ports: list[EndpointPort | None] | None
    endpoints: list[Endpoint] | None


@with_config(_STRICT)
class NodeAddress(TypedDict, total=False):
    type: str | None
    address: str | None


@with_config(_STRICT)
class Taint(TypedDict, total=False):
    key: Required[str]


@with_config(_STRICT)
class NodeSpec(TypedDict, total=False):
    podCIDR: str | None
    podCIDRs: list[str] | None
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
    cidrs: list[str] | None


@with_config(_STRICT)
class ServiceCIDR(TypedDict, total=False):
    metadata: Required[Metadata]
    spec: ServiceCIDRSpec | None


SERVICE = TypeAdapter(Service)
ENDPOINT_SLICE = TypeAdapter(EndpointSlice)
NODE = TypeAdapter(Node)
SERVICE_CIDR = TypeAdapter(ServiceCIDR)
