"""Stage 3: what is allocated.

Knows who owns each portal, this node's facts, and what is open. Adds a proxy port and listener for each proxied
frontend, and what follows from all of them: which addresses may be neither dialled nor captured.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from kpf.model.names import Forwarding, FrontendKey, IPAddress, ObjectName, Protocol, SocketAddress, family_of
from kpf.model.rules import NodePort, Portal
from kpf.model.snapshot import Problem
from kpf.plan.node import NodeFacts
from kpf.plan.ownership import Ownership
from kpf.plan.ports import assign_ports
from kpf.plan.routes import PortalClaim
from kpf.plan.service_plan import FrontendPlan


class Listener(NamedTuple):
    """Where a frontend's connections arrive. Its `address` may be the unspecified one."""

    frontend: FrontendKey
    at: SocketAddress

    def __hash__(self) -> int:
        # no two that are open at one address have one port; to hash the address takes longer than all else
        return hash(self.at.port)


# compared by identity: it is kept for as long as it holds
@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """What becomes of a Service's frontends and portals depends on its own plan and on this, and on nothing else.

    `listeners`: of the frontends that have a proxy port. `protected`: these, and those that are still open: reached
    through portals alone, and dialled by nobody. `captured`: the portals that each Service owns, one at least, without
    those where kpf itself listens.
    `listening`: where kpf listens for all of them: what is sent there by TCP comes back to kpf. Where nothing tells the
    workers' dials from others, so does what they send to a portal: `node_ports_at`, and `portals_at`: all others.
    `forbidden`: all places from where a worker's dial would come back. `cluster_ips`: those whose other ports are
    refused. `node_port_numbers`: of TCP. `port_range`: from which proxy ports were chosen.
    """

    ownership: Ownership = field(default_factory=Ownership)
    facts: NodeFacts = field(default_factory=lambda: NodeFacts("", {}))
    listeners: Mapping[FrontendKey, Listener] = field(default_factory=dict)
    protected: frozenset[Listener] = frozenset()
    captured: Mapping[ObjectName, tuple[PortalClaim, ...]] = field(default_factory=dict)
    listening: frozenset[SocketAddress] = frozenset()
    node_ports_at: frozenset[SocketAddress] = frozenset()
    portals_at: frozenset[SocketAddress] = frozenset()
    forbidden: frozenset[SocketAddress] = frozenset()
    cluster_ips: frozenset[IPAddress] = frozenset()
    node_port_numbers: frozenset[int] = frozenset()
    problems: tuple[Problem, ...] = ()
    port_range: range = range(0)

    @property
    def is_complete(self) -> bool:
        """All frontends that need a proxy port have one."""
        return len(self.listeners) == len(self.ownership.proxied)

    def holds(self, ownership: Ownership, facts: NodeFacts, still_open: frozenset[Listener]) -> bool:
        """True if it would be made the same again: all frontends have the ports that they have open."""
        return self.ownership is ownership and self.facts == facts and self.is_complete and self.protected == still_open

    def forbidden_to(self, key: FrontendKey) -> frozenset[SocketAddress]:
        """What may not be dialled. The kernel rewrites a destination once, so there are no portals on the way back."""
        if key.port.protocol is not Protocol.TCP:
            # at the number of a proxy port a pod may listen
            return frozenset()
        return self.forbidden if key.forwarding is Forwarding.PROXIED else self.listening

    def may_loop(self, frontend: FrontendPlan) -> bool:
        """A connection may come back for ever, by another node, where an endpoint is a portal as it is here."""
        portals, numbers = self.ownership.addresses, self.node_port_numbers
        if frontend.members.isdisjoint(portals) and frontend.ports.isdisjoint(numbers):
            return False
        found = chain(frontend.members & portals, (at for at in frontend.members if at.port in numbers))
        return any(at.address not in self.facts.local_addresses for at in found)

    def same_portals(self, other: "Allocation") -> bool:
        """What `may_loop` says is the same for all frontends."""
        return (self.ownership.addresses, self.node_port_numbers, self.facts.local_addresses) == (
            other.ownership.addresses,
            other.node_port_numbers,
            other.facts.local_addresses,
        )

    def why_forbidden(self, at: SocketAddress) -> str:
        """In words, for somebody who is told that an endpoint is refused; `at` is one of `forbidden`."""
        if at in self.node_ports_at:
            return "it is itself a node port"
        return "it is itself a portal" if at in self.portals_at else "it is a proxy port"

    def ruled_otherwise(self, before: "Allocation") -> frozenset[SocketAddress]:
        """Addresses that may be dialled now and could not before, or the other way round, or for another reason."""
        return (
            (self.listening ^ before.listening)
            | (self.portals_at ^ before.portals_at)
            | (self.node_ports_at ^ before.node_ports_at)
        )


class ProxyPorts(NamedTuple):
    """The ports that frontends may have, `limit` frontends at most. `is_free`: whether one can listen there."""

    range: range
    limit: int
    is_free: Callable[[Listener], bool]


def allocate(
    ownership: Ownership,
    facts: NodeFacts,
    ports: ProxyPorts,
    *,
    before: Allocation | None = None,
    open_now: Iterable[Listener] = (),
    still_open: frozenset[Listener] = frozenset(),
    left_out: Mapping[FrontendKey, str] | None = None,
) -> Allocation:
    """All frontends keep their ports, and new ones get theirs: `before` itself if it holds.

    `open_now`: where frontends listen. `still_open`: these, and those that nobody wants any more and that are not
    closed yet. `left_out`: frontends that are not to be served, and why.
    """
    before, unwanted = before or Allocation(), dict(left_out or {})
    if not unwanted and before.port_range == ports.range and before.holds(ownership, facts, still_open):
        return before
    addresses = facts.listening_addresses()
    assigned = assign_ports(
        [key for key in ownership.proxied if key not in unwanted],
        # a port is a frontend's own at the address where it listens: elsewhere a stranger may have it
        {key: at.port for key, at in open_now if at.address == addresses.get(key.family)},
        port_range=ports.range,
        reserved=frozenset(portal.port for portal in ownership.node_ports),
        limit=ports.limit,
        is_free=lambda key, port: ports.is_free(Listener(key, SocketAddress(addresses[key.family], port))),
    )
    reasons = why_left_out(ownership, len(assigned), ports.limit) | unwanted
    made = allocation_of(ownership, assigned, facts, before=before, left_out=reasons, still_open=still_open)
    return replace(made, port_range=ports.range)


def why_left_out(ownership: Ownership, served: int, limit: int) -> dict[FrontendKey, str]:
    """What is to be said of frontends without a proxy port, if it is not that none is left."""
    if served < limit or served == len(ownership.proxied):
        return {}
    reason = f"no descriptor is left for more than {limit} frontends (RLIMIT_NOFILE; LimitNOFILE of a unit)"
    return dict.fromkeys(ownership.proxied, reason)


def allocation_of(
    ownership: Ownership,
    assigned: Mapping[FrontendKey, int],
    facts: NodeFacts,
    *,
    before: Allocation | None = None,
    left_out: Mapping[FrontendKey, str] | None = None,
    still_open: frozenset[Listener] = frozenset(),
) -> Allocation:
    """What follows from these proxy ports.

    `before`: listeners of unchanged frontends are taken from there. `left_out`: frontends without a port, for another
    reason than that none is left. `still_open`: listeners that are protected whether or not they are wanted any more.
    """
    listeners = _listeners(assigned, facts, before or Allocation())
    protected = still_open.union(listeners.values())
    listening = _listening(protected, facts)
    # anybody who may write slices could ask for a dial that comes back for ever
    leads_back = facts.worker_uid is None
    node_ports_at = frozenset(_node_ports_at(ownership, facts) if leads_back else ())
    portals_at = ownership.addresses if leads_back else frozenset[SocketAddress]()
    captured, problems = _captured(ownership, listening, facts)
    return Allocation(
        ownership=ownership,
        facts=facts,
        listeners=listeners,
        protected=protected,
        captured=captured,
        listening=listening,
        node_ports_at=node_ports_at,
        portals_at=portals_at,
        forbidden=listening | portals_at | node_ports_at if leads_back else listening,
        # else a ClusterIP that is this node's own address would close all other ports of the node
        cluster_ips=ownership.cluster_ips - facts.local_addresses,
        node_port_numbers=frozenset(one.port for one in ownership.node_ports if one.protocol is Protocol.TCP),
        problems=(
            *ownership.problems,
            *_unserved(ownership, listeners, left_out or {}),
            *problems,
            *ownership.refused_health_checks,
        ),
    )


def _listeners(
    ports: Mapping[FrontendKey, int], facts: NodeFacts, before: Allocation
) -> Mapping[FrontendKey, Listener]:
    """The very same objects as before where a frontend listens where it did."""
    addresses = facts.listening_addresses()
    known = before.listeners if before.facts.listening_addresses() == addresses else {}
    found = {}
    for key, port in ports.items():
        listener = known.get(key)
        if listener is None or listener.at.port != port:
            listener = Listener(key, SocketAddress(addresses[key.family], port))
        found[key] = listener
    return found


def _listening(protected: frozenset[Listener], facts: NodeFacts) -> frozenset[SocketAddress]:
    places = frozenset(map(attrgetter("at"), protected))
    # few objects; and listeners that are still open may be of other facts
    addresses = {id(at.address): at.address for at in places}
    if any(one.is_unspecified for one in addresses.values()):
        return frozenset(facts.everywhere(places))
    return places


def _node_ports_at(ownership: Ownership, facts: NodeFacts) -> Iterator[SocketAddress]:
    for portal in ownership.node_ports:
        for address in facts.local_addresses:
            if address.version == portal.family:
                yield SocketAddress(address, portal.port)


def _unserved(
    ownership: Ownership, listeners: Mapping[FrontendKey, Listener], left_out: Mapping[FrontendKey, str]
) -> Iterator[Problem]:
    if len(listeners) == len(ownership.proxied):
        return
    for key in ownership.proxied:
        if key not in listeners:
            reason = left_out.get(key, "no proxy port is left")
            yield ownership.claims_of(key).problem("", f"{key} cannot be served: {reason}")


def _captured(
    ownership: Ownership, listening: frozenset[SocketAddress], facts: NodeFacts
) -> tuple[Mapping[ObjectName, tuple[PortalClaim, ...]], list[Problem]]:
    """All portals but those that keep others away from what kpf itself serves there; and those as problems."""
    captured, problems = dict(ownership.owned), []
    for portal in _occupied(ownership, listening, facts):
        claim = ownership.claimants[portal][0]
        name = claim.service_name
        left = tuple(one for one in captured.pop(name) if one.portal != portal)
        if left:
            captured[name] = left
        problems.append(ownership.claims_of(claim.frontend).problem(claim.field, f"kpf itself listens on {portal}"))
    return captured, problems


def _occupied(
    ownership: Ownership, listening: frozenset[SocketAddress], facts: NodeFacts
) -> Iterator[Portal | NodePort]:
    own = frozenset(facts.everywhere(facts.own_listeners))
    # where it does: an external address that is this node's must not answer for another Service's health check
    checks = frozenset(
        SocketAddress(address, port) for port in ownership.health_check_ports for address in facts.local_addresses
    )
    # kpf listens for TCP alone
    for at in ownership.addresses & (listening | own | checks):
        if (portal := Portal(at.address, Protocol.TCP, at.port)) in ownership.claimants:
            yield portal
    # proxy ports give way to node ports by themselves
    yield from ownership.node_ports & {NodePort(family_of(at.address), Protocol.TCP, at.port) for at in own}
