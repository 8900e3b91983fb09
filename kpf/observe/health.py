"""What `/healthz` and `/livez` answer, as pure functions of what the daemon knows.

Behaviour as kube-proxy's `pkg/proxy/healthcheck/proxy_health.go` (Kubernetes 1.36): not healthy once a change has
waited too long to be applied; `/healthz` fails also while the node is being deleted. Beyond kube-proxy, neither is
healthy before the first sync, and `/healthz` not while the daemon drains. There is no `status` by IP family: one sync
is for both.
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

    @property
    def up_to_date(self) -> bool:
        """What is wanted is in force, but for changes that have not waited for long."""
        return self.synced and self.waiting_s < WAIT_LIMIT_S

    @property
    def takes_connections(self) -> bool:
        """Whether the proxy does its work for new connections, whatever becomes of the node."""
        return self.up_to_date and not self.draining


def answer(health: Health, now: datetime, *, with_node: bool) -> tuple[int, dict[str, object]]:
    """HTTP status and JSON body. `with_node`: for `/healthz`, which also says whether the node wants new traffic."""
    healthy = health.takes_connections if with_node else health.up_to_date
    # whoever spreads traffic over nodes must not send more of it to one that is being deleted
    good = healthy and (health.node_eligible or not with_node)
    body: dict[str, object] = {
        # as if there were a sync every moment: it was so in old versions of kube-proxy, and those who ask rely on it
        "lastUpdated": _text(now if good else now - timedelta(seconds=health.last_success_s)),
        "currentTime": _text(now),
        "healthy": healthy,
    }
    if with_node:
        body["nodeEligible"] = health.node_eligible
    return (200 if good else 503), body


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
