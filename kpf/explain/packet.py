"""What rules do with the first packet of a connection: the chains of `kpf.nft.schema` once more, in their order. Pure.

It is asked of the rules that the kernel has, so what is told is what happens, whatever the plan says.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from kpf.model.names import Forwarding, IPAddress, IPNetwork, Protocol, SocketAddress, family_of
from kpf.model.rules import Action, Direct, Masquerade, NodePort, Portal, Rules, Verdict
from kpf.nft.forwards import chain_of, sources_chain_of
from kpf.nft.schema import OFF_NODE_REDIRECTS, OFF_NODE_VERDICTS, REDIRECTS, SOURCE_RANGES, name_of


class Origin(StrEnum):
    """Where a connection comes from: this node's processes, its pods, or elsewhere (off-node)."""

    NODE = "node"
    PODS = "pods"
    ELSEWHERE = "elsewhere"


class Fate(StrEnum):
    """What becomes of it. LEFT_ALONE: it goes where it was sent. NOT_HERE: it never comes to this node."""

    SERVED = "served"
    REFUSED = "refused"
    DROPPED = "dropped"
    LEFT_ALONE = "not captured"
    NOT_HERE = "not here"


class Packet(NamedTuple):
    """`sources`: what its source address is in; nothing: anything."""

    origin: Origin
    to: IPAddress
    protocol: Protocol
    port: int
    sources: tuple[IPNetwork, ...] = ()


class Outcome(NamedTuple):
    """`rule`: the chain and map, or set, that decides; "" if none does. `action`: of the portal, if that does.

    `only_from`: who alone is served, if it depends on the client; others are dropped. `is_masqueraded`: endpoints see
    this node's address.
    """

    fate: Fate
    rule: str = ""
    portal: Portal | NodePort | None = None
    action: Action | None = None
    only_from: tuple[IPNetwork, ...] = ()
    is_masqueraded: bool = False

    @property
    def forwarding(self) -> Forwarding | None:
        """None if it is not served."""
        if self.fate is not Fate.SERVED:
            return None
        return Forwarding.DIRECT if isinstance(self.action, Direct) else Forwarding.PROXIED


def outcome(packet: Packet, rules: Rules, local: frozenset[IPAddress]) -> Outcome:
    """`local`: this node's addresses."""
    return _Table(packet, rules, local).outcome()


def counts_as_elsewhere(origin: Origin, rules: Rules, to: IPAddress) -> bool:
    """Pods of this node do, as long as it is not known which they are."""
    is_pod = origin is Origin.PODS and not rules.own_pods.are_known(family_of(to))
    return origin is Origin.ELSEWHERE or is_pod


def answers_node_ports(address: IPAddress, rules: Rules) -> bool:
    """An address of this node on which NodePorts answer."""
    named = [one for one in rules.node_port_networks if one.version == address.version]
    return not named or any(address in one for one in named)


class _Table:
    def __init__(self, packet: Packet, rules: Rules, local: frozenset[IPAddress]) -> None:
        self._packet, self._rules = packet, rules
        self._family = family_of(packet.to)
        self._is_local = packet.to in local or packet.to.is_loopback or packet.to in rules.own_addresses
        self._is_off_node = counts_as_elsewhere(packet.origin, rules, packet.to)
        self._exact = Portal(packet.to, packet.protocol, packet.port)
        self._node_port = NodePort(self._family, packet.protocol, packet.port)

    def outcome(self) -> Outcome:
        if self._packet.to.is_loopback and self._packet.origin is not Origin.NODE:
            return Outcome(Fate.NOT_HERE)
        if self._packet.to in self._rules.own_addresses:
            return Outcome(Fate.REFUSED, f"chain {SOURCE_RANGES}")
        sources = self._rules.source_ranges.get(self._exact, ())
        let_in = _let_in(self._packet.sources, sources)
        if let_in is False:
            return Outcome(Fate.DROPPED, f"chain {sources_chain_of(self._exact)}", self._exact)
        found = self._verdict() or self._redirect() or self._undefined()
        return found._replace(only_from=sources) if let_in is None else found

    def _portals(self) -> Iterator[Portal | NodePort]:
        """That it may meet, in this order."""
        yield self._exact
        if self._is_local and answers_node_ports(self._packet.to, self._rules):
            yield self._node_port

    def _action(self, portal: Portal | NodePort) -> Action | None:
        rules = self._rules
        return rules.portals.get(portal) if isinstance(portal, Portal) else rules.node_ports.get(portal)

    def _verdict(self) -> Outcome | None:
        if self._is_off_node:
            for portal in self._portals():
                action = self._rules.off_node.get(portal)
                if isinstance(action, Verdict):
                    return self._judged(portal, action, OFF_NODE_VERDICTS, "far-verdict")
                if action is not None:
                    return None
        for portal in self._portals():
            action = self._action(portal)
            if isinstance(action, Verdict):
                return self._judged(portal, action, "verdicts", "verdict")
        return None

    def _judged(self, portal: Portal | NodePort, verdict: Verdict, chain: str, kind: str) -> Outcome:
        fate = Fate.REFUSED if verdict is Verdict.REFUSE else Fate.DROPPED
        return Outcome(fate, f"chain {chain}, map {self._map(portal, kind)}", portal, verdict)

    def _redirect(self) -> Outcome | None:
        if self._is_off_node:
            for portal in self._portals():
                action = self._rules.off_node.get(portal)
                if served := self._served(portal, action, OFF_NODE_REDIRECTS, "far-"):
                    return served
        for portal in self._portals():
            action = self._action(portal)
            if isinstance(portal, NodePort) and self._packet.to.is_loopback and isinstance(action, Direct):
                # the kernel forwards nothing from there
                action = self._rules.loopback.get(portal)
            if served := self._served(portal, action, REDIRECTS, ""):
                return served
        return None

    def _served(self, portal: Portal | NodePort, action: Action | None, chain: str, prefix: str) -> Outcome | None:
        if isinstance(portal, NodePort):
            chain = f"{prefix}node-ports-ip{self._family.value}"
        if isinstance(action, Direct):
            rule = f"chain {chain}, map {self._map(portal, f'{prefix}direct')}, chain {chain_of(action.frontend)}"
            # what asks the far-* maps is never masqueraded
            is_masqueraded = not prefix and self._is_masqueraded(action.masquerade)
            return Outcome(Fate.SERVED, rule, portal, action, is_masqueraded=is_masqueraded)
        if isinstance(action, int) and self._family in self._rules.proxy_addresses:
            rule = f"chain {chain}, map {self._map(portal, f'{prefix}proxy')}"
            return Outcome(Fate.SERVED, rule, portal, action, is_masqueraded=True)
        return None

    def _map(self, portal: Portal | NodePort, kind: str) -> str:
        return name_of(kind if isinstance(portal, Portal) else f"{kind}-node-ports", self._family)

    def _is_masqueraded(self, how: Masquerade) -> bool:
        if self._packet.origin is Origin.NODE or how is Masquerade.ALWAYS:
            return True
        if how is Masquerade.NEVER:
            return False
        known = self._rules.own_pods.are_known(self._family)
        return self._rules.masquerade_all or (known and self._is_off_node)

    def _undefined(self) -> Outcome:
        packet, rules = self._packet, self._rules
        if packet.to in rules.cluster_ips:
            return Outcome(Fate.REFUSED, f"chain undefined-ports, set {name_of('cluster-ips', self._family)}")
        if not self._is_local and any(packet.to in one for one in rules.service_cidrs):
            return Outcome(Fate.DROPPED, f"chain undefined-ports, set {name_of('service-cidrs', self._family)}")
        if packet.protocol is Protocol.TCP and SocketAddress(packet.to, packet.port) in rules.listening:
            return Outcome(Fate.REFUSED, f"chain guard, set {name_of('listening', self._family)}")
        return Outcome(Fate.LEFT_ALONE)


def _let_in(sources: tuple[IPNetwork, ...], ranges: tuple[IPNetwork, ...]) -> bool | None:
    """None: some are, and others are not."""
    if not ranges:
        return True
    if not sources:
        return None
    if all(any(_is_inside(one, network) for network in ranges) for one in sources):
        return True
    return None if any(one.overlaps(network) for one in sources for network in ranges) else False


def _is_inside(one: IPNetwork, other: IPNetwork) -> bool:
    # of one version: mypy does not see it
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]
