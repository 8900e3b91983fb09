"""What is: everything the sources know at one moment, and what they could not use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import IPAddress, IPNetwork, ObjectName
from kpf.model.service import Service


class Problem(NamedTuple):
    """One thing that is wrong with the input. Any part may be empty.

    `origin`: a file's name (with a line where it does not parse), `object`: "Service default/web",
    `field`: "spec.ports[0].port", `message`: what is wrong with it, naming the value. `is_limit`: an API server has
    taken the object, or would, but this version of kpf cannot serve all of it. `last_stays`: what was
    known of the object, or of the file, before stays in force.
    """

    origin: str
    object: str
    field: str
    message: str
    is_limit: bool = False
    last_stays: bool = False

    def __str__(self) -> str:
        return ": ".join(part for part in self[:4] if part)


class Changes(NamedTuple):
    """How many objects have come, gone or changed: Services, and EndpointSlices."""

    services: int = 0
    slices: int = 0


class Watch(NamedTuple):
    """What an API server is asked for: `resource`, in the plural.

    `heard_s`: how many seconds ago it has said something, infinite if it never has; `begun`: lists and watches until
    now.
    """

    resource: str
    heard_s: float
    begun: int


@dataclass(frozen=True, slots=True)
class Node:
    """This node as the API describes it."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    internal_ips: tuple[IPAddress, ...] = ()
    pod_cidrs: tuple[IPNetwork, ...] = ()
    being_deleted: bool = False  # deletionTimestamp, or taint ToBeDeletedByClusterAutoscaler


@dataclass(frozen=True, slots=True)
class ServiceCIDR:
    """Ranges that ClusterIPs are given from (networking.k8s.io/v1)."""

    name: str
    cidrs: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`slices` by the service they belong to, in a fixed order (slice name).

    A mapping's values keep their identity (`is`) from one snapshot to the next while they do not change,
    so that a plan can tell at once what to make anew.
    `service_cidrs`: the ranges that ClusterIPs are given from, as far as they are known. `changes`: until now.
    `serial` names this snapshot within the process, 0 none; `touched` are the Services that may differ from the
    snapshot named `previous`, in themselves or in their slices.
    """

    services: Mapping[ObjectName, Service] = field(default_factory=dict)
    slices: Mapping[ObjectName, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    node: Node | None = None
    service_cidrs: tuple[IPNetwork, ...] = ()
    problems: tuple[Problem, ...] = ()
    changes: Changes = field(default=Changes(), compare=False)
    serial: int = field(default=0, compare=False)
    previous: int = field(default=0, compare=False)
    touched: frozenset[ObjectName] = field(default=frozenset(), compare=False)
