"""How long it takes from a change of pods to its being in force. Pure.

As kube-proxy's `network_programming_duration_seconds` (Kubernetes 1.36, pkg/proxy/endpointschangetracker.go): of each
EndpointSlice that says when what it tells has happened, unless that was before this process began.
"""

from kpf.model.names import Family, ObjectName
from kpf.model.snapshot import Snapshot
from kpf.observe.families import Distribution
from kpf.observe.node_metrics import PROGRAMMING_BOUNDS_S


class ProgrammingTimes:
    """`by_family`: those that there have been. `since_s`: in seconds of the Unix epoch, as all moments here."""

    def __init__(self, since_s: float) -> None:
        self.by_family: dict[Family, Distribution] = {}
        self._since_s = since_s
        # by Service: what its slices have told last
        self._told: dict[ObjectName, dict[ObjectName, float]] = {}
        self._waiting: list[tuple[Family, float]] = []

    def note(self, snapshot: Snapshot) -> None:
        """What it tells is being applied."""
        for service in snapshot.touched:
            told, slices = self._told.pop(service, {}), snapshot.slices.get(service, ())
            for one in slices:
                if one.triggered_at_s > told.get(one.name, self._since_s):
                    self._waiting.append((one.family, one.triggered_at_s))
            if now := {one.name: one.triggered_at_s for one in slices if one.triggered_at_s > self._since_s}:
                self._told[service] = now

    def in_force(self, now_s: float) -> None:
        """All that was noted is."""
        for family, moment_s in self._waiting:
            took = self.by_family.setdefault(family, Distribution(PROGRAMMING_BOUNDS_S))
            took.add(max(now_s - moment_s, 0.0))
        self._waiting.clear()
