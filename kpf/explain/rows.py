"""What becomes of a connection to one destination, by where it comes from, and why. Pure."""

from ipaddress import ip_network
from typing import NamedTuple

from kpf.explain.frontends import Frontends
from kpf.explain.packet import Fate, Origin, Outcome, Packet, answers_node_ports, counts_as_elsewhere, outcome
from kpf.explain.state import State
from kpf.model.names import Forwarding, FrontendKey, IPAddress, IPNetwork, Protocol
from kpf.model.rules import Direct, NodePort, Portal, Rules, Verdict
from kpf.plan.routes import PortalClaim

NODE_SEEN, CLIENT_SEEN = "this node's address", "the client's address"


class Client(NamedTuple):
    """Who asks; `origins`: where that may come from."""

    address: IPAddress
    origins: tuple[Origin, ...]


def client_at(address: IPAddress, state: State) -> Client:
    """As the rules take this source address. Two origins where they go by the interface that a packet comes from."""
    rules, facts = state.in_force, state.desired.allocation.facts
    if address.is_loopback or address in facts.local_addresses or address in rules.own_addresses:
        return Client(address, (Origin.NODE,))
    if any(address in network for network in (*rules.own_pods.networks, *facts.pod_networks)):
        return Client(address, (Origin.PODS,))
    return Client(address, (Origin.PODS, Origin.ELSEWHERE) if rules.own_pods.interface else (Origin.ELSEWHERE,))


class Destination(NamedTuple):
    """Where connections go: `title` says it, if it is not the address, protocol and port. Port 0: none that is used."""

    to: IPAddress
    protocol: Protocol
    port: int
    title: str = ""

    def __str__(self) -> str:
        return self.title or str(self.exact)

    @property
    def exact(self) -> Portal:
        """The portal of this very address and port, whether or not there is one."""
        return Portal(self.to, self.protocol, self.port)


class Rows:
    """Makes the rows of an answer; the frontends that they name are told by `frontends`.

    `asked_of_kernel`: those of which the kernel has the client's affinity entry.
    """

    def __init__(self, state: State, frontends: Frontends, client: Client | None) -> None:
        self._state, self._frontends, self._client = state, frontends, client
        self.asked_of_kernel: dict[FrontendKey, None] = {}

    def rows(self, destination: Destination, claims: dict[Portal | NodePort, PortalClaim]) -> dict[str, object]:
        """By origin. `claims`: the owner of each portal that the destination may meet."""
        origins = self._client.origins if self._client else tuple(Origin)
        return {str(origin): self._row(origin, destination, claims) for origin in origins}

    def met(self, origin: Origin, destination: Destination) -> Outcome:
        """What the rules in force do."""
        return self._outcome(origin, destination, self._state.in_force)

    def _outcome(self, origin: Origin, destination: Destination, rules: Rules) -> Outcome:
        sources = self._sources(origin, destination, rules)
        packet = Packet(origin, destination.to, destination.protocol, destination.port, sources)
        return outcome(packet, rules, self._state.local)

    def _sources(self, origin: Origin, destination: Destination, rules: Rules) -> tuple[IPNetwork, ...]:
        """What the client's address is in; nothing where no portal asks for it."""
        if destination.exact not in rules.source_ranges:
            return ()
        if self._client:
            return (ip_network(self._client.address),)
        version = destination.to.version
        match origin:
            case Origin.NODE:
                own = (one for one in self._state.local if one.version == version and not one.is_loopback)
                return tuple(ip_network(one) for one in own)
            case Origin.PODS:
                return tuple(one for one in rules.own_pods.networks if one.version == version)
        return ()

    def _row(
        self, origin: Origin, destination: Destination, claims: dict[Portal | NodePort, PortalClaim]
    ) -> dict[str, object]:
        found = self.met(origin, destination)
        planned = self._outcome(origin, destination, self._state.desired.rules)
        claim = claims.get(found.portal) if found.portal else None
        key = self._frontend(origin, destination, found, claim)
        row: dict[str, object] = {
            "verdict": str(found.fate),
            "why": self._why(destination, found, planned, key),
            "rule": found.rule or None,
            "portal": str(found.portal) if found.portal else None,
            "forwarding": str(found.forwarding) if found.forwarding else None,
            "frontend": self._frontends.name(key) if key else None,
            "endpointsSee": None,
            "onlyFrom": [str(one) for one in found.only_from],
            "planned": str(planned.fate) if planned[:4] != found[:4] else None,
        }
        if found.fate is Fate.SERVED:
            row["endpointsSee"] = NODE_SEEN if found.is_masqueraded else CLIENT_SEEN
            row |= self._affinity(key)
        return row

    def _frontend(
        self, origin: Origin, destination: Destination, found: Outcome, claim: PortalClaim | None
    ) -> FrontendKey | None:
        """Where the portal leads for that origin."""
        if isinstance(found.action, Direct):
            return found.action.frontend
        if claim is None or found.action is None:
            return None
        if claim.off_node and counts_as_elsewhere(origin, self._state.in_force, destination.to):
            return claim.off_node
        return claim.loopback if claim.loopback and destination.to.is_loopback else claim.frontend

    def _affinity(self, key: FrontendKey | None) -> dict[str, object]:
        """The client's affinity entry, where the frontend has such."""
        if self._client is None or key is None:
            return {}
        plan = self._state.desired.plans.get(key.port.service_name)
        if plan is None or key not in plan.frontends or plan.frontends[key].affinity_timeout_s is None:
            return {}
        listener, is_known = self._frontends.listener(key), True
        if key.forwarding is Forwarding.DIRECT:
            self.asked_of_kernel[key], is_known = None, key in self._state.in_kernel
            entry = self._state.in_kernel.get(key)
        else:
            entry = self._state.affinity_entry(listener, self._client.address) if listener else None
        if entry is None:
            return {"affinityEntry": None, "affinityIsKnown": is_known}
        is_out = entry.is_out and entry.endpoint in self._frontends.ejected(key)
        told = {"endpoint": str(entry.endpoint), "secondsLeft": round(entry.left_s, 1), "shutOut": is_out}
        return {"affinityEntry": told, "affinityIsKnown": True}

    def _why(self, destination: Destination, found: Outcome, planned: Outcome, key: FrontendKey | None) -> str:
        match found.fate:
            case Fate.NOT_HERE:
                return "it is a loopback address of whoever sends it"
            case Fate.LEFT_ALONE:
                return self._why_left_alone(destination)
            case Fate.SERVED if isinstance(found.action, Direct):
                return "the kernel forwards it to an endpoint"
            case Fate.SERVED:
                address = self._state.in_force.proxy_addresses.get(destination.exact.family)
                return f"it is sent to {address} port {found.action}, and a worker dials an endpoint"
        if isinstance(found.action, Verdict):
            return self._why_no_endpoint(found, planned, key)
        return self._why_not_let_in(destination, found)

    def _why_no_endpoint(self, found: Outcome, planned: Outcome, key: FrontendKey | None) -> str:
        desired = self._state.desired
        plan = desired.plans.get(key.port.service_name) if key else None
        if found.action != planned.action or key is None or plan is None:
            return "kpf drains, or a change is not in force yet"
        frontend = plan.frontends[key]
        if key.forwarding is Forwarding.PROXIED and key not in desired.allocation.listeners:
            return "its frontend could not be served: see the problems"
        if frontend.endpoints:
            return "none of its endpoints may be dialled: see the problems"
        if frontend.when_empty is Verdict.DROP:
            return "no usable endpoint is on this node, some are elsewhere, and the policy is Local"
        return "no endpoint is usable"

    def _why_not_let_in(self, destination: Destination, found: Outcome) -> str:
        rules = self._state.in_force
        if found.portal is not None:
            return "the client's address is in none of spec.loadBalancerSourceRanges"
        if destination.to in rules.own_addresses:
            return "it is an address of kpf's own, which is reached through portals alone"
        if destination.to in rules.cluster_ips:
            return "no Service has this port of the ClusterIP"
        if found.fate is Fate.DROPPED:
            return "it is an address of the service range that no Service has"
        return "it is a proxy port, which is reached through portals alone"

    def _why_left_alone(self, destination: Destination) -> str:
        state, to = self._state, destination.to
        has_node_port = NodePort(destination.exact.family, destination.protocol, destination.port)
        if not (to.is_loopback or to in state.local):
            return "no portal in force: it goes where it is sent"
        here = "what listens on this node has it; if nothing does, it is refused"
        if has_node_port not in state.in_force.node_ports:
            return here
        if not answers_node_ports(to, state.in_force):
            return f"NodePorts do not answer at this address (nodePortAddresses): {here}"
        return f"the kernel forwards nothing from a loopback address: {here}"
