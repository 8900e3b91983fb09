"""Stages 1 and 2 from one snapshot to the next."""

from collections.abc import Iterable

from kpf.model.names import ObjectName
from kpf.model.snapshot import Snapshot
from kpf.plan.differences import replaced
from kpf.plan.node import NodeFacts
from kpf.plan.ownership import Ownership, assign_portals
from kpf.plan.service_plan import Claims, ServicePlan, ServicePlans, counts, plan_service


class Planner:
    """Plans again only those Services of which something has changed.

    What has not changed is the same object the next time: a Service's plan, and the ownership as long as no Service
    comes, goes, or claims something else.
    """

    def __init__(self) -> None:
        self._plans: ServicePlans = {}
        self._ownership = Ownership()
        # of the node, as plans have read it
        self._read: tuple[object, ...] | None = None
        self._serial = 0

    def plan(self, snapshot: Snapshot, facts: NodeFacts) -> tuple[ServicePlans, Ownership]:
        """The plan of every Service that counts, and who owns each portal."""
        read, old = facts.read_by_service_plans, self._plans
        is_same_node = read == self._read
        plans: dict[ObjectName, ServicePlan] = {}
        claims: dict[ObjectName, Claims | None] = {}
        for name in self._suspects(snapshot, is_same_node=is_same_node):
            before = old.get(name)
            now = _plan(name, snapshot, facts, before if is_same_node else None)
            if now is before:
                continue
            asked = now.claims if now is not None else None
            if before is None or before.claims != asked:
                claims[name] = asked
            if now is not None:
                plans[name] = now
        gone = {name for name, asked in claims.items() if asked is None}
        if claims:
            self._ownership = assign_portals(self._ownership, claims)
        self._plans, self._read, self._serial = replaced(old, plans, gone), read, snapshot.serial
        return self._plans, self._ownership

    def _suspects(self, snapshot: Snapshot, *, is_same_node: bool) -> Iterable[ObjectName]:
        """Services whose plan may not be what it was."""
        if is_same_node and self._serial:
            if snapshot.serial == self._serial:
                return ()
            if snapshot.previous == self._serial:
                return snapshot.touched
        return {**self._plans, **snapshot.services}


def _plan(name: ObjectName, snapshot: Snapshot, facts: NodeFacts, before: ServicePlan | None) -> ServicePlan | None:
    """None if the Service does not count."""
    service, slices = snapshot.services.get(name), snapshot.slices.get(name, ())
    if service is None or not counts(service):
        return None
    # a tuple's == tries `is` first: unchanged objects cost no comparison of their content
    if before is not None and (before.service, before.slices) == (service, slices):
        return before
    return plan_service(service, slices, facts)
