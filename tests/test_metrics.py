"""What `/metrics` says: names, types, labels and values, within a limit, as both of its formats."""

from collections.abc import Iterable
from typing import Any

import pytest

from kpf.observe import exposition as rendering
from kpf.observe.exposition import exposition
from kpf.observe.families import Distribution, Family
from kpf.observe.node_metrics import PROGRAMMING_BOUNDS_S, SYNC_BOUNDS_S
from kpf.observe.service_metrics import Shown, closed, shown
from kpf.shm.layout import Reason
from tests.metrics_world import (
    busy_node,
    busy_service,
    endpoint,
    families,
    frontend,
    labels,
    member,
    of_service,
    parsed,
    values,
)

# kube-proxy's own, as seen on 1.36.2 in nftables mode: types, and labels
KUBE_PROXYS = {
    "kubeproxy_sync_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_full_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_network_programming_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds": ("gauge", {"ip_family"}),
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", {"ip_family"}),
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": ("gauge", {"ip_family", "traffic_policy"}),
    "kubeproxy_sync_proxy_rules_service_changes_total": ("counter", set()),
    "kubeproxy_sync_proxy_rules_endpoint_changes_total": ("counter", set()),
    "kubeproxy_sync_proxy_rules_service_changes_pending": ("gauge", set()),
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending": ("gauge", set()),
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total": ("counter", {"ip_family"}),
    "kubeproxy_proxy_healthz_total": ("counter", {"code"}),
}
OF_A_SERVICE = {"namespace", "service", "port"}
OURS = {
    "kpf_connections_total": OF_A_SERVICE,
    "kpf_connections_active": OF_A_SERVICE,
    "kpf_bytes_total": {*OF_A_SERVICE, "direction"},
    "kpf_dial_retries_total": OF_A_SERVICE,
    "kpf_connections_failed_total": {*OF_A_SERVICE, "reason"},
    "kpf_affinity_hits_total": OF_A_SERVICE,
    "kpf_dial_duration_seconds": OF_A_SERVICE,
    "kpf_connection_duration_seconds": OF_A_SERVICE,
    "kpf_dial_failures_total": {*OF_A_SERVICE, "endpoint", "reason"},
    "kpf_endpoint_shut_out": {*OF_A_SERVICE, "endpoint"},
    "kpf_endpoint_connections_total": {*OF_A_SERVICE, "endpoint"},
    "kpf_endpoint_connections_active": {*OF_A_SERVICE, "endpoint"},
    "kpf_workers": {"state"},
    "kpf_worker_restarts_total": {"worker"},
    "kpf_accept_paused_total": {"worker"},
    "kpf_affinity_entries": set(),
    "kpf_affinity_evictions_total": set(),
}


def text(told: Iterable[Family], *, is_open_metrics: bool = False) -> str:
    return b"".join(exposition(told, is_open_metrics=is_open_metrics)).decode()


def as_bound(value: str) -> str:
    return value if value == "+Inf" else repr(float(value))


def everything() -> list[Family]:
    return families(busy_node(), [busy_service()])


def test_what_is_kube_proxys_has_its_names_types_and_labels() -> None:
    found = parsed(text(everything()))
    for name, (kind, names) in KUBE_PROXYS.items():
        assert found[name].type == kind, name
        assert {label for one in found[name].samples for label in one.labels} - {"le"} == names, name


def test_what_is_kpfs_has_the_names_and_labels_that_others_rely_on() -> None:
    found = parsed(text(everything()))
    for name, names in OURS.items():
        assert {label for one in found[name].samples for label in one.labels} - {"le"} == names, name


def test_buckets_are_kube_proxys() -> None:
    assert tuple(round(0.001 * 2**power, 3) for power in range(15)) == SYNC_BOUNDS_S
    assert PROGRAMMING_BOUNDS_S[:5] == (0.0, 0.25, 0.5, 1, 2)
    assert PROGRAMMING_BOUNDS_S[-20:] == (59, *range(60, 116, 5), *range(120, 301, 30))


def test_each_value_is_where_it_belongs() -> None:
    found = values(text(everything()))
    web = frozenset(labels("web").items())
    second = web | {("endpoint", "10.0.0.2:8080")}
    assert {
        "connections": found["kpf_connections_total", web],
        "active": found["kpf_connections_active", web],
        "in": found["kpf_bytes_total", web | {("direction", "in")}],
        "out": found["kpf_bytes_total", web | {("direction", "out")}],
        "retries": found["kpf_dial_retries_total", web],
        "hits": found["kpf_affinity_hits_total", web],
        "failed": found["kpf_connections_failed_total", web | {("reason", "refused")}],
        "failures": found["kpf_dial_failures_total", second | {("reason", "refused")}],
        "shut out": found["kpf_endpoint_shut_out", second],
        "of an endpoint": found["kpf_endpoint_connections_total", second],
        "active of it": found["kpf_endpoint_connections_active", second],
        "4 ms": found["kpf_dial_duration_seconds_bucket", web | {("le", "0.004")}],
        "1 ms": found["kpf_dial_duration_seconds_bucket", web | {("le", "0.001")}],
        "all": found["kpf_dial_duration_seconds_bucket", web | {("le", "+Inf")}],
        "dialled": found["kpf_dial_duration_seconds_count", web],
        "dialled for": found["kpf_dial_duration_seconds_sum", web],
        "lasted": found["kpf_connection_duration_seconds_count", web],
        "lasted for": found["kpf_connection_duration_seconds_sum", web],
    } == {
        "connections": 10,
        "active": 1,
        "in": 2,
        "out": 3,
        "retries": 4,
        "hits": 5,
        "failed": 6,
        "failures": 9,
        "shut out": 1,
        "of an endpoint": 4,
        "active of it": 0,
        "4 ms": 7,
        "1 ms": 0,
        "all": 7,
        "dialled": 7,
        "dialled for": 0.021,
        "lasted": 8,
        "lasted for": 0.016,
    }
    assert ("kpf_endpoint_shut_out", web | {("endpoint", "10.0.0.1:8080")}) not in found


def test_full_syncs_and_others_are_told_apart() -> None:
    found = values(text(everything()))
    kinds, family = ("", "_full", "_partial"), frozenset({("ip_family", "IPv6")})
    counts = [found[f"kubeproxy_sync{kind}_proxy_rules_duration_seconds_count", family] for kind in kinds]
    assert counts == [3, 1, 2]


def test_both_formats_say_the_same() -> None:
    plain, other = values(text(everything())), values(text(everything(), is_open_metrics=True), is_open_metrics=True)
    assert other == {
        (name, frozenset((label, as_bound(value) if label == "le" else value) for label, value in known)): one
        for (name, known), one in plain.items()
    }
    assert text(everything(), is_open_metrics=True).endswith("\n# EOF\n")


def test_bounds_are_written_as_each_format_has_them() -> None:
    bound = 'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="%s"} 1.0\n'
    for either, bounds in ((False, ("0", "0.25", "300", "+Inf")), (True, ("0.0", "0.25", "300.0", "+Inf"))):
        told = text(everything(), is_open_metrics=either)
        assert all(bound % one in told for one in bounds)


def test_it_is_the_same_text_in_however_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [text(everything(), is_open_metrics=either) for either in (False, True)]
    monkeypatch.setattr(rendering, "AT_A_TIME", 3)
    pieces = list(exposition(everything(), is_open_metrics=False))
    assert max(piece.count(b"\n") for piece in pieces) == 5
    assert [text(everything(), is_open_metrics=either) for either in (False, True)] == whole


def test_names_with_every_byte_are_escaped() -> None:
    strange = 'a\\b\n"c"{},=\u00e9\U0001f600'
    view = of_service("web", frontend(total=1))._replace(labels={**labels("web"), "port": strange})
    for either in (False, True):
        found = values(text(families(busy_node(), [view]), is_open_metrics=either), is_open_metrics=either)
        assert found["kpf_connections_total", frozenset({**labels("web"), "port": strange}.items())] == 1


def test_an_idle_service_has_few_series() -> None:
    idle = of_service("idle", frontend(), endpoints=[endpoint(1, member())])
    assert idle.sizes == (5, 0, 2)


@pytest.mark.parametrize("view", [busy_service(), of_service("idle", frontend(), endpoints=[endpoint(1, member())])])
def test_sizes_are_what_is_made(view: Any) -> None:
    before = len(values(text(families(busy_node(), []))))
    counts, histograms, endpoints = view.sizes
    assert len(values(text(families(busy_node(), [view])))) - before == counts + histograms + endpoints
    assert len(values(text(families(busy_node(), [view], counts)))) - before == counts
    assert len(values(text(families(busy_node(), [view], counts + histograms)))) - before == counts + histograms


def test_what_matters_most_has_room_first() -> None:
    sizes = [(5, 27, 4)] * 10
    assert shown(sizes, 1000) == Shown(10, 10, 10, 360, 0)
    assert shown(sizes, 340) == Shown(10, 10, 5, 340, 20)
    # once something is left out, nothing that matters less is in
    assert shown(sizes, 330) == Shown(10, 10, 2, 328, 32)
    assert shown(sizes, 80) == Shown(10, 1, 0, 77, 283)
    assert shown(sizes, 9) == Shown(1, 0, 0, 5, 355)
    assert shown(sizes, 0) == Shown(0, 0, 0, 0, 360)
    assert shown([], 10) == Shown(0, 0, 0, 0, 0)


def test_a_service_port_has_all_that_its_frontends_have() -> None:
    view = of_service("web", frontend(total=1, refused=1, dials=1), frontend(total=2, refused=3, lasted=2))
    assert (view.total, view.failed) == (3, {Reason.REFUSED: 4})
    assert view.dials == frontend(dials=1).dials
    assert view.lasted == frontend(lasted=2).lasted


def test_a_frontend_that_has_ended_leaves_its_counts() -> None:
    one, other = frontend(total=5, active=2, dials=1, affinity_entries=3), frontend(total=7, refused=1, dials=2)
    assert closed(one, None) == frontend(total=5, dials=1)._replace(failed={})
    assert closed(other, one) == frontend(total=12, dials=3)._replace(failed={Reason.REFUSED: 1})


def test_a_distribution_counts_by_its_bounds() -> None:
    took = Distribution((0.0, 1.0, 2.5))
    for time_s in (0.0, 0.5, 1.0, 2.5, 3.0):
        took.add(time_s)
    assert took.buckets == [1, 2, 1, 1]
    assert took.plus(took).buckets == [2, 4, 2, 2]
    cumulated = [(one.suffix, one.labels.get("le"), one.value) for one in took.series({"a": "b"})]
    buckets = [("_bucket", "0", 1), ("_bucket", "1", 3), ("_bucket", "2.5", 4), ("_bucket", "+Inf", 5)]
    assert cumulated == [*buckets, ("_count", None, 5), ("_sum", None, 7.0)]
