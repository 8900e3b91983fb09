"""When the daemon calls itself healthy."""

from datetime import UTC, datetime

import pytest

from kpf.observe.health import Health, answer

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("health", "healthz", "livez"),
    [
        (Health(synced=True, waiting_s=0, last_success_s=1), 200, 200),
        (Health(synced=True, waiting_s=59.9, last_success_s=60), 200, 200),
        (Health(synced=True, waiting_s=60, last_success_s=61), 503, 503),
        (Health(synced=False, waiting_s=1, last_success_s=1), 503, 503),
        (Health(synced=True, waiting_s=0, last_success_s=1, node_eligible=False), 503, 200),
        (Health(synced=True, waiting_s=0, last_success_s=1, draining=True), 503, 200),
    ],
    ids=[
        "quiet",
        "a change waits",
        "a change waits too long",
        "before the first sync",
        "node being deleted",
        "draining",
    ],
)
def test_answers(health: Health, healthz: int, livez: int) -> None:
    assert answer(health, NOW, with_node=True)[0] == healthz
    assert answer(health, NOW, with_node=False)[0] == livez


def test_bodies() -> None:
    _, body = answer(Health(synced=True, waiting_s=0, last_success_s=5), NOW, with_node=True)
    times = {"lastUpdated": "2026-01-02T03:04:00Z", "currentTime": "2026-01-02T03:04:05Z"}
    assert body == {**times, "healthy": True, "nodeEligible": True}
    _, body = answer(Health(synced=True, waiting_s=0, last_success_s=5), NOW, with_node=False)
    assert body == {**times, "healthy": True}
