"""The frontends of an answer: where they listen, which endpoints they use, and why not the others. Pure."""

from itertools import islice
from typing import NamedTuple

from kpf.explain.state import State, Turns
from kpf.model.names import Forwarding, FrontendKey, SocketAddress
from kpf.plan.allocation import Listener
from kpf.plan.left_out import judged_endpoints, slices_without_port

# of an answer, all frontends together: what is beyond is counted
MAX_ENDPOINTS = 4_000
# of one frontend
MAX_SLICES = 10
# that are looked at before others get their turn
ENDPOINTS_A_TURN = 500


class Use(NamedTuple):
    """An endpoint of a frontend as it is in force. `reason`: why it is not used, "" if it is."""

    at: SocketAddress
    node: str
    reason: str


class Frontends:
    """Gathers those that an answer names."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._room = MAX_ENDPOINTS
        self._named: dict[str, FrontendKey] = {}

    def name(self, key: FrontendKey) -> str:
        """By which the answer has it among its frontends; it will be there, if the plan has it."""
        name = f"{key}, {key.forwarding}"
        if self._is_planned(key):
            self._named[name] = key
        return name

    def told(self) -> Turns[dict[str, object]]:
        """Those that have been named, by name."""
        told: dict[str, object] = {}
        for name, key in self._named.items():
            told[name] = yield from self._tell(key)
        return told

    def _is_planned(self, key: FrontendKey) -> bool:
        plan = self._state.desired.plans.get(key.port.service_name)
        return plan is not None and key in plan.frontends

    def listener(self, key: FrontendKey) -> Listener | None:
        """None if it has none that is open."""
        listener = self._state.desired.allocation.listeners.get(key)
        return listener if listener in self._state.frontends else None

    def uses(self, key: FrontendKey) -> Turns[list[Use]]:
        """All its endpoints. `key`: of the plan."""
        state = self._state
        left, ejected = self._served(key), self.ejected(key)
        yield
        judged = judged_endpoints(state.desired.plans[key.port.service_name], key, state.desired.allocation)
        uses = []
        for number, (at, endpoint, reason) in enumerate(judged, 1):
            if number % ENDPOINTS_A_TURN == 0:
                yield
            if at in ejected:
                reason = "shut out: it has failed, and is passed over for a while"
            elif at in left:
                del left[at]
                reason = ""
            elif not reason:
                is_open = key.forwarding is Forwarding.DIRECT or self.listener(key) is not None
                reason = "not in force yet" if is_open else "its frontend is not served"
            uses.append(Use(at, endpoint.node_name, reason))
        # the plan has them no more
        return [*(Use(at, "", "") for at in left if at not in ejected), *uses]

    def _served(self, key: FrontendKey) -> dict[SocketAddress, None]:
        """What workers, or the kernel, have."""
        listener = self.listener(key)
        if listener is not None:
            return dict.fromkeys(self._state.frontends[listener].endpoints)
        forward = self._state.in_force.forwards.get(key) if key.forwarding is Forwarding.DIRECT else None
        return dict.fromkeys(forward.endpoints if forward else ())

    def ejected(self, key: FrontendKey) -> frozenset[SocketAddress]:
        """Those of its endpoints that are passed over."""
        listener = self.listener(key)
        if listener is None:
            return frozenset()
        found = self._state.ejected(listener)
        # while all are, none is
        return found if found and not found.issuperset(self._served(key)) else frozenset()

    def _tell(self, key: FrontendKey) -> Turns[dict[str, object]]:
        plan, listener = self._state.desired.plans[key.port.service_name], self.listener(key)
        uses = yield from self.uses(key)
        yield
        used = [one for one in uses if not one.reason]
        left_out = [one for one in uses if one.reason]
        return {
            "forwarding": str(key.forwarding),
            "endpointSet": str(key.endpoint_set),
            "proxyPort": str(listener.at) if listener else None,
            "affinityTimeoutSeconds": plan.frontends[key].affinity_timeout_s,
            "limited": listener is not None and self._state.frontends[listener].may_loop,
            "endpointsUsed": len(used),
            "endpointsLeftOut": len(left_out),
            "endpoints": [{"address": str(at), "node": node or None} for at, node, _ in self._take(used)],
            "leftOut": [
                {"address": str(at), "node": node or None, "reason": reason}
                for at, node, reason in self._take(left_out)
            ],
            "slicesWithoutPort": [str(piece.name) for piece in islice(slices_without_port(plan, key), MAX_SLICES)],
        }

    def _take(self, uses: list[Use]) -> list[Use]:
        taken = uses[: self._room]
        self._room -= len(taken)
        return taken
