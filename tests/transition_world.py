"""A world that the steps of a transition act on, and what must hold of it after each."""

from collections.abc import Set
from dataclasses import dataclass, field
from itertools import chain

from kpf.model.names import IPAddress, SocketAddress
from kpf.model.rules import Action, Direct, NodePort, Portal, Rules
from kpf.nft.table import Table
from kpf.plan.transition import (
    Announce,
    CloseFrontends,
    FlowsKept,
    Forget,
    InForce,
    OpenFrontends,
    Step,
    UpdateFrontends,
    WriteRules,
)
from tests.values import UDP


class RefusedError(Exception):
    """A transaction that changes a table which is not there."""


@dataclass
class World:
    """What the steps act on, and what must hold of it at every moment.

    `table`: what is known of the kernel's rules. `rules`: what it really has. `strays`: portals it has whose clients
    may have begun without them. `is_touched`: somebody has deleted the table, and nobody has heeded it yet.
    """

    now: InForce = field(default_factory=InForce)
    table: Table = field(default_factory=Table)
    rules: Rules = field(default_factory=Rules)
    strays: set[Portal | NodePort] = field(default_factory=set)
    forgotten: list[Forget] = field(default_factory=list)
    is_touched: bool = False

    def touch(self) -> None:
        self.rules, self.strays, self.is_touched = Rules(), set(), True
        self.now.flows = FlowsKept()

    def heed(self) -> None:
        if self.is_touched:
            self.table.distrust()
            self.is_touched = False

    def perform(self, step: Step) -> None:
        """Raises `RefusedError` where the kernel does."""
        match step:
            case OpenFrontends(frontends):
                assert not self.now.frontends.keys() & {one.listener for one in frontends}
                self.now.frontends.update({one.listener: one for one in frontends})
                self.now.unannounced.update(one.listener for one in frontends)
            case Announce(listeners):
                self.now.unannounced.difference_update(listeners)
            case UpdateFrontends(frontends):
                assert self.now.frontends.keys() >= {one.listener for one in frontends}
                self.now.frontends.update({one.listener: one for one in frontends})
            case WriteRules(old, new):
                assert old is None or old == self.table.rules
                with self.table.transaction(new, anew=old is None):
                    if old is not None and self.is_touched:
                        raise RefusedError
                self.strays = (self.strays & captured(new)) | (captured(new) - captured(self.rules))
                self.rules = new
                self.now.unreplied = step.unreplied
            case Forget():
                self.check_forgotten(step)
                self.strays -= step.unreplied | step.flows.keys()
                self.now.unreplied = frozenset()
                if self.now.flows is step.was:
                    self.now.flows = step.kept
                if step.unreplied or step.flows:
                    self.forgotten.append(step)
            case CloseFrontends(listeners):
                for listener in listeners:
                    del self.now.frontends[listener]
                    self.now.unannounced.discard(listener)
        self.check()

    def check(self) -> None:
        rules = self.rules
        everything = list(
            chain[tuple[Portal | NodePort, Action]](
                rules.portals.items(), rules.node_ports.items(), rules.off_node.items(), rules.loopback.items()
            )
        )
        for portal, action in everything:
            if isinstance(action, int):
                self.check_proxied(rules.proxy_addresses[portal.family], action)
            elif isinstance(action, Direct):
                assert rules.forwards[action.frontend].endpoints, "forwarded to nobody"
        assert {action.frontend for _, action in everything if isinstance(action, Direct)} == rules.forwards.keys()
        assert rules.source_ranges.keys() <= rules.portals.keys()
        assert rules.off_node.keys() <= rules.portals.keys() | rules.node_ports.keys()
        for node_port in rules.loopback:
            assert not isinstance(rules.node_ports[node_port], int), "a node port has two proxy ports"

    def check_forgotten(self, step: Forget) -> None:
        was, now = allowed(step.was), allowed(step.kept)
        due = {portal for portal in was.keys() | now.keys() if was.get(portal) != now.get(portal)}
        assert due <= step.flows.keys(), "flows go on to where nobody is sent any more"
        assert step.flows == {portal: now.get(portal, frozenset()) for portal in step.flows}

    def check_proxied(self, address: IPAddress, port: int) -> None:
        # what listens at the address itself has it before what listens everywhere
        places = SocketAddress(address, port), SocketAddress(type(address)(0), port)
        found = [listener for place in places for listener in self.now.frontends if listener.at == place]
        assert found, "redirected to a port that does not listen"
        assert found[0] not in self.now.unannounced, "redirected to a listener that nobody accepts on"
        assert self.now.frontends[found[0]].endpoints, "redirected to nobody"


def captured(rules: Rules) -> Set[Portal | NodePort]:
    return rules.portals.keys() | rules.node_ports.keys()


def allowed(kept: FlowsKept) -> dict[Portal | NodePort, frozenset[SocketAddress]]:
    """Portals of UDP, and the endpoints whose flows may go on."""
    return {
        claim.portal: frozenset().union(*(kept.flows[key].endpoints for key in claim.frontends))
        for claims in kept.captured.values()
        for claim in claims
        if claim.portal.protocol is UDP
    }
