"""Which problems become Events, and what an Event says. Pure.

Rules: each problem once an hour; each object a burst of 25 Events and then one in 5 minutes, as client-go's spam filter
has it (Kubernetes 1.36, tools/record/events_cache.go). Only Services and Nodes get Events, as from kube-proxy.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kpf.model.names import ObjectName
from kpf.model.snapshot import Problem
from kpf.sources.decode import API_VERSIONS, Kind

AGAIN_S = 3600.0
BURST = 25
REFILL_S = 300.0
# of things that may be said at all, so that many objects do not become many Events a second
MAX_WAITING = 100
MAX_KNOWN = 10_000
MAX_NOTE_BYTES = 1024  # pkg/apis/core/validation/events.go

CONTROLLER = "kpf.io/kpf"
REASON, ACTION = "NotServed", "Syncing"


class PendingEvent(NamedTuple):
    """`note`: what there is to say about the object."""

    kind: Kind
    name: ObjectName
    note: str


def pending_event_of(problem: Problem) -> PendingEvent | None:
    """None for what no object of these kinds is to blame for."""
    kind, _, name = problem.object.partition(" ")
    # beside kube-proxy it is served all the same
    if problem.is_limit or kind not in (Kind.SERVICE, Kind.NODE) or not name or " " in name:
        return None
    namespace, _, plain = name.rpartition("/")
    note = f"{problem.field}: {problem.message}" if problem.field else problem.message
    return PendingEvent(Kind(kind), ObjectName(namespace, plain), _bounded(note))


def _bounded(note: str) -> str:
    data = note.encode()
    return note if len(data) <= MAX_NOTE_BYTES else data[: MAX_NOTE_BYTES - 3].decode("utf-8", "ignore") + "..."


class EventCorrelator:
    """What is still to be said. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said_s: dict[PendingEvent, float] = {}
        # left of the burst, and since when
        self._credit: dict[tuple[Kind, ObjectName], tuple[float, float]] = {}
        self._waiting: list[PendingEvent] = []

    def add(self, problems: tuple[Problem, ...]) -> None:
        """These are problems now. What is too much is forgotten: Events are a courtesy, the log has everything."""
        now_s = self._clock()
        for pending in filter(None, map(pending_event_of, problems)):
            said_s = self._said_s.get(pending)
            if said_s is not None and now_s - said_s < AGAIN_S:
                continue
            if len(self._waiting) < MAX_WAITING and self._may_say(pending, now_s):
                self._said_s[pending] = now_s
                self._waiting.append(pending)
        if len(self._said_s) > MAX_KNOWN:
            self._said_s = {pending: at_s for pending, at_s in self._said_s.items() if now_s - at_s < AGAIN_S}
            self._credit.clear()

    def _may_say(self, pending: PendingEvent, now_s: float) -> bool:
        left, since_s = self._credit.get(pending[:2], (float(BURST), now_s))
        left = min(left + (now_s - since_s) / REFILL_S, BURST)
        may_say = left >= 1
        self._credit[pending[:2]] = (left - may_say, now_s)
        return may_say

    def take(self) -> PendingEvent | None:
        """The next one to say, in the order in which they came; None if there is none."""
        return self._waiting.pop(0) if self._waiting else None


def event(pending: PendingEvent, version: tuple[str, str], *, node_name: str, now: datetime) -> Mapping[str, Any]:
    """An `events.k8s.io/v1` Event. `version`: the object's uid and resourceVersion."""
    uid, resource_version = version
    namespace = pending.name.namespace or "default"
    moment = now.astimezone(UTC)
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # a generated name has 5 random characters more, and 253 are the most
        "metadata": {"generateName": f"{pending.name.name[:200]}.", "namespace": namespace},
        "eventTime": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": f"kpf-{node_name}"[:128],
        "action": ACTION,
        "reason": REASON,
        "type": "Warning",
        "note": pending.note,
        "regarding": {
            "apiVersion": API_VERSIONS[pending.kind],
            "kind": str(pending.kind),
            "namespace": pending.name.namespace,
            "name": pending.name.name,
            # as kubectl describe finds the Events of a Node: by its name
            "uid": uid if pending.kind is Kind.SERVICE else pending.name.name,
            "resourceVersion": resource_version,
        },
    }
