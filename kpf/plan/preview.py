"""What a daemon would do first, for `kpf render` and `kpf check`. Pure."""

from collections.abc import Iterator

from kpf.model.names import Forwarding, FrontendKey
from kpf.model.snapshot import Snapshot
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner

NO_LIMIT = 1 << 16


def first_choice(snapshot: Snapshot, facts: NodeFacts, port_range: range) -> DesiredState:
    """The desired state if every proxy port were free."""
    plans, ownership = Planner().plan(snapshot, facts)
    ports = ProxyPorts(port_range, NO_LIMIT, lambda _: True)
    return desired_state(plans, allocate(ownership, facts, ports))


def plan_lines(state: DesiredState) -> Iterator[str]:
    """The plan, a line each: frontends with their portals and endpoints."""
    for address in sorted(state.rules.own_addresses, key=lambda one: one.packed):
        yield f"proxy address {address} on lo"
    portals: dict[FrontendKey, list[str]] = {}
    for claims in state.captured.values():
        for claim in claims:
            for key in claim.frontends:
                portals.setdefault(key, []).append(str(claim.portal))
    for listener, frontend in sorted(state.frontends.items(), key=lambda item: item[0].frontend):
        affinity = f", ClientIP {frontend.affinity_timeout_s} s" if frontend.affinity_timeout_s else ""
        yield f"{listener.frontend}: proxy port {listener.at.port} on {listener.at.address}{affinity}"
        yield f"  portals: {', '.join(portals.pop(listener.frontend, ()))}"
        yield f"  endpoints: {', '.join(map(str, frontend.endpoints)) or 'none: refused'}"
    # what is left is the kernel's
    for key, those in sorted(portals.items()):
        if key.forwarding is Forwarding.PROXIED:
            yield f"{key}: not served"
            continue
        forward = state.rules.forwards.get(key)
        affinity = f", ClientIP {forward.affinity_timeout_s} s" if forward and forward.affinity_timeout_s else ""
        yield f"{key}: direct{affinity}"
        yield f"  portals: {', '.join(those)}"
        yield f"  endpoints: {', '.join(map(str, forward.endpoints)) if forward else 'none'}"
