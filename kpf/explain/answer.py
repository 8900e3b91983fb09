"""The answer to `kpf explain`, as JSON has it. Pure; long answers are made in turns with others."""

from collections.abc import Iterable
from typing import NamedTuple

from kpf.explain.finder import Found, at_address, of_node_port, of_service
from kpf.explain.frontends import Frontends
from kpf.explain.packet import Fate, Origin
from kpf.explain.question import At, Named, NodePortOf, What
from kpf.explain.rows import Client, Destination, Rows
from kpf.explain.state import State, Turns
from kpf.model.names import FrontendKey, IPAddress, ObjectName, Protocol, family_of
from kpf.model.rules import NodePort, Portal
from kpf.model.snapshot import Problem
from kpf.plan.routes import PortalClaim

# that are explained; more are named, and what is beyond that is counted
MAX_EXPLAINED, MAX_NAMED = 48, 500
MAX_PROBLEMS = 50


class UnknownError(Exception):
    """kpf knows no such thing; the text says what is there instead, in one line."""


class Answer(NamedTuple):
    """`told`: as JSON has it. `asked_of_kernel`: frontends that the client's affinity entry is wanted of."""

    told: dict[str, object]
    asked_of_kernel: tuple[FrontendKey, ...]


def answer(what: What, client: Client | None, state: State) -> Turns[Answer]:
    """Raises `UnknownError`."""
    return (yield from _Answer(what, client, state).made())


class _Answer:
    def __init__(self, what: What, client: Client | None, state: State) -> None:
        self._what, self._client, self._state = what, client, state
        self._frontends = Frontends(state)
        self._rows = Rows(state, self._frontends, client)
        self._services: dict[ObjectName, None] = {}

    def made(self) -> Turns[Answer]:
        what, state = self._what, self._state
        match what:
            case Named():
                found = of_service(what, state)
            case NodePortOf():
                found = of_node_port(what, state)
            case At():
                found = yield from at_address(what, state)
        endpoint_of = yield from self._endpoint_of(found.frontends)
        self._complete(found, is_endpoint=bool(endpoint_of))
        yield
        shown = [one for one in found.destinations if self._client is None or _reaches(self._client, one)]
        if found.destinations and not shown:
            raise UnknownError(f"{what} is of another IP family than the client")
        self._services |= found.services
        destinations = []
        for one in shown[:MAX_EXPLAINED]:
            destinations.append(self._destination(one))
            yield
        if not destinations and not endpoint_of and not found.services:
            raise UnknownError(self._unknown())
        named = [str(one) for one in shown[MAX_EXPLAINED:][:MAX_NAMED]]
        yield
        told: dict[str, object] = {
            "what": str(what),
            "client": None if self._client is None else str(self._client.address),
            "node": state.desired.allocation.facts.name,
            "rulesKnown": state.rules is not None,
            "podsKnown": self._pods_known(shown[:MAX_EXPLAINED]),
            "destinations": destinations,
            "alsoThere": named,
            "notShown": max(len(shown) - MAX_EXPLAINED - len(named), 0),
            "endpointOf": endpoint_of,
            "frontends": (yield from self._frontends.told()),
            "notes": found.notes,
            "problems": [_told(one) for one in self._problems()],
        }
        return Answer(told, tuple(self._rows.asked_of_kernel))

    def _pods_known(self, shown: Iterable[Destination]) -> dict[str, bool]:
        """By family: where it is not known which sources are this node's pods, they are as anybody from elsewhere."""
        families = sorted({family_of(one.to) for one in shown})
        return {str(family): self._state.in_force.own_pods.are_known(family) for family in families}

    def _complete(self, found: Found, *, is_endpoint: bool) -> None:
        """Leave out what kpf has nothing to do with; of a whole address, add what becomes of all other ports."""
        what = self._what
        if not isinstance(what, At):
            return
        if what.port is None:
            rest = Destination(what.address, what.protocol or Protocol.TCP, 0, f"any other port of {what.address}")
            if self._is_concerned(rest):
                found.destinations.append(rest)
            return
        if not is_endpoint:
            found.destinations = [one for one in found.destinations if self._claims(one) or self._is_concerned(one)]

    def _is_concerned(self, destination: Destination) -> bool:
        left = (Fate.LEFT_ALONE, Fate.NOT_HERE)
        return any(self._rows.met(origin, destination).fate not in left for origin in Origin)

    def _claims(self, destination: Destination) -> dict[Portal | NodePort, tuple[PortalClaim, ...]]:
        """Of the portals that a destination may meet, whether or not they are in force."""
        exact, claimants = destination.exact, self._state.desired.allocation.ownership.claimants
        portals: list[Portal | NodePort] = [exact]
        if destination.to in self._state.local or destination.to.is_loopback:
            portals.append(NodePort(exact.family, exact.protocol, exact.port))
        return {portal: claimants[portal] for portal in portals if portal in claimants}

    def _destination(self, destination: Destination) -> dict[str, object]:
        claims = self._claims(destination)
        self._services |= {claim.service_name: None for those in claims.values() for claim in those}
        return {
            "to": str(destination),
            "address": str(destination.to),
            "protocol": str(destination.protocol),
            "port": destination.port or None,
            "portals": [self._portal(*those) for those in claims.values()],
            "proxyPortOf": None if claims else self._proxy_port_of(destination),
            "from": self._rows.rows(destination, {portal: those[0] for portal, those in claims.items()}),
        }

    def _portal(self, owner: PortalClaim, *others: PortalClaim) -> dict[str, object]:
        service = self._state.desired.plans[owner.service_name].service
        field, policy = "externalTrafficPolicy", service.external_policy
        if owner.is_cluster_ip:
            field, policy = "internalTrafficPolicy", service.internal_policy
        return {
            "portal": str(owner.portal),
            **self._claim(owner),
            "port": owner.frontend.port.port,
            "policy": {"field": f"spec.{field}", "value": str(policy)},
            "alsoClaimedBy": [self._claim(one) for one in others],
        }

    def _claim(self, claim: PortalClaim) -> dict[str, object]:
        origin = self._state.desired.plans[claim.service_name].service.origin
        return {"object": f"Service {claim.service_name}", "field": claim.field, "origin": origin}

    def _proxy_port_of(self, destination: Destination) -> str | None:
        listeners = self._state.desired.allocation.listeners
        for key, listener in listeners.items():
            at = listener.at
            if at.port == destination.port and destination.protocol is Protocol.TCP and self._is_at(destination, at[0]):
                return self._frontends.name(key)
        return None

    def _is_at(self, destination: Destination, address: IPAddress) -> bool:
        same_family = address.version == destination.to.version
        return destination.to == address or (same_family and address.is_unspecified and self._is_local(destination))

    def _is_local(self, destination: Destination) -> bool:
        return destination.to in self._state.local

    def _endpoint_of(self, keys: Iterable[FrontendKey]) -> Turns[list[dict[str, object]]]:
        what, told = self._what, list[dict[str, object]]()
        assert isinstance(what, At) or not keys
        for key in keys:
            for at, node, reason in (yield from self._frontends.uses(key)):
                if isinstance(what, At) and at.address == what.address and what.port in (None, at.port):
                    name = self._frontends.name(key)
                    self._services[key.port.service_name] = None
                    told.append(
                        {"endpoint": str(at), "node": node or None, "frontend": name, "leftOut": reason or None}
                    )
            yield
        return told

    def _unknown(self) -> str:
        what = self._what
        match what:
            case Named():
                if what.service in self._state.desired.plans:
                    ports = self._state.desired.plans[what.service].service.ports
                    names = ", ".join(sorted({port.name or "(one without a name)" for port in ports}))
                    return f"Service {what.service} has no port {what.port}; it has {names}"
                return (
                    f"no Service {what.service} is served: there is none, or it is headless, "
                    "of type ExternalName, or left to another proxy"
                )
            case At() if what.port is not None:
                return f"nothing of kpf's is at {what}; kpf explain {what.address} shows what is at the address"
        return f"nothing of kpf's is at {what}"

    def _problems(self) -> list[Problem]:
        desired = self._state.desired
        found = [one for name in self._services for one in desired.service_problems.get(name, ())]
        described = {f"Service {name}" for name in self._services}
        found += [one for one in desired.allocation.problems if one.object in described]
        return found[:MAX_PROBLEMS]


def _reaches(client: Client, destination: Destination) -> bool:
    return client.address.version == destination.to.version


def _told(problem: Problem) -> dict[str, str]:
    return {
        "origin": problem.origin,
        "object": problem.object,
        "field": problem.field,
        "message": problem.message,
    }
