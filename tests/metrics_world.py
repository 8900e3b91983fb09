"""Metrics as values, for tests of what becomes of them; no daemon is needed for that."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parsed_text

from kpf.model.snapshot import Watch
from kpf.observe.families import Distribution, Family
from kpf.observe.node_metrics import (
    PROGRAMMING_BOUNDS_S,
    NodeMetrics,
    ProcessMetrics,
    SyncMetrics,
    WorkerMetrics,
    node_families,
)
from kpf.observe.service_metrics import EndpointView, ServiceView, endpoint_view, service_families, service_view, shown
from kpf.shm.layout import DIAL_BOUNDS_MS, DURATION_BOUNDS_MS, MEMBER_REASONS, Address, Reason
from kpf.shm.observer import FrontendView, MemberView, Took

PROCESS = ProcessMetrics(12.5, 1_700_000_000.25, 90 << 20, 300 << 20, 321, 1 << 20)


def frontend(**counts: int) -> FrontendView:
    """`dials`, `lasted`: how many there were in the second bucket; `refused`: connections that failed so."""
    dials, lasted = counts.pop("dials", 0), counts.pop("lasted", 0)
    affinity = ("affinity_hits", "affinity_entries", "affinity_evictions")
    values = dict.fromkeys(("total", "active", "bytes_in", "bytes_out", "retries", *affinity), 0)
    failed = dict.fromkeys(Reason, 0) | {Reason.REFUSED: counts.pop("refused", 0)}
    return FrontendView(
        **values | counts,
        failed=failed,
        dials=Took((0, dials, *[0] * (len(DIAL_BOUNDS_MS) - 1)), 3 * dials),
        lasted=Took((0, lasted, *[0] * (len(DURATION_BOUNDS_MS) - 1)), 2 * lasted),
    )


def member(total: int = 0, active: int = 0, refused: int = 0, *, ejected: bool = False) -> MemberView:
    failures: dict[Reason, int] = {**dict.fromkeys(MEMBER_REASONS, 0), Reason.REFUSED: refused}
    return MemberView(Address(bytes(16), 80), 1, ejected, total, active, failures)


def labels(name: str) -> Mapping[str, str]:
    return {"namespace": "default", "service": name, "port": "http"}


def endpoint(number: int, *members: MemberView) -> EndpointView:
    return endpoint_view(f"10.0.0.{number}:8080", members)


def of_service(
    name: str, *frontends: FrontendView, endpoints: Iterable[EndpointView] = (), has_affinity: bool = False
) -> ServiceView:
    return service_view(labels(name), frontends, tuple(endpoints), has_affinity=has_affinity)


def busy_node() -> NodeMetrics:
    """Of which everything is known."""
    took, programming = Distribution((0.001, 1.0)), Distribution(PROGRAMMING_BOUNDS_S)
    partial = Distribution((0.001, 1.0))
    took.add(0.5)
    partial.add(0.25)
    partial.add(2.0)
    programming.add(0.0)
    return NodeMetrics(
        build={"version": "1", "python_version": "3"},
        sync=SyncMetrics(
            families=("IPv4", "IPv6"),
            last_success_at_s=2.0,
            last_queued_at_s=1.0,
            failures=3,
            full_took=took,
            partial_took=partial,
            programming={"IPv4": programming},
            changes=(7, 8),
            pending=(1, 2),
            no_local={("IPv4", "internal"): 0, ("IPv4", "external"): 4},
        ),
        process=PROCESS,
        workers=(WorkerMetrics(0, "ready", 0.25, False, 1, 2, 3, 4.5, 5, 6, 7, 8),),
        worker_states={"ready": 1, "leaving": 0},
        watches=(Watch("services", float("inf"), 2),),
        answers={"healthz": {200: 5, 503: 6}, "livez": {}},
        problems={"Service": 1, "other": 0},
        affinity_entries=9,
        affinity_evictions=10,
    )


def busy_service(name: str = "web") -> ServiceView:
    """Of which everything is known."""
    return of_service(
        name,
        frontend(total=10, active=1, bytes_in=2, bytes_out=3, retries=4, affinity_hits=5, refused=6, dials=7, lasted=8),
        endpoints=(endpoint(1, member(3, 1)), endpoint(2, member(4, 0, 9, ejected=True))),
        has_affinity=True,
    )


def families(node: NodeMetrics, services: Iterable[ServiceView], limit: int = 50_000) -> list[Family]:
    several = list(services)
    return [*node_families(node), *service_families(several, shown([one.sizes for one in several], limit))]


Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(told: str, *, is_open_metrics: bool = False) -> dict[str, Any]:
    """By the name that the plain text has."""
    # the package gives one of them no types
    parse: Callable[[str], Iterable[Any]] = parsed_open_metrics if is_open_metrics else parsed_text
    return {family.name + "_total" * (family.type == "counter"): family for family in parse(told)}


def values(told: str, *, is_open_metrics: bool = False) -> Values:
    found = parsed(told, is_open_metrics=is_open_metrics).values()
    return {(one.name, frozenset(one.labels.items())): one.value for family in found for one in family.samples}


def flat(told: str, *, is_open_metrics: bool = False) -> dict[str, float]:
    """By the name and the labels' values, those that are not empty, in the order of their names."""
    found = values(told, is_open_metrics=is_open_metrics).items()
    return {" ".join((name, *(one for _, one in sorted(known) if one))): value for (name, known), value in found}
