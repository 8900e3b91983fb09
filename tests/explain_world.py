"""What `kpf explain` is asked of, in tests: a plan, the rules in force, and what shared memory would say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kpf.explain.answer import answer
from kpf.explain.question import client_of, what_of
from kpf.explain.rows import client_at
from kpf.explain.state import AffinityEntry, State
from kpf.model.endpoint import EndpointSlice
from kpf.model.names import FrontendKey, IPAddress, SocketAddress
from kpf.model.rules import Rules
from kpf.model.service import Service
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from tests.values import snapshot

PORTS = ProxyPorts(range(20000, 30000), 10_000, lambda _: True)


def planned(facts: NodeFacts, *objects: Service | EndpointSlice, ports: ProxyPorts = PORTS) -> DesiredState:
    plans, ownership = Planner().plan(snapshot(*objects), facts)
    return desired_state(plans, allocate(ownership, facts, ports))


@dataclass
class Asked:
    """`ejected` and `entries` of all frontends alike; `is_closed`: none of them is open."""

    desired: DesiredState
    rules: Rules | None
    ejected: frozenset[SocketAddress] = frozenset()
    entries: Mapping[str, AffinityEntry] = field(default_factory=dict)
    in_kernel: Mapping[FrontendKey, AffinityEntry | None] = field(default_factory=dict)
    is_closed: bool = False

    def state(self) -> State:
        def ejected(_: Listener) -> frozenset[SocketAddress]:
            return self.ejected

        def entry(_: Listener, client: IPAddress) -> AffinityEntry | None:
            return self.entries.get(str(client))

        frontends = {} if self.is_closed else self.desired.frontends
        return State(self.desired, self.rules, frontends, ejected, entry, self.in_kernel)

    def explain(self, what: str, client: str | None = None) -> dict[str, Any]:
        """Raises what `answer` does."""
        return self.turns(what, client)[0]

    def turns(self, what: str, client: str | None = None) -> tuple[dict[str, Any], int]:
        """With how often others had their turn."""
        state = self.state()
        turns, count = answer(what_of(what), client_at(client_of(client), state) if client else None, state), 0
        while True:
            try:
                next(turns)
            except StopIteration as end:
                return end.value.told, count
            count += 1

    def row(self, what: str, origin: str = "node", client: str | None = None) -> dict[str, Any]:
        """Of the only destination."""
        (destination,) = self.explain(what, client)["destinations"]
        row: dict[str, Any] = destination["from"][origin]
        return row


def asked(facts: NodeFacts, *objects: Service | EndpointSlice, ports: ProxyPorts = PORTS) -> Asked:
    desired = planned(facts, *objects, ports=ports)
    return Asked(desired, desired.rules)
