"""When the daemon calls itself healthy."""

from dataclasses import replace
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


TIMES = {"lastUpdated": "2026-01-02T03:04:05Z", "currentTime": "2026-01-02T03:04:05Z"}
LONG_AGO = {**TIMES, "lastUpdated": "2026-01-02T03:03:05Z"}
FINE = Health(synced=True, waiting_s=0, last_success_s=60)


@pytest.mark.parametrize(
    ("health", "healthz", "livez"),
    [
        (FINE, {**TIMES, "healthy": True, "nodeEligible": True}, {**TIMES, "healthy": True}),
        (
            replace(FINE, waiting_s=60),
            {**LONG_AGO, "healthy": False, "nodeEligible": True},
            {**LONG_AGO, "healthy": False},
        ),
        # it is not the proxy that ails
        (
            replace(FINE, node_eligible=False),
            {**LONG_AGO, "healthy": True, "nodeEligible": False},
            {**TIMES, "healthy": True},
        ),
        (
            replace(FINE, draining=True),
            {**LONG_AGO, "healthy": False, "nodeEligible": True},
            {**TIMES, "healthy": True},
        ),
    ],
    ids=["quiet", "a change waits too long", "node being deleted", "draining"],
)
def test_bodies(health: Health, healthz: dict[str, object], livez: dict[str, object]) -> None:
    assert answer(health, NOW, with_node=True)[1] == healthz
    assert answer(health, NOW, with_node=False)[1] == livez


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (FINE, True),
        (replace(FINE, node_eligible=False), True),
        (replace(FINE, draining=True), False),
        (replace(FINE, waiting_s=60), False),
        (replace(FINE, synced=False), False),
    ],
    ids=["quiet", "node being deleted", "draining", "a change waits too long", "before the first sync"],
)
def test_what_the_health_checks_of_services_are_told(health: Health, expected: bool) -> None:
    assert health.takes_connections is expected
