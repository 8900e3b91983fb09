"""What is asked of the API server: what is watched, kind by kind, and the requests to list and to watch it. Pure.

Selectors are those of kube-proxy (Kubernetes 1.36, cmd/kube-proxy/app/server.go), where SEMANTICS allow it: the server
need not send, nor kpf read, what counts for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from kpf.sources.decode import Kind
from kpf.sources.services import HEADLESS, LABEL_FOREIGN_PROXY
from kpf.sources.slices import LABEL_HEADLESS, LABEL_SERVICE_NAME


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

    @property
    def name(self) -> str:
        """As in RBAC: "services"."""
        return self.path.rpartition("/")[2]


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


class Ask(Enum):
    """What a reflector asks for."""

    STREAMED_LIST = auto()  # a watch that begins with all that there is
    PAGE = auto()
    WATCH = auto()
    PROBE = auto()  # has the server gone back in time?


class Page(NamedTuple):
    """`objects`: how many at most, 0 for all; `token`: where the page before it ended."""

    objects: int
    token: str


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of `path` with `query`."""

    ask: Ask
    path: str
    query: tuple[tuple[str, str], ...]


def request(resource: Resource, ask: Ask, *, version: str, fields: bool, watch_s: float, page: Page) -> Request:
    """`version`: where a watch goes on; `fields`: whether the server knows the field selector."""
    return Request(ask, resource.path, tuple(_query(resource, ask, version, fields, watch_s, page)))


def _query(
    resource: Resource, ask: Ask, version: str, fields: bool, watch_s: float, page: Page
) -> Iterator[tuple[str, str]]:
    if resource.label_selector:
        yield "labelSelector", resource.label_selector
    if fields:
        yield "fieldSelector", resource.field_selector
    if ask in (Ask.WATCH, Ask.STREAMED_LIST):
        yield "watch", "true"
        yield "allowWatchBookmarks", "true"
        yield "timeoutSeconds", str(int(watch_s))
    if ask is Ask.WATCH:
        yield "resourceVersion", version
    elif ask is Ask.STREAMED_LIST:
        yield "sendInitialEvents", "true"
        yield "resourceVersionMatch", "NotOlderThan"
    elif ask is Ask.PROBE:
        yield "limit", "1"
    else:
        if page.objects:
            yield "limit", str(page.objects)
        if page.token:
            yield "continue", page.token
