"""Metrics of the node and of kpf itself: kube-proxy's own, and what it cannot know. Pure.

kube-proxy's names, types, labels and buckets are those of 1.36 in nftables mode (pkg/proxy/metrics). It syncs each IP
family by itself; kpf both at once, so what has the label `ip_family` says the same of each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpf.model.snapshot import Watch
from kpf.observe.families import (
    NO_LABELS,
    Distribution,
    Family,
    Kind,
    Labels,
    counters,
    gauge,
    gauges,
)

SYNC_BOUNDS_S = tuple(0.001 * 2**power for power in range(15))
PROGRAMMING_BOUNDS_S = (0.0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))


class WorkerMetrics(NamedTuple):
    """`worker`: its slot. Seconds of CPU and bytes are 0 of one whose process cannot be looked at any more.

    `restarts`, `queued` and `overflows`, of those that serve: how often it was replaced; connections that wait to be
    accepted, and those that found no room to wait.
    """

    worker: int
    state: str
    heartbeat_age_s: float
    paused: bool
    pauses: int
    active: int
    total: int
    cpu_s: float
    resident_bytes: int
    restarts: int = 0
    queued: int = 0
    overflows: int = 0


_OfWorker = Mapping[str, tuple[str, Callable[[WorkerMetrics], float]]]

_WORKER_COUNTERS: _OfWorker = {
    "kpf_worker_restarts": ("Times that a worker was replaced that had died.", lambda one: one.restarts),
    "kpf_accept_paused": ("Times that a worker has stopped accepting for lack of something.", lambda one: one.pauses),
    "kpf_worker_connections": ("Connections accepted, by those before it included.", lambda one: one.total),
    "kpf_worker_cpu_seconds": ("User and system CPU time of a worker's process.", lambda one: one.cpu_s),
    "kpf_listen_overflows": ("Connections that found a worker's queues full.", lambda one: one.overflows),
}
_WORKER_GAUGES: _OfWorker = {
    "kpf_worker_heartbeat_age_seconds": ("How long ago a worker was alive.", lambda one: one.heartbeat_age_s),
    "kpf_worker_paused": ("1 while a worker accepts nothing for lack of something.", lambda one: one.paused),
    "kpf_worker_connections_active": ("Connections that a worker has.", lambda one: one.active),
    "kpf_worker_resident_memory_bytes": ("With what is shared between workers.", lambda one: one.resident_bytes),
    "kpf_listen_queue_length": ("Connections that wait for a worker to accept them.", lambda one: one.queued),
}


class ProcessMetrics(NamedTuple):
    """Of the master, as client libraries have it. `open_descriptors`: 0 where the kernel does not tell their number."""

    cpu_s: float
    started_at_s: float
    resident_bytes: int
    virtual_bytes: int
    open_descriptors: int
    max_descriptors: float


@dataclass(frozen=True, slots=True)
class SyncMetrics:
    """Of syncs. Moments are seconds of the Unix epoch, 0 as long as there was none.

    `full_took`, `partial_took`: how long they take. `changes`, `pending`: of Services and of EndpointSlices; seen, and
    not in force yet. `no_local`: ports of Services that have endpoints, but none for a policy Local, by IP family and
    policy.
    """

    families: Sequence[str] = ()
    last_success_at_s: float = 0.0
    last_queued_at_s: float = 0.0
    failures: int = 0
    full_took: Distribution = field(default_factory=lambda: Distribution(SYNC_BOUNDS_S))
    partial_took: Distribution = field(default_factory=lambda: Distribution(SYNC_BOUNDS_S))
    programming: Mapping[str, Distribution] = field(default_factory=dict)
    changes: tuple[int, int] = (0, 0)
    pending: tuple[int, int] = (0, 0)
    no_local: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """All but Services. `build`: labels. `answers`: of `/healthz` and `/livez`, by the HTTP status.

    `reloaded_at_s`: when the configuration in force was read, in seconds of the Unix epoch; `reload_succeeded`: the
    last time that it was to be read. `problems`: how many, by the kind of object.
    """

    build: Labels
    sync: SyncMetrics
    process: ProcessMetrics
    workers: Sequence[WorkerMetrics] = ()
    worker_states: Mapping[str, int] = field(default_factory=dict)
    watches: Sequence[Watch] = ()
    answers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    affinity_entries: int = 0
    affinity_evictions: int = 0
    draining: bool = False
    reload_succeeded: bool = True
    reloaded_at_s: float = 0.0


def node_families(node: NodeMetrics) -> Iterator[Family]:
    """All that is not of a Service."""
    yield from _kube_proxys(node.sync)
    yield from _answers(node.answers)
    yield from _workers(node)
    yield from _sources(node)
    yield gauge(
        "kpf_affinity_entries", "Clients that are kept at an endpoint; some may have expired.", node.affinity_entries
    )
    evicted = "Clients that have lost their endpoint because too many were kept."
    yield counters("kpf_affinity_evictions", evicted, [(NO_LABELS, node.affinity_evictions)])
    yield gauge(
        "kpf_draining", "1 while kpf drains: it takes no new connections, and ends with the open ones.", node.draining
    )
    yield gauges("kpf_build_info", "1, with what is running as labels.", [(node.build, 1)])
    yield from _process(node.process)


def _kube_proxys(sync: SyncMetrics) -> Iterator[Family]:
    prefix = "kubeproxy_sync_proxy_rules"
    families = [{"ip_family": family} for family in sync.families]
    for name, text, took in (
        (f"{prefix}_duration_seconds", "How long syncs take.", sync.full_took.plus(sync.partial_took)),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds", "How long full syncs take.", sync.full_took),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "How long other syncs take.", sync.partial_took),
    ):
        yield Family(name, Kind.HISTOGRAM, text, [one for labels in families for one in took.series(labels)])
    if sync.programming:
        yield Family(
            "kubeproxy_network_programming_duration_seconds",
            Kind.HISTOGRAM,
            "From a change of pods or Services, as the EndpointSlice controller saw it, to its being in force.",
            (one for family, took in sync.programming.items() for one in took.series({"ip_family": family})),
        )
    for name, text, at_s in (
        ("last_timestamp_seconds", "When the last sync has succeeded.", sync.last_success_at_s),
        ("last_queued_timestamp_seconds", "When a sync was asked for last.", sync.last_queued_at_s),
    ):
        yield gauges(f"{prefix}_{name}", text, [(labels, at_s) for labels in families])
    yield gauges(
        f"{prefix}_no_local_endpoints_total",
        "Services with a traffic policy Local that have endpoints, and none of them on this node.",
        [({"ip_family": family, "traffic_policy": policy}, n) for (family, policy), n in sync.no_local.items()],
    )
    for what, changes, pending in zip(("service", "endpoint"), sync.changes, sync.pending, strict=True):
        text = f"Changes of {what}s that were seen."
        yield counters(f"{prefix}_{what}_changes", text, [(NO_LABELS, changes)])
        yield gauge(f"{prefix}_{what}_changes_pending", f"Changes of {what}s that are not in force yet.", pending)
    if sync.failures:
        name, text = f"{prefix}_nftables_sync_failures", "Syncs that have failed."
        yield counters(name, text, [(labels, sync.failures) for labels in families])


def _answers(answers: Mapping[str, Mapping[int, int]]) -> Iterator[Family]:
    for path, by_status in answers.items():
        values = [({"code": str(status)}, count) for status, count in sorted(by_status.items())]
        yield counters(f"kubeproxy_proxy_{path}", f"Answers of /{path}, by their HTTP status.", values)


def _workers(node: NodeMetrics) -> Iterator[Family]:
    workers = [({"worker": str(one.worker)}, one) for one in node.workers]
    states = [({"state": state}, count) for state, count in node.worker_states.items()]
    yield gauges("kpf_workers", "Places of workers, by their state; leaving: before a restart or a reload.", states)
    for name, (text, value_of) in _WORKER_COUNTERS.items():
        yield counters(name, text, [(labels, value_of(one)) for labels, one in workers])
    for name, (text, value_of) in _WORKER_GAUGES.items():
        yield gauges(name, text, [(labels, value_of(one)) for labels, one in workers])


def _sources(node: NodeMetrics) -> Iterator[Family]:
    if node.watches:
        watches = [({"resource": one.resource}, one) for one in node.watches]
        text = "How long ago the API server has said something of this, if only that nothing is new."
        yield gauges("kpf_watch_age_seconds", text, [(labels, one.heard_s) for labels, one in watches])
        yield counters(
            "kpf_watch_requests",
            "Lists and watches of this that were asked for.",
            [(labels, one.begun) for labels, one in watches],
        )
    problems = [({"kind": kind}, count) for kind, count in node.problems.items()]
    yield gauges("kpf_problems", "What is wrong with objects and cannot be served as asked, by their kind.", problems)
    yield gauge(
        "kpf_config_last_reload_successful",
        "Whether the last reload of the configuration succeeded.",
        node.reload_succeeded,
    )
    name, text = "kpf_config_last_reload_success_timestamp_seconds", "When the configuration in force was read."
    yield gauge(name, text, node.reloaded_at_s)


def _process(process: ProcessMetrics) -> Iterator[Family]:
    """Of the master; names and texts of the client libraries."""
    text = "Total user and system CPU time spent in seconds."
    yield counters("process_cpu_seconds", text, [(NO_LABELS, process.cpu_s)])
    yield gauge(
        "process_start_time_seconds", "Start time of the process since unix epoch in seconds.", process.started_at_s
    )
    yield gauge("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_bytes)
    yield gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_bytes)
    if process.open_descriptors:
        yield gauge("process_open_fds", "Number of open file descriptors.", process.open_descriptors)
    yield gauge("process_max_fds", "Maximum number of open file descriptors.", process.max_descriptors)
