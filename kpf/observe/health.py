"""What `/healthz` and `/livez` answer, as pure functions of what the daemon knows.

Behaviour as kube-proxy's `pkg/proxy/healthcheck/proxy_health.go` (Kubernetes 1.36): not healthy before the first sync
and once a change has waited too long to be applied; `/healthz` alone also not while the node is being deleted or,
beyond kube-proxy, while the daemon drains.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WAIT_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """`waiting_s` is how long the oldest unapplied change has waited; `last_success_s`, seconds since the last sync."""

    synced: bool
    waiting_s: float
    last_success_s: float
    node_eligible: bool = True
    draining: bool = False


def answer(health: Health, now: datetime, *, with_node: bool) -> tuple[int, dict[str, object]]:
    """HTTP status and JSON body. `with_node`: for `/healthz`, which also says whether the node wants new traffic."""
    healthy = health.synced and health.waiting_s < WAIT_LIMIT_S
    if with_node:
        # whoever spreads traffic over nodes must not send more of it here
        healthy = healthy and health.node_eligible and not health.draining
    body: dict[str, object] = {
        "lastUpdated": _text(now - timedelta(seconds=health.last_success_s)),
        "currentTime": _text(now),
        "healthy": healthy,
    }
    if with_node:
        body["nodeEligible"] = health.node_eligible
    return (200 if healthy else 503), body


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
