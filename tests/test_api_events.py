"""Which problems become Events, how often, and what an Event says."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kpf.model.names import ObjectName
from kpf.model.snapshot import Problem
from kpf.sources.api import correlator
from kpf.sources.api.correlator import BURST, EventCorrelator, PendingEvent, event, pending_event_of
from kpf.sources.decode import Kind

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(clock: Clock) -> EventCorrelator:
    return EventCorrelator(clock)


def problem(text: str = "is odd", *, of: str = "Service default/web") -> Problem:
    return Problem("", of, "spec.type", text)


def taken(notices: EventCorrelator) -> list[str]:
    """What is to be said: all that waits."""
    return [one.note for one in iter(notices.take, None)]


@pytest.mark.parametrize(
    ("of", "kind", "name"),
    [
        ("Service shop/web", Kind.SERVICE, ObjectName("shop", "web")),
        ("Node node-1", Kind.NODE, ObjectName("", "node-1")),
        ("EndpointSlice default/web-1", None, None),
        ("ServiceCIDR kubernetes", None, None),
        ("Service without a name", None, None),
        ("Service 'a b'", None, None),
        ("Service", None, None),
        ("", None, None),
    ],
)
def test_only_services_and_nodes_get_events(of: str, kind: Kind | None, name: ObjectName | None) -> None:
    notice = pending_event_of(problem(of=of))
    assert notice == (PendingEvent(kind, name, "spec.type: is odd") if kind and name else None)


def test_each_problem_once_an_hour(said: EventCorrelator, clock: Clock) -> None:
    for _ in range(3):
        said.add((problem("one"), problem("two")))
        clock.now_s += 1000.0
    assert taken(said) == ["spec.type: one", "spec.type: two"]
    clock.now_s += 600.0
    said.add((problem("one"),))
    assert taken(said) == ["spec.type: one"]


def test_an_object_has_a_burst_and_then_one_in_five_minutes(said: EventCorrelator, clock: Clock) -> None:
    def tell(number: int) -> int:
        clock.now_s += 0.001
        said.add((problem(f"problem {clock.now_s}"),) * number)
        return len(taken(said))

    assert sum(tell(1) for _ in range(BURST + 10)) == BURST
    said.add((problem(of="Service default/other"),))
    assert len(taken(said)) == 1
    clock.now_s += 299.0
    assert tell(1) == 0
    clock.now_s += 1.0
    assert [tell(1), tell(1)] == [1, 0]
    # the burst comes back, and no more than that
    clock.now_s += 300.0 * BURST * 2
    assert sum(tell(1) for _ in range(BURST + 10)) == BURST


def test_what_is_too_much_at_once_is_forgotten(said: EventCorrelator) -> None:
    said.add(tuple(problem(of=f"Service default/s{number}") for number in range(1000)))
    assert len(taken(said)) == correlator.MAX_WAITING
    said.add(tuple(problem(of=f"Service default/s{number}") for number in range(1000)))
    assert len(taken(said)) == correlator.MAX_WAITING


def test_what_was_said_is_remembered_within_bounds(said: EventCorrelator, clock: Clock) -> None:
    for number in range(correlator.MAX_KNOWN + 10):
        said.add((problem(of=f"Service default/s{number}"),))
        assert said.take() is not None
        clock.now_s += 1.0
    assert len(said._said_s) <= correlator.MAX_KNOWN
    said.add((problem(of=f"Service default/s{number}"),))
    assert said.take() is None


@pytest.mark.parametrize("text", ["x" * 5000, "\u20ac" * 2000, "\U0001f600" * 500])
def test_a_note_is_bounded_in_bytes(text: str) -> None:
    notice = pending_event_of(problem(text))
    assert notice is not None
    assert 1000 < len(notice.note.encode()) <= 1024
    assert notice.note.endswith("...")
    assert notice.note.startswith(f"spec.type: {text[:100]}")


def made(of: str, **options: Any) -> dict[str, Any]:
    notice = pending_event_of(problem(of=of))
    assert notice is not None
    return dict(event(notice, ("uid-7", "42"), node_name="node-1", now=NOW, **options))


def test_the_event_of_a_service() -> None:
    assert made("Service shop/web") == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": "web.", "namespace": "shop"},
        "eventTime": "2026-01-02T03:04:05.000678Z",
        "reportingController": "kpf.io/kpf",
        "reportingInstance": "kpf-node-1",
        "action": "Syncing",
        "reason": "NotServed",
        "type": "Warning",
        "note": "spec.type: is odd",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "shop",
            "name": "web",
            "uid": "uid-7",
            "resourceVersion": "42",
        },
    }


def test_the_event_of_a_node_is_where_kubectl_looks_for_it() -> None:
    node = made("Node node-1")
    assert node["metadata"]["namespace"] == "default"
    assert (node["regarding"]["uid"], node["regarding"]["namespace"]) == ("node-1", "")


def test_names_within_the_api_s_bounds() -> None:
    long = made(f"Service shop/{'x' * 253}")
    assert len(long["metadata"]["generateName"]) <= 248
    notice = pending_event_of(problem())
    assert notice is not None
    assert len(event(notice, ("", ""), node_name="n" * 253, now=NOW)["reportingInstance"]) <= 128
