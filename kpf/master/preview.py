"""What a daemon started here would do first, without doing it: for `kpf render` and `kpf check`."""

import sys
from collections.abc import Iterator

from kpf.config import Config
from kpf.master.facts import NodeWatch
from kpf.master.source import read_once
from kpf.model.names import Forwarding, FrontendKey
from kpf.model.snapshot import Problem, Snapshot
from kpf.nft.text import render
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


def problems(config: Config, snapshot: Snapshot) -> list[Problem]:
    """What the plan has to leave out against the author's intent."""
    return list(first_choice(snapshot, NodeWatch.read(config).facts(snapshot), config.port_range.ports).problems)


def main(config: Config) -> int:
    """Print the ruleset as one `nft -f` file; problems go to standard error. 0, or 2 if there are any.

    1 if the source does not tell what it has.
    """
    try:
        snapshot = read_once(config)
    except OSError as error:
        print(f"kpf render: {error}", file=sys.stderr)
        return 1
    state = first_choice(snapshot, NodeWatch.read(config).facts(snapshot), config.port_range.ports)
    sys.stdout.write(render(state.rules, plan_lines(state)))
    found = (*snapshot.problems, *state.problems)
    for problem in found:
        print(problem, file=sys.stderr)
    return 2 if found else 0


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
