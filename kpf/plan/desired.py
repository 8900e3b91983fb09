"""All Services together: who has which portal, which endpoints may be dialled, and the rules that follow."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kpf.model.names import Family, IPAddress, IPNetwork, ObjectName, SocketAddress
from kpf.model.rules import Action, NodePort, Portal, Rules, Verdict
from kpf.model.snapshot import Problem, Snapshot
from kpf.plan.frontends import FrontendKey, FrontendPlan, PortalPlan, ServicePlan, counts, order_of_age, plan_service


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the plan needs to know of this node.

    `proxy_addresses`: the one local address of each served family that portals are sent to.
    `wildcard`: families whose proxy ports listen on every local address.
    `local_addresses`: every address of this node.
    `own_listeners`: where kpf serves something else than Services (health); may be the unspecified address.
    """

    name: str
    proxy_addresses: Mapping[Family, IPAddress]
    wildcard: frozenset[Family] = frozenset()
    local_addresses: frozenset[IPAddress] = frozenset()
    node_port_networks: tuple[IPNetwork, ...] = ()
    external_ips_allowed: bool = True
    own_listeners: tuple[SocketAddress, ...] = ()

    def listening_address(self, family: Family) -> IPAddress | None:
        """Where proxy ports of a family listen: one address, or the unspecified one; None if it is not served."""
        address = self.proxy_addresses.get(family)
        return type(address)(0) if address is not None and family in self.wildcard else address


class Listener(NamedTuple):
    """Where a frontend's connections arrive. Its `address` may be the unspecified one."""

    frontend: FrontendKey
    at: SocketAddress


@dataclass(frozen=True, slots=True)
class Frontend:
    """A frontend as it must be: where it listens and whom it dials."""

    listener: Listener
    endpoints: tuple[SocketAddress, ...]
    affinity_timeout_s: int | None


@dataclass(frozen=True, slots=True)
class Intent:
    """What the Services ask for, before proxy ports are known. `claims`: each portal's one owner."""

    frontends: Mapping[FrontendKey, FrontendPlan]
    claims: Mapping[Portal | NodePort, PortalPlan]
    owners: Mapping[FrontendKey, ServicePlan]
    cluster_ips: frozenset[IPAddress]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What must hold: `frontends` by their listener. `claims`: whose each portal is."""

    frontends: Mapping[Listener, Frontend] = field(default_factory=dict)
    claims: Mapping[Portal | NodePort, FrontendKey] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    problems: tuple[Problem, ...] = ()


class Planner:
    """Makes intents, and plans again only those Services of which something has changed."""

    def __init__(self) -> None:
        self._known: dict[ObjectName, tuple[tuple[object, ...], ServicePlan]] = {}

    def intent(self, snapshot: Snapshot, facts: NodeFacts) -> Intent:
        families = tuple(sorted(facts.proxy_addresses))
        known: dict[ObjectName, tuple[tuple[object, ...], ServicePlan]] = {}
        for name, service in snapshot.services.items():
            if not counts(service):
                continue
            slices = snapshot.slices.get(name, ())
            basis = (service, slices, facts.name, families, facts.external_ips_allowed)
            before = self._known.get(name)
            # a tuple's == tries `is` first: unchanged objects cost no comparison of their content
            if before is not None and before[0] == basis:
                known[name] = before
                continue
            known[name] = (
                basis,
                plan_service(
                    service,
                    slices,
                    node_name=facts.name,
                    families=families,
                    external_ips_allowed=facts.external_ips_allowed,
                ),
            )
        self._known = known
        return unite(plan for _, plan in known.values())


def unite(plans: Iterable[ServicePlan]) -> Intent:
    """Give each portal to the oldest Service that claims it, and report the others."""
    claims: dict[Portal | NodePort, PortalPlan] = {}
    owners: dict[FrontendKey, ServicePlan] = {}
    frontends: dict[FrontendKey, FrontendPlan] = {}
    cluster_ips: set[IPAddress] = set()
    problems: list[Problem] = []
    for plan in sorted(plans, key=order_of_age):
        problems += plan.problems
        cluster_ips.update(plan.cluster_ips)
        for claim in plan.portals:
            holder = claims.setdefault(claim.portal, claim)
            if holder is not claim:
                owner = owners[holder.frontend].service.name
                problems.append(plan.problem(claim.field, f"{claim.portal} is already claimed by Service {owner}"))
                continue
            frontends[claim.frontend] = plan.frontends[claim.frontend]
            owners[claim.frontend] = plan
    return Intent(frontends, claims, owners, frozenset(cluster_ips), tuple(problems))


def desired_state(
    intent: Intent,
    ports: Mapping[FrontendKey, int],
    facts: NodeFacts,
    *,
    left_out: Mapping[FrontendKey, str] | None = None,
    still_open: Iterable[Listener] = (),
) -> DesiredState:
    """Make the whole desired state.

    `left_out`: frontends without a port, for another reason than that none is left. `still_open`: listeners that are
    guarded, and dialled by nobody, whether or not they are wanted any more.
    """
    problems = list(intent.problems)
    listeners = {key: listener_of(key, port, facts) for key, port in ports.items()}
    listening = frozenset(_everywhere([one.at for one in (*listeners.values(), *still_open)], facts))
    forbidden = _forbidden(intent, listening, facts)
    # two sets are compared by their stored hashes; hashing each address anew for every frontend would be quadratic
    forbidden_set = frozenset(forbidden)
    frontends: dict[Listener, Frontend] = {}
    for key, plan in intent.frontends.items():
        listener = listeners.get(key)
        if listener is None:
            reason = (left_out or {}).get(key, "no proxy port is left")
            problems.append(intent.owners[key].problem("", f"{key} cannot be served: {reason}"))
            continue
        endpoints = plan.endpoints
        if not plan.members.isdisjoint(forbidden_set):
            endpoints, complaints = _dialled(intent.owners[key], plan, forbidden)
            problems += complaints
        frontends[listener] = Frontend(listener, endpoints, plan.affinity_timeout_s)
    by_key = {listener.frontend: frontend for listener, frontend in frontends.items()}
    portals, node_ports, complaints = _actions(intent, by_key, listening, facts)
    problems += complaints
    rules = Rules(
        proxy_addresses=dict(facts.proxy_addresses),
        node_port_networks=facts.node_port_networks,
        portals=portals,
        node_ports=node_ports,
        # else a ClusterIP that is this node's own address would close all other ports of the node
        cluster_ips=intent.cluster_ips - facts.local_addresses,
        listening=listening,
    )
    claims = {portal: claim.frontend for portal, claim in intent.claims.items()}
    return DesiredState(frontends, claims, rules, tuple(problems))


def _actions(
    intent: Intent,
    frontends: Mapping[FrontendKey, Frontend],
    listening: frozenset[SocketAddress],
    facts: NodeFacts,
) -> tuple[dict[Portal, Action], dict[NodePort, Action], list[Problem]]:
    """What becomes of each portal's connections, and complaints about portals that are left out."""
    own = listening | frozenset(_everywhere(facts.own_listeners, facts))
    portals: dict[Portal, Action] = {}
    node_ports: dict[NodePort, Action] = {}
    problems: list[Problem] = []
    for portal, claim in intent.claims.items():
        if _is_occupied(portal, own, facts):
            problems.append(intent.owners[claim.frontend].problem(claim.field, f"kpf itself listens on {portal}"))
        elif isinstance(portal, NodePort):
            node_ports[portal] = _action(claim, frontends)
        else:
            portals[portal] = _action(claim, frontends)
    return portals, node_ports, problems


def listener_of(key: FrontendKey, port: int, facts: NodeFacts) -> Listener:
    """Where a frontend with this proxy port listens."""
    address = facts.listening_address(key.family)
    if address is None:
        raise LookupError(f"{key.family} is not served")
    return Listener(key, SocketAddress(address, port))


def _everywhere(places: Iterable[SocketAddress], facts: NodeFacts) -> Iterator[SocketAddress]:
    """Who listens on the unspecified address listens on every local one of the family."""
    for at in places:
        if not at.address.is_unspecified:
            yield at
            continue
        for address in facts.local_addresses:
            if address.version == at.address.version:
                yield SocketAddress(address, at.port)


def _is_occupied(portal: Portal | NodePort, own: frozenset[SocketAddress], facts: NodeFacts) -> bool:
    """A portal would keep others away from what kpf itself serves there."""
    if isinstance(portal, Portal):
        return (portal.address, portal.port) in own
    # proxy ports give way to node ports by themselves
    here = _everywhere(facts.own_listeners, facts)
    return any(at.port == portal.port and at.address.version == portal.family for at in here)


def _action(claim: PortalPlan, frontends: Mapping[FrontendKey, Frontend]) -> Action:
    frontend = frontends.get(claim.frontend)
    if frontend is None:
        return Verdict.REFUSE
    return frontend.listener.at.port if frontend.endpoints else claim.when_empty


def _forbidden(intent: Intent, listening: frozenset[SocketAddress], facts: NodeFacts) -> Mapping[SocketAddress, str]:
    """Addresses whose dial would come back to kpf, for ever: anybody who may write slices could ask for it."""
    forbidden: dict[SocketAddress, str] = dict.fromkeys(listening, "it is a proxy port")
    for portal in intent.claims:
        if isinstance(portal, Portal):
            forbidden[SocketAddress(portal.address, portal.port)] = "it is itself a portal"
            continue
        for address in facts.local_addresses:
            if address.version == portal.family:
                forbidden[SocketAddress(address, portal.port)] = "it is itself a node port"
    return forbidden


def _dialled(
    owner: ServicePlan, plan: FrontendPlan, forbidden: Mapping[SocketAddress, str]
) -> tuple[tuple[SocketAddress, ...], list[Problem]]:
    """The endpoints that may be dialled, and complaints about the others."""
    complaints = [
        owner.endpoint_problem(endpoint, forbidden[endpoint]) for endpoint in plan.endpoints if endpoint in forbidden
    ]
    return tuple(endpoint for endpoint in plan.endpoints if endpoint not in forbidden), complaints


def reserved_ports(intent: Intent) -> frozenset[int]:
    """Ports that no proxy port may have: those of NodePorts."""
    return frozenset(portal.port for portal in intent.claims if isinstance(portal, NodePort))
