"""EndpointSlices: their values, and the API server's rules that concern more than one field.

Limits follow Kubernetes 1.36: pkg/apis/discovery/validation.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from sys import intern

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol
from kpf.sources import wire
from kpf.sources.fields import ip_at
from kpf.sources.messages import shown
from kpf.sources.parts import FieldError, Place

LABEL_HEADLESS = "service.kubernetes.io/headless"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
# the EndpointSlice controller's: when the Service or a pod of it has changed (core/v1, EndpointsLastChangeTriggerTime)
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
MAX_ENDPOINTS, MAX_ADDRESSES, MAX_PORTS = 1000, 100, 20_000

_FAMILIES = {str(family): family for family in Family}
_NOT_SERVED = "FQDN"
_NO_ADDRESS = "must have at least 1 element"


def endpoint_slice(
    raw: wire.EndpointSlice, name: ObjectName, origin: str
) -> tuple[EndpointSlice | None, list[FieldError]]:
    """The slice; None if it does not count: no Service, headless, or no IP addresses in it."""
    field_errors: list[FieldError] = []
    ports = _ports(raw.get("ports") or (), field_errors)
    address_type = raw["addressType"]
    family = _FAMILIES.get(address_type)
    if family is None:
        if address_type != _NOT_SERVED:
            message = f"must be one of 'IPv4', 'IPv6' or '{_NOT_SERVED}', not {shown(address_type)}"
            field_errors.append(FieldError(("addressType",), message))
        for index, one in enumerate(raw.get("endpoints") or ()):
            if not one["addresses"]:
                field_errors.append(FieldError(("endpoints", index, "addresses"), _NO_ADDRESS, is_rule=True))
        return None, field_errors
    endpoints = _endpoints(raw.get("endpoints") or (), family, field_errors)
    labels = raw["metadata"].get("labels") or {}
    service_name = labels.get(LABEL_SERVICE_NAME)
    if not service_name or LABEL_HEADLESS in labels:
        return None, field_errors
    return EndpointSlice(
        name=name,
        service=ObjectName(name.namespace, service_name),
        family=family,
        ports=ports,
        endpoints=endpoints,
        origin=origin,
        triggered_at_s=_moment((raw["metadata"].get("annotations") or {}).get(TRIGGER_TIME)),
    ), field_errors


def _moment(text: str | None) -> float:
    """RFC 3339, as seconds of the Unix epoch; 0 of anything else, as for kube-proxy."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return 0.0
    return moment.timestamp() if moment.tzinfo else 0.0


def _ports(listed: Sequence[wire.EndpointPort | None], field_errors: list[FieldError]) -> tuple[EndpointPort, ...]:
    field_errors += _too_many(("ports",), len(listed), MAX_PORTS)
    ports = [_port(port or {}) for port in listed[:MAX_PORTS]]
    names: set[str] = set()
    for index, port in enumerate(ports):
        if port.name in names:
            field_errors.append(FieldError(("ports", index, "name"), f"is given twice: {port.name!r}", is_rule=True))
        names.add(port.name)
    return tuple(ports)


def _port(raw: wire.EndpointPort) -> EndpointPort:
    return EndpointPort(raw.get("name") or "", Protocol(raw.get("protocol") or Protocol.TCP), raw.get("port"))


def _endpoints(listed: Sequence[wire.Endpoint], family: Family, field_errors: list[FieldError]) -> tuple[Endpoint, ...]:
    field_errors += _too_many(("endpoints",), len(listed), MAX_ENDPOINTS)
    endpoints = []
    for index, endpoint in enumerate(listed[:MAX_ENDPOINTS]):
        address = _address(endpoint["addresses"], family, ("endpoints", index, "addresses"), field_errors)
        if address is not None:
            endpoints.append(_endpoint(endpoint, address))
    return tuple(endpoints)


def _too_many(place: Place, count: int, most: int) -> Iterator[FieldError]:
    if count > most:
        yield FieldError(place, f"must have at most {most} elements, not {count}")


def _address(texts: Sequence[str], family: Family, place: Place, field_errors: list[FieldError]) -> IPAddress | None:
    """The first one, which alone is used, as by kube-proxy; None if it is of no use."""
    if not texts:
        field_errors.append(FieldError(place, _NO_ADDRESS))
        return None
    address = _of_family(texts[0], family, (*place, 0), field_errors)
    if len(texts) > 1:
        others: list[FieldError] = []
        for position, text in enumerate(texts[1:MAX_ADDRESSES], 1):
            _of_family(text, family, (*place, position), others)
        field_errors += [one._replace(is_rule=True) for one in (*others, *_too_many(place, len(texts), MAX_ADDRESSES))]
    return address


def _of_family(text: str, family: Family, place: Place, field_errors: list[FieldError]) -> IPAddress | None:
    address = ip_at(place, text, field_errors)
    if address is None or address.version == family:
        return address
    field_errors.append(FieldError(place, f"must be an {family!s} address as addressType says, not {shown(text)}"))
    return None


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
        tuple(hint.get("name") or "" for hint in hints.get("forZones") or ()),
        tuple(hint["name"] for hint in hints.get("forNodes") or ()),
        _pod(raw.get("targetRef") or {}),
    )


def _pod(target: wire.TargetRef) -> str:
    name = target.get("name")
    return f"{target.get('namespace') or ''}/{name}" if name and target.get("kind") == "Pod" else ""
