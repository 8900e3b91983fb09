"""Objects that are right, of each kind, and what becomes of one that is otherwise in one place."""

from copy import deepcopy
from typing import Any

from kpf.sources.decode import Decoded, Kind, decode, decode_as

Object = dict[str, Any]

SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
SLICE: Object = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"port": 8080}],
    "endpoints": [{"addresses": ["10.244.0.1"]}],
}
NODE: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
SERVICE_CIDR: Object = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "all"}}


def changed(raw: Object, path: str, value: Any) -> Object:
    """A copy with the field at "spec.ports.0.port" set."""
    copy = deepcopy(raw)
    *outer, last = path.split(".")
    inner: Any = copy
    for part in outer:
        inner = inner[int(part)] if part.isdigit() else inner.setdefault(part, {})
    inner[int(last) if last.isdigit() else last] = value
    return copy


def one(raw: Any) -> Decoded:
    (decoded,) = decode(raw, "f.yaml")
    return decoded


def from_server(raw: Object) -> Decoded:
    return decode_as(Kind(raw["kind"]), raw)


def value_of(raw: Object) -> Any:
    decoded = one(raw)
    assert not decoded.problems
    return decoded.value
