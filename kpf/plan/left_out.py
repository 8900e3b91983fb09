"""Why endpoints of a frontend are not used: what `policy` and `allocation` have decided, told one by one. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import EndpointSet, FrontendKey, SocketAddress
from kpf.plan.allocation import Allocation
from kpf.plan.node import NodeFacts
from kpf.plan.policy import pieces_of, reserved_kind, unique_endpoints
from kpf.plan.service_plan import FrontendPlan, ServicePlan


class Judged(NamedTuple):
    """An endpoint of a frontend. `reason`: why it is not used, in words; "" if it is."""

    at: SocketAddress
    endpoint: Endpoint
    reason: str


def judged_endpoints(plan: ServicePlan, key: FrontendKey, allocation: Allocation) -> Iterator[Judged]:
    """Every endpoint that the slices have for the frontend, in stored order; first those that may not be dialled.

    `key` is one of `plan.frontends`.
    """
    facts, wanted = allocation.facts, plan.frontends[key]
    pieces = list(pieces_of(plan.slices, key.port.port, key.port.protocol, key.family))
    found = sorted(unique_endpoints(pieces).items(), key=lambda item: (int(item[0].address), item[0].port))
    why = _Why(key, facts, wanted, dict(found))
    forbidden = allocation.forbidden_to(key)
    for endpoints, port in pieces:
        for one in endpoints:
            if kind := reserved_kind(one.address):
                yield Judged(SocketAddress(one.address, port), one, f"{kind}: never dialled")
    for at, endpoint in found:
        if at not in wanted.members:
            yield Judged(at, endpoint, why.left_out(endpoint))
        else:
            reason = f"never dialled: {allocation.why_forbidden(at)}" if at in forbidden else ""
            yield Judged(at, endpoint, reason)


def slices_without_port(plan: ServicePlan, key: FrontendKey) -> Iterator[EndpointSlice]:
    """Slices of the frontend's family that have endpoints, and no port of its name and protocol."""
    for piece in plan.slices:
        served = any(pieces_of([piece], key.port.port, key.port.protocol, key.family))
        if piece.family is key.family and piece.endpoints and not served:
            yield piece


class _Why:
    def __init__(
        self, key: FrontendKey, facts: NodeFacts, wanted: FrontendPlan, known: dict[SocketAddress, Endpoint]
    ) -> None:
        self._facts, self._is_local = facts, key.endpoint_set is EndpointSet.LOCAL
        # those that terminate serve only while none is ready
        used = [known[at] for at in wanted.endpoints]
        self._some_ready = any(one.ready for one in used)
        self._hinted_by_node = all(facts.name in one.for_nodes for one in used)

    def left_out(self, endpoint: Endpoint) -> str:
        where = f"on node {endpoint.node_name}" if endpoint.node_name else "on a node that its slice does not name"
        if self._is_local and endpoint.node_name != self._facts.name:
            return f"{where}, and the policy is Local"
        if endpoint.ready:
            return self._hint(endpoint)
        if not endpoint.terminating:
            return "not ready"
        if endpoint.serving:
            return "terminating, and others are ready" if self._some_ready else "terminating"
        return "terminating, and not serving any more"

    def _hint(self, endpoint: Endpoint) -> str:
        """The only reason left for one that is ready."""
        if self._hinted_by_node and endpoint.for_nodes:
            return f"topology hint: for node {', '.join(endpoint.for_nodes)}"
        zone = f"zone {self._facts.zone}" if self._facts.zone else "an unknown zone"
        return f"topology hint: for zone {', '.join(endpoint.for_zones)}, and this node is in {zone}"
