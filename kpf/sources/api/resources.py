"""What is asked of the API server, kind by kind, and what of an object is kept. Pure.

Selectors are those of kube-proxy (Kubernetes 1.36, cmd/kube-proxy/app/server.go), where SEMANTICS allow it: the server
need not send, nor kpf read, what counts for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from kpf.model.names import ObjectName
from kpf.sources.decode import Decoded, Kind, decode_as
from kpf.sources.objects import HEADLESS, LABEL_FOREIGN_PROXY, LABEL_HEADLESS, LABEL_SERVICE_NAME


@dataclass(frozen=True, slots=True)
class Resource:
    """`optional`: a server may lack it, or not let us see it, and kpf goes on without.

    `can_select_itself`: kpf can do without the field selector, which servers before 1.31 do not know.
    """

    kind: Kind
    path: str
    label_selector: str = ""
    field_selector: str = ""
    can_select_itself: bool = False
    optional: bool = False


def resources(node_name: str) -> tuple[Resource, ...]:
    """Everything that is watched on the node of this name."""
    return (
        Resource(
            Kind.SERVICE,
            "/api/v1/services",
            label_selector=f"!{LABEL_FOREIGN_PROXY}",
            field_selector=f"spec.clusterIP!={HEADLESS}",
            can_select_itself=True,
        ),
        Resource(
            Kind.ENDPOINT_SLICE,
            "/apis/discovery.k8s.io/v1/endpointslices",
            label_selector=f"{LABEL_SERVICE_NAME},!{LABEL_HEADLESS}",
        ),
        Resource(Kind.NODE, "/api/v1/nodes", field_selector=f"metadata.name={node_name}", optional=True),
        Resource(Kind.SERVICE_CIDR, "/apis/networking.k8s.io/v1/servicecidrs", optional=True),
    )


class Known(NamedTuple):
    """An object of the API server: what it was decoded to, and what identifies this version of it."""

    decoded: Decoded
    uid: str
    version: str

    @property
    def name(self) -> ObjectName | None:
        """None where even that is malformed."""
        return self.decoded.name


def known(kind: Kind, raw: Any) -> Known:
    """Decode one object; never raises, whatever it is."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    if isinstance(raw, dict) and isinstance(raw.get("metadata"), dict):
        metadata = raw["metadata"]
    uid, version = metadata.get("uid"), metadata.get("resourceVersion")
    return Known(
        decode_as(kind, raw),
        uid if isinstance(uid, str) else "",
        version if isinstance(version, str) else "",
    )
