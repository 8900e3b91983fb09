"""The resources that the test API server has, and what an empty object of each looks like. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""An API object as JSON has it."""


def _unknown_field(name: str) -> str:
    return f"field label not supported: {name}"


def _unknown_generic_field(name: str) -> str:
    return f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"'


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """`fields`: what a field selector may name beside the object's own name and namespace.

    `empty`: the other fields of an object without any, as a bookmark has them.
    """

    plural: str
    kind: str
    group: str
    fields: tuple[str, ...] = ()
    empty: Mapping[str, object] | None = None
    unknown_field: Callable[[str], str] = _unknown_generic_field

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/v1/{self.plural}" if self.group else f"/api/v1/{self.plural}"

    @property
    def qualified(self) -> str:
        """As messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def head(self) -> bytes:
        """How an object of it begins where it stands alone."""
        return b'{"kind":"%s","apiVersion":"%s",' % (self.kind.encode(), self.api_version.encode())


SERVICES = Resource(
    "services",
    "Service",
    "",
    ("spec.clusterIP", "spec.type"),
    {"spec": {}, "status": {"loadBalancer": {}}},
    _unknown_field,
)
SLICES = Resource(
    "endpointslices",
    "EndpointSlice",
    "discovery.k8s.io",
    empty={"addressType": "", "endpoints": None, "ports": None},
)
NODES = Resource(
    "nodes", "Node", "", ("spec.unschedulable",), {"spec": {}, "status": {"daemonEndpoints": {}}}, _unknown_field
)
SERVICE_CIDRS = Resource("servicecidrs", "ServiceCIDR", "networking.k8s.io", empty={"spec": {}, "status": {}})
EVENTS = Resource("events", "Event", "events.k8s.io")

WATCHED = (SERVICES, SLICES, NODES, SERVICE_CIDRS)
BY_PATH = {one.path: one for one in WATCHED}
BY_KIND = {one.kind: one for one in WATCHED}
BY_PLURAL = {one.plural: one for one in (*WATCHED, EVENTS)}
