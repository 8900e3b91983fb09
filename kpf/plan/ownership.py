"""Stage 2: who owns each portal.

Knows the claims of all Services, and who has owned what until now. Adds each portal's owner, the other claimants'
problems, and what follows for all: which frontends need a proxy port, and which addresses and ports are captured.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

from kpf.model.names import Forwarding, FrontendKey, IPAddress, ObjectName, Protocol, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.model.snapshot import Problem
from kpf.plan.differences import replaced
from kpf.plan.routes import PortalClaim
from kpf.plan.service_plan import Claims


# compared by identity: it is kept for as long as it holds
@dataclass(frozen=True, slots=True, eq=False)
class Ownership:
    """Who has what. Endpoints come and go without changing it.

    `claims`: what each Service asks for. `claimants`: of each portal; the first one owns it. `owned`: the portals that
    each Service owns, one at least. `contested`: those with several claimants. `proxied`: the frontends that owned
    portals lead to and that need a proxy port, with their Service. `addresses`: those of all portals but the node
    ports. `health_check_ports`: that are asked for; `health_checks`: of each that is served, its Service;
    `refused_health_checks`: the problems of the others.
    """

    claims: Mapping[ObjectName, Claims] = field(default_factory=dict)
    claimants: Mapping[Portal | NodePort, tuple[PortalClaim, ...]] = field(default_factory=dict)
    owned: Mapping[ObjectName, tuple[PortalClaim, ...]] = field(default_factory=dict)
    contested: frozenset[Portal | NodePort] = frozenset()
    proxied: Mapping[FrontendKey, ObjectName] = field(default_factory=dict)
    addresses: frozenset[SocketAddress] = frozenset()
    node_ports: frozenset[NodePort] = frozenset()
    cluster_ips: frozenset[IPAddress] = frozenset()
    health_check_ports: frozenset[int] = frozenset()
    health_checks: Mapping[int, ObjectName] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    refused_health_checks: tuple[Problem, ...] = ()

    def claims_of(self, key: FrontendKey) -> Claims:
        """All that the frontend's Service asks for."""
        return self.claims[key.port.service_name]


def assign_portals(before: Ownership, changed: Mapping[ObjectName, Claims | None]) -> Ownership:
    """Give each portal to one of those who claim it, and report the others.

    A ClusterIP comes before external addresses. Of one kind, who has it keeps it; if nobody has, it is the oldest's.
    `changed`: the Services that come, ask for something else than before, or go (None).
    """
    come = {name: asked for name, asked in changed.items() if asked is not None}
    claims = replaced(before.claims, come, changed.keys())
    suspects: dict[Portal | NodePort, list[PortalClaim]] = {}
    for name in changed.keys() & before.claims.keys():
        for claim in before.claims[name].portals:
            suspects.setdefault(claim.portal, [])
    for asked in come.values():
        for claim in asked.portals:
            suspects.setdefault(claim.portal, []).append(claim)
    claimants: dict[Portal | NodePort, tuple[PortalClaim, ...]] = {}
    for portal, new in suspects.items():
        known = before.claimants.get(portal, ())
        found = [*(one for one in known if one.service_name not in changed), *new]
        if len(found) > 1:
            found = _in_order(found, claims, known[0] if known else None)
        claimants[portal] = tuple(found)
    return _ownership(before, claims, claimants)


def _in_order(
    rivals: Iterable[PortalClaim], claims: Mapping[ObjectName, Claims], owner: PortalClaim | None
) -> list[PortalClaim]:
    """Who owns the portal, then who comes next. `owner`: until now."""

    def precedence(claim: PortalClaim) -> tuple[object, ...]:
        return not claim.is_cluster_ip, not _is_still(claim, owner), claims[claim.service_name].age

    return sorted(rivals, key=precedence)


def _is_still(claim: PortalClaim, owner: PortalClaim | None) -> bool:
    """It is the owner's claim, and of the same kind as when it got the portal."""
    return owner is not None and claim.service_name == owner.service_name and claim.is_cluster_ip == owner.is_cluster_ip


def _ownership(
    before: Ownership,
    claims: Mapping[ObjectName, Claims],
    changed: Mapping[Portal | NodePort, tuple[PortalClaim, ...]],
) -> Ownership:
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
    owned = {name: won for name in involved if (won := _won(name, claims, claimants))}
    contested = before.contested.difference(changed).union(portal for portal, these in found.items() if len(these) > 1)
    node_ports = before.node_ports.difference(changed).union(one for one in found if isinstance(one, NodePort))
    checked = [one for one in claims.values() if one.health_check_port]
    check_ports = frozenset(one.health_check_port for one in checked)
    taken = sorted(one for one in node_ports if one.port in check_ports and one.protocol is Protocol.TCP)
    health_checks, refused = _health_checks(checked, {one.port: claimants[one][0].service_name for one in taken})
    return Ownership(
        claims=claims,
        claimants=claimants,
        owned=replaced(before.owned, owned, involved),
        contested=contested,
        proxied=replaced(before.proxied, _proxied(owned, owned), _proxied(before.owned, involved).keys()),
        addresses=before.addresses.difference(_addresses(freed)).union(_addresses(found)),
        node_ports=node_ports,
        cluster_ips=frozenset(chain.from_iterable(one.cluster_ips for one in claims.values())),
        health_check_ports=check_ports,
        health_checks=health_checks,
        problems=tuple(_conflicts(claims, [claimants[portal] for portal in contested])),
        refused_health_checks=tuple(refused),
    )


def _won(
    name: ObjectName,
    claims: Mapping[ObjectName, Claims],
    claimants: Mapping[Portal | NodePort, tuple[PortalClaim, ...]],
) -> tuple[PortalClaim, ...]:
    """The portals that a Service owns."""
    asked = claims[name].portals if name in claims else ()
    return tuple(claim for claim in asked if claimants[claim.portal][0] is claim)


def _proxied(
    owned: Mapping[ObjectName, tuple[PortalClaim, ...]], names: Iterable[ObjectName]
) -> dict[FrontendKey, ObjectName]:
    """The frontends of these Services that need a proxy port."""
    return {
        key: name
        for name in names
        for claim in owned.get(name, ())
        for key in claim.frontends
        if key.forwarding is Forwarding.PROXIED
    }


def _addresses(portals: Iterable[Portal | NodePort]) -> Iterable[SocketAddress]:
    return (SocketAddress(one.address, one.port) for one in portals if isinstance(one, Portal))


def _conflicts(claims: Mapping[ObjectName, Claims], contested: Iterable[tuple[PortalClaim, ...]]) -> Iterator[Problem]:
    for owner, *others in contested:
        message = f"{owner.portal} is already claimed by Service {owner.service_name}"
        for claim in others:
            yield claims[claim.service_name].problem(claim.field, message)


def _health_checks(
    claims: Iterable[Claims], ports: Mapping[int, ObjectName]
) -> tuple[dict[int, ObjectName], list[Problem]]:
    """Each port for the oldest Service that asks for it, unless it is a node port; and the others' problems.

    `ports`: the node ports of TCP, with their Services.
    """
    served: dict[int, ObjectName] = {}
    problems: list[Problem] = []
    for asked in sorted(claims, key=attrgetter("age")):
        port, reason = asked.health_check_port, ""
        if port in ports:
            reason = f"{port} is also a node port of Service {ports[port]}"
        elif port in served:
            reason = f"{port} is already that of Service {served[port]}"
        if reason:
            problems.append(asked.problem("spec.healthCheckNodePort", f"{reason}: the health check is not served"))
        else:
            served[port] = asked.name
    return served, problems
