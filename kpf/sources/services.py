"""Services: their values, and the API server's rules that concern more than one field.

Limits and wording follow Kubernetes 1.36: pkg/apis/core/validation (ValidateService) and pkg/apis/core/v1/defaults.go.
What is against a rule is taken as far as it makes sense, as kube-proxy takes it (pkg/proxy/serviceport.go).
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from kpf.model.names import Family, IPAddress, IPNetwork, ObjectName, Protocol, family_of
from kpf.model.service import DEFAULT_AFFINITY_TIMEOUT_S, Service, ServicePort, ServiceType, TrafficPolicy
from kpf.sources import wire
from kpf.sources.fields import cidr_at, ip_at, timestamp
from kpf.sources.messages import shown
from kpf.sources.parts import FieldError, MalformedError, Place

LABEL_FOREIGN_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "None"
OUR_ANNOTATIONS = "kpf.io/"
# the API server takes 256 KiB an object, of any tenant
MAX_ANNOTATIONS, MAX_ANNOTATION = 16, 256
MAX_AFFINITY_TIMEOUT_S = 86400
# no packet has such a source: what stands for a range that cannot be read, so that a mistake never lets anybody in
NOBODY = (ip_network("0.0.0.0/32"), ip_network("::/128"))

_REACHABLE = (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)


def service(raw: wire.Service, name: ObjectName, origin: str) -> tuple[Service, list[FieldError]]:
    """The Service, and what is wrong with it. Raises MalformedError where no cluster IP can be read."""
    spec, metadata = raw["spec"], raw["metadata"]
    field_errors: list[FieldError] = []
    kind = _type(spec, field_errors)
    ports = _ports(spec.get("ports") or (), kind, field_errors)
    field_errors += [*_policy_rules(spec, kind), *_affinity_rules(spec)]
    cluster_ips: tuple[IPAddress, ...] = ()
    if kind is not ServiceType.EXTERNAL_NAME:
        cluster_ips = _cluster_ips(spec, kind, field_errors)
        if not spec.get("ports") and spec.get("clusterIP") != HEADLESS:
            field_errors.append(FieldError(("spec", "ports"), "is required", is_rule=True))
    return Service(
        name=name,
        type=kind or ServiceType.CLUSTER_IP,
        ports=ports,
        cluster_ips=cluster_ips,
        external_ips=_external_ips(spec, field_errors),
        load_balancer_ips=_load_balancer_ips(raw.get("status") or {}, field_errors),
        load_balancer_source_ranges=_source_ranges(spec, field_errors),
        affinity_timeout_s=_affinity_timeout_s(spec),
        internal_policy=TrafficPolicy(spec.get("internalTrafficPolicy") or TrafficPolicy.CLUSTER),
        external_policy=TrafficPolicy(spec.get("externalTrafficPolicy") or TrafficPolicy.CLUSTER),
        health_check_node_port=spec.get("healthCheckNodePort") or 0,
        foreign_proxy=LABEL_FOREIGN_PROXY in (metadata.get("labels") or ()),
        annotations=_our_annotations(metadata),
        created=_created(metadata, field_errors),
        origin=origin,
    ), field_errors


def _type(spec: wire.ServiceSpec, field_errors: list[FieldError]) -> ServiceType | None:
    """None for one that is not known; all but ExternalName are served alike."""
    text = spec.get("type") or ServiceType.CLUSTER_IP
    try:
        return ServiceType(text)
    except ValueError:
        *others, last = (f"'{one}'" for one in ServiceType)
        message = f"must be one of {', '.join(others)} or {last}, not {shown(text)}"
        field_errors.append(FieldError(("spec", "type"), message))
        return None


def _created(metadata: wire.ServiceMetadata, field_errors: list[FieldError]) -> str:
    text = metadata.get("creationTimestamp") or ""
    created = timestamp(text)
    if created is None:
        message = f"must be a time such as 2025-01-31T12:00:00Z, not {shown(text)}"
        field_errors.append(FieldError(("metadata", "creationTimestamp"), message))
    return created or ""


def _our_annotations(metadata: wire.ServiceMetadata) -> tuple[tuple[str, str], ...]:
    annotations = metadata.get("annotations") or {}
    ours = sorted((key, value or "") for key, value in annotations.items() if key.startswith(OUR_ANNOTATIONS))
    return tuple((key, value[:MAX_ANNOTATION]) for key, value in ours[:MAX_ANNOTATIONS])


def _ports(
    listed: Sequence[wire.ServicePort], kind: ServiceType | None, field_errors: list[FieldError]
) -> tuple[ServicePort, ...]:
    """A number that is given twice has its first owner."""
    ports: list[ServicePort] = []
    names: set[str] = set()
    numbers: set[tuple[Protocol, int]] = set()
    node_ports: set[tuple[Protocol, int]] = set()
    for index, port in enumerate(listed):
        place: Place = ("spec", "ports", index)
        field_errors += _port_rules(port, place, kind, names, is_only=len(listed) == 1)
        names.add(port.get("name") or "")
        protocol, number = Protocol(port.get("protocol") or Protocol.TCP), port["port"]
        node_port = port.get("nodePort") or 0
        if (protocol, number) in numbers:
            field_errors.append(FieldError((*place, "port"), f"is given twice: {number}/{protocol}"))
            continue
        if node_port and (protocol, node_port) in node_ports:
            field_errors.append(FieldError((*place, "nodePort"), f"is given twice: {node_port}/{protocol}"))
            node_port = 0
        ports.append(ServicePort(port.get("name") or "", protocol, number, node_port))
        numbers.add((protocol, number))
        node_ports.add((protocol, node_port))
    return tuple(ports)


def _port_rules(
    port: wire.ServicePort, place: Place, kind: ServiceType | None, names: set[str], *, is_only: bool
) -> Iterator[FieldError]:
    name = port.get("name") or ""
    if not name and not is_only:
        yield FieldError((*place, "name"), "is required where there are several ports", is_rule=True)
    elif name in names:
        yield FieldError((*place, "name"), f"is given twice: {name!r}", is_rule=True)
    if port.get("nodePort") and kind not in (*_REACHABLE, None):
        yield FieldError((*place, "nodePort"), f"may not be used when type is {kind}", is_rule=True)


def _policy_rules(spec: wire.ServiceSpec, kind: ServiceType | None) -> Iterator[FieldError]:
    if kind is None:
        return
    external = spec.get("externalTrafficPolicy")
    if external and not (kind in _REACHABLE or (kind is ServiceType.CLUSTER_IP and spec.get("externalIPs"))):
        message = "may only be set for services that are reachable from outside"
        yield FieldError(("spec", "externalTrafficPolicy"), message, is_rule=True)
    if spec.get("loadBalancerSourceRanges") and kind is not ServiceType.LOAD_BALANCER:
        message = "may only be used when type is LoadBalancer"
        yield FieldError(("spec", "loadBalancerSourceRanges"), message, is_rule=True)
    if spec.get("healthCheckNodePort") and (kind is not ServiceType.LOAD_BALANCER or external != "Local"):
        message = "may only be set when type is LoadBalancer and externalTrafficPolicy is Local"
        yield FieldError(("spec", "healthCheckNodePort"), message, is_rule=True)


def _affinity_rules(spec: wire.ServiceSpec) -> Iterator[FieldError]:
    config = spec.get("sessionAffinityConfig")
    if config and spec.get("sessionAffinity") != "ClientIP":
        message = "must not be set when sessionAffinity is None"
        yield FieldError(("spec", "sessionAffinityConfig"), message, is_rule=True)
    timeout_s = ((config or {}).get("clientIP") or {}).get("timeoutSeconds") or 0
    if timeout_s > MAX_AFFINITY_TIMEOUT_S:
        place = ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds")
        yield FieldError(place, f"must be at most {MAX_AFFINITY_TIMEOUT_S}, not {timeout_s}", is_rule=True)


def _affinity_timeout_s(spec: wire.ServiceSpec) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_TIMEOUT_S


def _cluster_ips(
    spec: wire.ServiceSpec, kind: ServiceType | None, field_errors: list[FieldError]
) -> tuple[IPAddress, ...]:
    """The first of each IP family; none of a headless Service."""
    first, listed = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    field_errors += _cluster_ip_rules(first, listed, kind)
    if first in ("", HEADLESS):
        return ()
    found: dict[Family, IPAddress] = {}
    for index, text in enumerate(listed or [first]):
        place: Place = ("spec", "clusterIPs", index) if listed else ("spec", "clusterIP")
        address = ip_at(place, text, field_errors)
        if address is None:
            continue
        if family_of(address) in found:
            field_errors.append(FieldError(("spec", "clusterIPs"), "must have at most one address of each IP family"))
        found.setdefault(family_of(address), address)
    if not found:
        # which of its addresses it has is what a Service is
        raise MalformedError(field_errors)
    return tuple(found.values())


def _cluster_ip_rules(first: str, listed: Sequence[str], kind: ServiceType | None) -> Iterator[FieldError]:
    if not first and listed:
        message = "must be empty when clusterIP is not specified"
        yield FieldError(("spec", "clusterIPs"), message, is_rule=True)
    elif not first and kind is not None:
        message = f"is required when type is {kind}: kpf allocates none (None: headless)"
        yield FieldError(("spec", "clusterIP"), message, is_rule=True)
    if first and listed and listed[0] != first:
        message = f"must be the same as clusterIP, {shown(first)}, not {shown(listed[0])}"
        yield FieldError(("spec", "clusterIPs", 0), message, is_rule=True)
    if first == HEADLESS and kind in _REACHABLE:
        yield FieldError(("spec", "clusterIP"), f"may not be None when type is {kind}", is_rule=True)
    if first == HEADLESS and len(listed) > 1:
        yield FieldError(("spec", "clusterIPs"), "must be just None, or addresses", is_rule=True)


def _external_ips(spec: wire.ServiceSpec, field_errors: list[FieldError]) -> tuple[IPAddress, ...]:
    listed = enumerate(spec.get("externalIPs") or ())
    return _known(ip_at(("spec", "externalIPs", index), text, field_errors) for index, text in listed)


def _load_balancer_ips(status: wire.ServiceStatus, field_errors: list[FieldError]) -> tuple[IPAddress, ...]:
    place = ("status", "loadBalancer", "ingress")
    ingress = enumerate((status.get("loadBalancer") or {}).get("ingress") or ())
    return _known(
        ip_at((*place, index, "ip"), text, field_errors)
        for index, one in ingress
        if (text := one.get("ip")) and one.get("ipMode") != "Proxy"
    )


def _known(addresses: Iterable[IPAddress | None]) -> tuple[IPAddress, ...]:
    return tuple(one for one in addresses if one is not None)


def _source_ranges(spec: wire.ServiceSpec, field_errors: list[FieldError]) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    is_whole = True
    for index, text in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        # validation allows spaces around it, and kube-proxy cuts them off
        network = cidr_at(("spec", "loadBalancerSourceRanges", index), text.strip(), field_errors)
        if network is None:
            is_whole = False
        else:
            found.append(network)
    return (*found,) if is_whole else (*found, *NOBODY)
