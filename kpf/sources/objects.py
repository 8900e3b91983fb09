"""The API server's rules that concern more than one field, and the values that come of objects which keep them.

Each function takes an object whose shape is valid and returns its value, or its mistakes as (field, message).
Limits and wording follow Kubernetes 1.36: pkg/apis/core/validation (ValidateService), pkg/apis/core/v1/defaults.go
and pkg/apis/discovery/validation.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from sys import intern

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol
from kpf.model.service import DEFAULT_AFFINITY_TIMEOUT_S, Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Node, ServiceCIDR
from kpf.sources import wire

LABEL_FOREIGN_PROXY = "service.kubernetes.io/service-proxy-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
TAINT_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
HEADLESS = "None"
OUR_ANNOTATIONS = "kpf.io/"
# the API server takes 256 KiB an object, of any tenant
MAX_ANNOTATIONS, MAX_ANNOTATION = 16, 256
# set by the EndpointSlice controller; when the change of a pod or Service happened that it stands for
ANNOTATION_CHANGE_TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"

Mistake = tuple[str, str]

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d{1,9})?([Zz]|[-+]\d\d:\d\d)\Z", re.ASCII)


def service(raw: wire.Service, name: ObjectName, origin: str) -> tuple[Service | None, list[Mistake]]:
    spec, metadata = raw["spec"], raw["metadata"]
    kind = ServiceType(spec.get("type") or ServiceType.CLUSTER_IP)
    ports = spec.get("ports") or []
    mistakes = [
        *_port_mistakes(ports, kind),
        *_policy_mistakes(spec, kind),
        *_affinity_mistakes(spec),
    ]
    cluster_ips: tuple[IPAddress, ...] = ()
    if kind is not ServiceType.EXTERNAL_NAME:
        cluster_ips, complaints = _cluster_ips(spec, kind)
        mistakes += complaints
        if not ports and spec.get("clusterIP") != HEADLESS:
            mistakes.append(("spec.ports", "is required"))
    created = timestamp(metadata.get("creationTimestamp") or "")
    if created is None:
        mistakes.append(("metadata.creationTimestamp", "must be a time such as 2025-01-31T12:00:00Z"))
    if mistakes or created is None:
        return None, mistakes
    status = raw.get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or []
    return Service(
        name=name,
        type=kind,
        ports=tuple(map(_service_port, ports)),
        cluster_ips=cluster_ips,
        external_ips=tuple(spec.get("externalIPs") or ()),
        load_balancer_ips=tuple(ip for one in ingress if (ip := one.get("ip")) and one.get("ipMode") != "Proxy"),
        load_balancer_source_ranges=tuple(spec.get("loadBalancerSourceRanges") or ()),
        affinity_timeout_s=_affinity_timeout_s(spec),
        internal_policy=TrafficPolicy(spec.get("internalTrafficPolicy") or TrafficPolicy.CLUSTER),
        external_policy=TrafficPolicy(spec.get("externalTrafficPolicy") or TrafficPolicy.CLUSTER),
        health_check_node_port=spec.get("healthCheckNodePort") or 0,
        foreign_proxy=LABEL_FOREIGN_PROXY in (metadata.get("labels") or ()),
        annotations=_our_annotations(metadata),
        created=created,
        origin=origin,
    ), []


def _our_annotations(metadata: wire.ServiceMetadata) -> tuple[tuple[str, str], ...]:
    annotations = metadata.get("annotations") or {}
    ours = sorted((key, value or "") for key, value in annotations.items() if key.startswith(OUR_ANNOTATIONS))
    return tuple((key, value[:MAX_ANNOTATION]) for key, value in ours[:MAX_ANNOTATIONS])


def _service_port(port: wire.ServicePort) -> ServicePort:
    return ServicePort(
        name=port.get("name") or "",
        protocol=Protocol(port.get("protocol") or Protocol.TCP),
        port=port["port"],
        node_port=port.get("nodePort") or 0,
    )


def _port_mistakes(ports: Sequence[wire.ServicePort], kind: ServiceType) -> Iterator[Mistake]:
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name, protocol, node_port = port.get("name") or "", port.get("protocol") or "TCP", port.get("nodePort") or 0
        if not name and len(ports) > 1:
            yield f"{path}.name", "is required where there are several ports"
        elif name in names:
            yield f"{path}.name", f"is given twice: {name!r}"
        if (protocol, port["port"]) in numbers:
            yield f"{path}.port", f"is given twice: {port['port']}/{protocol}"
        if node_port and kind not in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER):
            yield f"{path}.nodePort", f"may not be used when type is {kind}"
        elif node_port and (protocol, node_port) in node_ports:
            yield f"{path}.nodePort", f"is given twice: {node_port}/{protocol}"
        names.add(name)
        numbers.add((protocol, port["port"]))
        node_ports.add((protocol, node_port))


def _policy_mistakes(spec: wire.ServiceSpec, kind: ServiceType) -> Iterator[Mistake]:
    external = spec.get("externalTrafficPolicy")
    reachable = kind in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)
    if external and not (reachable or (kind is ServiceType.CLUSTER_IP and spec.get("externalIPs"))):
        yield "spec.externalTrafficPolicy", "may only be set for services that are reachable from outside"
    if spec.get("loadBalancerSourceRanges") and kind is not ServiceType.LOAD_BALANCER:
        yield "spec.loadBalancerSourceRanges", "may only be used when type is LoadBalancer"
    if spec.get("healthCheckNodePort") and (kind is not ServiceType.LOAD_BALANCER or external != "Local"):
        yield (
            "spec.healthCheckNodePort",
            "may only be set when type is LoadBalancer and externalTrafficPolicy is Local",
        )


def _affinity_mistakes(spec: wire.ServiceSpec) -> Iterator[Mistake]:
    if spec.get("sessionAffinityConfig") and spec.get("sessionAffinity") != "ClientIP":
        yield "spec.sessionAffinityConfig", "must not be set when sessionAffinity is None"


def _affinity_timeout_s(spec: wire.ServiceSpec) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_TIMEOUT_S


def _cluster_ips(spec: wire.ServiceSpec, kind: ServiceType) -> tuple[tuple[IPAddress, ...], list[Mistake]]:
    first, listed = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if not first:
        if listed:
            return (), [("spec.clusterIPs", "must be empty when clusterIP is not specified")]
        return (), [("spec.clusterIP", f"is required when type is {kind}: kpf allocates none (None: headless)")]
    mistakes: list[Mistake] = []
    if listed and listed[0] != first:
        mistakes.append(("spec.clusterIPs[0]", f"must be the same as clusterIP, {first!r}, not {listed[0]!r}"))
    if first == HEADLESS:
        if kind is not ServiceType.CLUSTER_IP:
            mistakes.append(("spec.clusterIP", f"may not be None when type is {kind}"))
        if len(listed) > 1:
            mistakes.append(("spec.clusterIPs", "must be just None, or addresses"))
        return (), mistakes
    addresses: list[IPAddress] = []
    for index, text in enumerate(listed or [first]):
        try:
            addresses.append(wire.ip_of(text))
        except ValueError as error:
            field = f"spec.clusterIPs[{index}]" if listed else "spec.clusterIP"
            mistakes.append((field, f"{error}, not {text[:80]!r}"))
    if len({address.version for address in addresses}) < len(addresses):
        mistakes.append(("spec.clusterIPs", "must have at most one address of each IP family"))
    return tuple(addresses), mistakes


def timestamp(text: str) -> str | None:
    """A time in UTC, to the second, so that it sorts as text; "" stays, None if it is none."""
    if not text:
        return ""
    match = _TIMESTAMP.match(text)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3].upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0")


def endpoint_slice(
    raw: wire.EndpointSlice, name: ObjectName, origin: str
) -> tuple[EndpointSlice | None, list[Mistake]]:
    """The slice; None without a mistake if it does not count: no Service, headless, or no IP addresses in it."""
    ports = raw.get("ports") or []
    mistakes = list(_slice_port_mistakes(ports))
    address_type = raw["addressType"]
    labels = raw["metadata"].get("labels") or {}
    if address_type == "FQDN":
        return None, mistakes
    family = Family.IPV4 if address_type == "IPv4" else Family.IPV6
    endpoints = []
    for index, endpoint in enumerate(raw.get("endpoints") or ()):
        addresses, complaints = _addresses(endpoint["addresses"], family, index)
        mistakes += complaints
        if not complaints:
            endpoints.append(_endpoint(endpoint, addresses[0]))
    service_name = labels.get(LABEL_SERVICE_NAME)
    if mistakes or not service_name or LABEL_HEADLESS in labels:
        return None, mistakes
    return EndpointSlice(
        name=name,
        service=ObjectName(name.namespace, service_name),
        family=family,
        ports=tuple(map(_endpoint_port, ports)),
        endpoints=tuple(endpoints),
        change_triggered=((raw["metadata"].get("annotations") or {}).get(ANNOTATION_CHANGE_TRIGGERED) or "")[
            :MAX_ANNOTATION
        ],
        origin=origin,
    ), []


def _change_triggered(metadata: wire.Metadata) -> str:
    return ((metadata.get("annotations") or {}).get(ANNOTATION_CHANGE_TRIGGERED) or "")[:MAX_ANNOTATION]


def _endpoint_port(port: wire.EndpointPort) -> EndpointPort:
    return EndpointPort(port.get("name") or "", Protocol(port.get("protocol") or Protocol.TCP), port.get("port"))


def _slice_port_mistakes(ports: Sequence[wire.EndpointPort]) -> Iterator[Mistake]:
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        if name in names:
            yield f"ports[{index}].name", f"is given twice: {name!r}"
        names.add(name)


def _addresses(texts: Sequence[str], family: Family, index: int) -> tuple[list[IPAddress], list[Mistake]]:
    addresses, mistakes = [], []
    for position, text in enumerate(texts):
        try:
            address = wire.ip_of(text)
            if address.version != family:
                raise ValueError(f"must be an {family!s} address as addressType says")
        except ValueError as error:
            mistakes.append((f"endpoints[{index}].addresses[{position}]", f"{error}, not {text[:80]!r}"))
        else:
            addresses.append(address)
    return addresses, mistakes


def _endpoint(raw: wire.Endpoint, address: IPAddress) -> Endpoint:
    conditions, hints = raw.get("conditions") or {}, raw.get("hints") or {}
    return Endpoint(
        address,
        # absent or null: ready and serving, not terminating
        conditions.get("ready") is not False,
        conditions.get("serving") is not False,
        conditions.get("terminating") is True,
        # thousands of endpoints are on few nodes
        intern(raw.get("nodeName") or ""),
        tuple(hint["name"] for hint in hints.get("forZones") or ()),
        tuple(hint["name"] for hint in hints.get("forNodes") or ()),
    )


def node(raw: wire.Node, name: ObjectName, _origin: str) -> tuple[Node | None, list[Mistake]]:
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    mistakes: list[Mistake] = []
    internal_ips = []
    for index, address in enumerate(status.get("addresses") or ()):
        if address["type"] == "InternalIP":
            try:
                internal_ips.append(wire.ip_of(address["address"]))
            except ValueError as error:
                mistakes.append((f"status.addresses[{index}].address", f"{error}, not {address['address'][:80]!r}"))
    if mistakes:
        return None, mistakes
    tainted = any(taint["key"] == TAINT_TO_BE_DELETED for taint in spec.get("taints") or ())
    return Node(
        name=name.name,
        labels={key: value or "" for key, value in (metadata.get("labels") or {}).items()},
        internal_ips=tuple(internal_ips),
        pod_cidrs=tuple(spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])),
        being_deleted=tainted or bool(metadata.get("deletionTimestamp")),
    ), []


def service_cidr(raw: wire.ServiceCIDR, name: ObjectName, _origin: str) -> tuple[ServiceCIDR | None, list[Mistake]]:
    return ServiceCIDR(name.name, tuple((raw.get("spec") or {}).get("cidrs") or ())), []
