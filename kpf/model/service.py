"""Service as kpf uses it (core/v1 of the Kubernetes API, 1.36): the fields in use, decoded once."""

from dataclasses import dataclass
from enum import StrEnum

from kpf.model.names import IPAddress, IPNetwork, ObjectName, Protocol

DEFAULT_AFFINITY_TIMEOUT_S = 10800


class ServiceType(StrEnum):
    """`spec.type` (core/v1). Nothing of an ExternalName is served: it is a matter of DNS."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TrafficPolicy(StrEnum):
    """Who may serve: endpoints anywhere, or on the node that the connection has come to."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """`name` is empty for the single unnamed port; `node_port` is 0 where there is none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service that may count. `cluster_ips` is empty for a headless one.

    `origin` says where it was read ("web.yaml", or "" for the API server).
    `affinity_timeout_s` is None without session affinity, else from 1 on (the API: to 86400).
    `load_balancer_ips` leaves out those with `ipMode: Proxy`.
    `load_balancer_source_ranges`: if one could not be read, there are ranges among them that no packet comes from.
    `annotations` are those of kpf alone (`kpf.io/...`), sorted.
    `created` is the creationTimestamp in RFC 3339 (UTC, so that it sorts as text), "" where there is none.
    """

    name: ObjectName
    type: ServiceType
    ports: tuple[ServicePort, ...] = ()
    cluster_ips: tuple[IPAddress, ...] = ()
    external_ips: tuple[IPAddress, ...] = ()
    load_balancer_ips: tuple[IPAddress, ...] = ()
    load_balancer_source_ranges: tuple[IPNetwork, ...] = ()
    affinity_timeout_s: int | None = None
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    health_check_node_port: int = 0
    foreign_proxy: bool = False  # label service.kubernetes.io/service-proxy-name
    annotations: tuple[tuple[str, str], ...] = ()
    created: str = ""
    origin: str = ""
