"""What the Services ask for, all together, before proxy ports are known: who has which portal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from kpf.model.names import Forwarding, FrontendKey, IPAddress, ObjectName, Protocol, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.model.snapshot import Problem, Snapshot
from kpf.plan.differences import replaced
from kpf.plan.frontends import Claims, PortalPlan, ServicePlan
from kpf.plan.node import NodeFacts
from kpf.plan.service import Basis, basis_of, counts, plan_service


# compared by identity: it is kept for as long as it holds
@dataclass(frozen=True, slots=True, eq=False)
class United:
    """Who has what. Endpoints come and go without changing it.

    `services`: what each asks for. `claimants`: of each portal; the first one has it. `claims`: the portals that each
    Service has, one at least. `proxied`: the frontends that these lead to and that need a proxy
    port, with their Service. `addresses`: those of all portals but the node ports.
    """

    services: Mapping[ObjectName, Claims] = field(default_factory=dict)
    claimants: Mapping[Portal | NodePort, tuple[PortalPlan, ...]] = field(default_factory=dict)
    claims: Mapping[ObjectName, tuple[PortalPlan, ...]] = field(default_factory=dict)
    proxied: Mapping[FrontendKey, ObjectName] = field(default_factory=dict)
    contested: frozenset[Portal | NodePort] = frozenset()
    addresses: frozenset[SocketAddress] = frozenset()
    node_ports: frozenset[NodePort] = frozenset()
    cluster_ips: frozenset[IPAddress] = frozenset()
    health_check_ports: frozenset[int] = frozenset()
    problems: tuple[Problem, ...] = ()

    def owner(self, key: FrontendKey) -> Claims:
        """The Service of a frontend, whatever it has. Raises KeyError if there is no such Service."""
        return self.services[key.port.service_name]


@dataclass(frozen=True, slots=True)
class Intent:
    """`plans`: of every Service that counts."""

    plans: Mapping[ObjectName, ServicePlan] = field(default_factory=dict)
    united: United = field(default_factory=United)


def unite(before: United, changed: Mapping[ObjectName, Claims | None]) -> United:
    """Give each portal to one of those who claim it, and report the others.

    A ClusterIP comes before external addresses. Of one kind, who has it keeps it; if nobody has, it is the oldest's.
    `changed`: the Services that come, ask for something else than before, or go (None).
    """
    come = {name: claims for name, claims in changed.items() if claims is not None}
    services = replaced(before.services, come, changed.keys())
    asked: dict[Portal | NodePort, list[PortalPlan]] = {}
    for name in changed.keys() & before.services.keys():
        for claim in before.services[name].portals:
            asked.setdefault(claim.portal, [])
    for claims in come.values():
        for claim in claims.portals:
            asked.setdefault(claim.portal, []).append(claim)
    claimants: dict[Portal | NodePort, tuple[PortalPlan, ...]] = {}
    for portal, new in asked.items():
        known = before.claimants.get(portal, ())
        found = [*(one for one in known if one.service_name not in changed), *new]
        if len(found) > 1:
            found = _in_order(found, services, known[0] if known else None)
        claimants[portal] = tuple(found)
    return _united(before, services, claimants)


def _in_order(
    claims: Iterable[PortalPlan], services: Mapping[ObjectName, Claims], holder: PortalPlan | None
) -> list[PortalPlan]:
    """Who has the portal, then who comes next. `holder`: who had it until now."""

    def precedence(claim: PortalPlan) -> tuple[object, ...]:
        return not claim.is_cluster_ip, not _is_still(claim, holder), services[claim.service_name].age

    return sorted(claims, key=precedence)


def _is_still(claim: PortalPlan, holder: PortalPlan | None) -> bool:
    """It is the holder's claim, and of the same kind as when it got the portal."""
    return (
        holder is not None and claim.service_name == holder.service_name and claim.is_cluster_ip == holder.is_cluster_ip
    )


def _united(
    before: United,
    services: Mapping[ObjectName, Claims],
    changed: Mapping[Portal | NodePort, tuple[PortalPlan, ...]],
) -> United:
    """`changed`: portals with other claimants than before, none if they are nobody's any more."""
    found = {portal: these for portal, these in changed.items() if these}
    claimants = {**before.claimants, **found}
    gone = changed.keys() - found.keys()
    for portal in gone:
        del claimants[portal]
    # TCP and UDP may have one address and port
    freed = [one for one in gone if not any(one._replace(protocol=other) in claimants for other in Protocol)]
    involved = {
        claim.service_name for portal, these in changed.items() for claim in (*these, *before.claimants.get(portal, ()))
    }
    claims = {name: won for name in involved if (won := _won(name, services, claimants))}
    contested = before.contested.difference(changed).union(portal for portal, these in found.items() if len(these) > 1)
    return United(
        services=services,
        claimants=claimants,
        claims=replaced(before.claims, claims, involved),
        proxied=replaced(before.proxied, _proxied(claims, claims), _proxied(before.claims, involved).keys()),
        contested=contested,
        addresses=before.addresses.difference(_addresses(freed)).union(_addresses(found)),
        node_ports=before.node_ports.difference(changed).union(one for one in found if isinstance(one, NodePort)),
        cluster_ips=frozenset(chain.from_iterable(one.cluster_ips for one in services.values())),
        health_check_ports=frozenset(one.health_check_port for one in services.values() if one.health_check_port),
        problems=tuple(_conflicts(services, [claimants[portal] for portal in contested])),
    )


def _won(
    name: ObjectName,
    services: Mapping[ObjectName, Claims],
    claimants: Mapping[Portal | NodePort, tuple[PortalPlan, ...]],
) -> tuple[PortalPlan, ...]:
    """The portals that a Service has."""
    owner = services.get(name)
    claims = owner.portals if owner is not None else ()
    return tuple(claim for claim in claims if claimants[claim.portal][0] is claim)


def _proxied(
    claims: Mapping[ObjectName, tuple[PortalPlan, ...]], names: Iterable[ObjectName]
) -> dict[FrontendKey, ObjectName]:
    """The frontends of these Services that need a proxy port."""
    return {
        key: name
        for name in names
        for claim in claims.get(name, ())
        for key in claim.frontends
        if key.forwarding is Forwarding.PROXIED
    }


def _addresses(portals: Iterable[Portal | NodePort]) -> Iterable[SocketAddress]:
    return (SocketAddress(one.address, one.port) for one in portals if isinstance(one, Portal))


def _conflicts(services: Mapping[ObjectName, Claims], contested: Iterable[tuple[PortalPlan, ...]]) -> Iterable[Problem]:
    for holder, *others in contested:
        message = f"{holder.portal} is already claimed by Service {holder.service_name}"
        for claim in others:
            yield services[claim.service_name].problem(claim.field, message)


class Planner:
    """Makes intents, and plans again only those Services of which something has changed.

    What has not changed is the same object in the next intent: a Service's plan, and `united` as long as no Service
    comes, goes, or claims something else.
    """

    def __init__(self) -> None:
        self._last = Intent()
        self._basis: Basis | None = None
        self._serial = 0

    def intent(self, snapshot: Snapshot, facts: NodeFacts) -> Intent:
        """What all Services ask for now.

        A snapshot that follows the last one costs no more than its `touched` Services; any other one, and a changed
        node, cost all of them.
        """
        basis = basis_of(facts)
        old = self._last.plans
        plans: dict[ObjectName, ServicePlan] = {}
        claims: dict[ObjectName, Claims | None] = {}
        for name in self._suspects(snapshot, basis):
            before = old.get(name)
            now = _plan(name, snapshot, basis, before if basis == self._basis else None)
            if now is before:
                continue
            asks = now.claims if now is not None else None
            if before is None or before.claims != asks:
                claims[name] = asks
            if now is not None:
                plans[name] = now
        gone = {name for name, asks in claims.items() if asks is None}
        united = unite(self._last.united, claims) if claims else self._last.united
        self._last, self._basis, self._serial = Intent(replaced(old, plans, gone), united), basis, snapshot.serial
        return self._last

    def _suspects(self, snapshot: Snapshot, basis: Basis) -> Iterable[ObjectName]:
        """Services whose plan may not be what it was."""
        if basis == self._basis and self._serial:
            if snapshot.serial == self._serial:
                return ()
            if snapshot.previous == self._serial:
                return snapshot.touched
        return {**self._last.plans, **snapshot.services}


def _plan(name: ObjectName, snapshot: Snapshot, basis: Basis, before: ServicePlan | None) -> ServicePlan | None:
    """None if the Service does not count."""
    service, slices = snapshot.services.get(name), snapshot.slices.get(name, ())
    if service is None or not counts(service):
        return None
    # a tuple's == tries `is` first: unchanged objects cost no comparison of their content
    if before is not None and (before.service, before.slices) == (service, slices):
        return before
    return plan_service(service, slices, basis)
