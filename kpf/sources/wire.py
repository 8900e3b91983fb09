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
    """Of a Service, whose name is a DNS label. `creationTimestamp`: RFC 3339; the older one has a contested portal."""

    name: Required[Label]
    namespace: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    labels: dict[str, str | None] | None
    annotations: dict[str, str | None] | None
    creationTimestamp: str | None


@with_config(_STRICT)
class ServicePort(TypedDict, total=False):
    """`spec.ports[]`; `nodePort` 0: none. The only port may be without a name."""

    name: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    protocol: ProtocolText | None
    port: Required[Port]
    nodePort: PortOrNone | None


@with_config(_STRICT)
class ClientIPConfig(TypedDict, total=False):
    """`timeoutSeconds`: 10800 where it is not given. The API's limit, 86400, is a rule (`services`)."""

    timeoutSeconds: Annotated[int, Field(ge=1, le=MAX_INT32)] | None


@with_config(_STRICT)
class SessionAffinityConfig(TypedDict, total=False):
    """Counts with `sessionAffinity: ClientIP` alone."""

    clientIP: ClientIPConfig | None


@with_config(_STRICT)
class ServiceSpec(TypedDict, total=False):
    """`clusterIP` is the first of `clusterIPs`, and "None" of a headless Service. `type`: any text, see `services`."""

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
    """An address of the load balancer; not captured if `ipMode` is Proxy, for then it answers by itself."""

    ip: str | None
    ipMode: Literal["VIP", "Proxy"] | None


@with_config(_STRICT)
class LoadBalancer(TypedDict, total=False):
    """What the cloud's controller has written; without it a Service of that type has no address of its own outside."""

    ingress: list[Ingress] | None


@with_config(_STRICT)
class ServiceStatus(TypedDict, total=False):
    """Of the whole status, what others than users write."""

    loadBalancer: LoadBalancer | None


@with_config(_STRICT)
class Service(TypedDict, total=False):
    """`v1`: no status means that there is no load balancer, or none yet."""

    metadata: Required[ServiceMetadata]
    spec: Required[ServiceSpec]
    status: ServiceStatus | None


@with_config(_STRICT)
class Metadata(TypedDict, total=False):
    """Of all kinds but Service: a name is a DNS subdomain. `deletionTimestamp` counts with Nodes."""

    name: Required[Subdomain]
    namespace: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    labels: dict[str, str | None] | None
    annotations: dict[str, str | None] | None
    deletionTimestamp: str | None


@with_config(_STRICT)
class EndpointPort(TypedDict, total=False):
    """`ports[]` of a slice, matched by name with a Service's; without a `port` it is ignored."""

    name: Annotated[str, Field(pattern=r"^$|" + DNS_LABEL)] | None
    protocol: ProtocolText | None
    port: Port | None


@with_config(_STRICT)
class Conditions(TypedDict, total=False):
    """Absent or null: ready and serving, not terminating."""

    ready: bool | None
    serving: bool | None
    terminating: bool | None


@with_config(_STRICT)
class ZoneHint(TypedDict, total=False):
    """Consumers in this zone (topology.kubernetes.io/zone) are to use the endpoint."""

    name: str | None


@with_config(_STRICT)
class NodeHint(TypedDict, total=False):
    """Consumers on this node are; before zones, if every ready endpoint has such a hint."""

    name: Required[str]


@with_config(_STRICT)
class Hints(TypedDict, total=False):
    """Those of a kind count only if every ready endpoint has some: kube-proxy's `CategorizeEndpoints`, 1.36."""

    forZones: list[ZoneHint] | None
    forNodes: list[NodeHint] | None


@with_config(_STRICT)
class TargetRef(TypedDict, total=False):
    """What an endpoint is an address of."""

    kind: str | None
    namespace: str | None
    name: str | None


@with_config(_STRICT)
class Endpoint(TypedDict, total=False):
    """`endpoints[]` of a slice; only the first address is used."""

    addresses: Required[list[str]]
    conditions: Conditions | None
    nodeName: str | None
    hints: Hints | None
    targetRef: TargetRef | None


@with_config(_STRICT)
class EndpointSlice(TypedDict, total=False):
    """`discovery.k8s.io/v1`. Of `addressType` FQDN nothing is served; an empty port is one without fields."""

    metadata: Required[Metadata]
    addressType: Required[str]
    ports: list[EndpointPort | None] | None
    endpoints: list[Endpoint] | None


@with_config(_STRICT)
class NodeAddress(TypedDict, total=False):
    """`status.addresses[]`; only those of type InternalIP count."""

    type: str | None
    address: str | None


@with_config(_STRICT)
class Taint(TypedDict, total=False):
    """`spec.taints[]`; that of the cluster autoscaler takes the node away from load balancers."""

    key: Required[str]


@with_config(_STRICT)
class NodeSpec(TypedDict, total=False):
    """`podCIDR` is the first of `podCIDRs`, and alone in objects of before dual stack."""

    podCIDR: str | None
    podCIDRs: list[str] | None
    taints: list[Taint] | None


@with_config(_STRICT)
class NodeStatus(TypedDict, total=False):
    """As the kubelet, or the cloud's controller, has written it."""

    addresses: list[NodeAddress] | None


@with_config(_STRICT)
class Node(TypedDict, total=False):
    """`v1`; cluster-wide, so without a namespace."""

    metadata: Required[Metadata]
    spec: NodeSpec | None
    status: NodeStatus | None


@with_config(_STRICT)
class ServiceCIDRSpec(TypedDict, total=False):
    """Any number of ranges; the API allows one of each family."""

    cidrs: list[str] | None


@with_config(_STRICT)
class ServiceCIDR(TypedDict, total=False):
    """`networking.k8s.io/v1`; cluster-wide, any number of objects."""

    metadata: Required[Metadata]
    spec: ServiceCIDRSpec | None


SERVICE = TypeAdapter(Service)
ENDPOINT_SLICE = TypeAdapter(EndpointSlice)
NODE = TypeAdapter(Node)
SERVICE_CIDR = TypeAdapter(ServiceCIDR)
