"""The order of effects, as data: make before break.

After every step each portal that is redirected has a listener that listens, workers that accept, and endpoints to dial;
a listener closes only when nothing is sent to it any more. So a transition may stop after any step, for ever.
Effects are elsewhere (`kpf.master.effects`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kpf.model.rules import Portal, Rules
from kpf.plan.desired import DesiredState, Frontend, Listener


@dataclass(frozen=True, slots=True)
class OpenFrontends:
    """Give each a slot in shared memory, its members, and sockets that listen."""

    frontends: tuple[Frontend, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """Hand the listeners to the workers, and wait (a while) until they accept."""

    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class UpdateFrontends:
    """Replace members and affinity of open frontends."""

    frontends: tuple[Frontend, ...]


@dataclass(frozen=True, slots=True)
class WriteRules:
    """One transaction. `old` is None for a full sync, which makes the table anew."""

    old: Rules | None
    new: Rules


@dataclass(frozen=True, slots=True)
class ForgetEarly:
    """Delete conntrack entries of connection attempts that came before their portal."""

    portals: frozenset[Portal]
    node_ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class CloseFrontends:
    """Nothing is sent to these any more: accept what is queued, close the listeners, free the slots."""

    listeners: tuple[Listener, ...]


Step = OpenFrontends | Announce | UpdateFrontends | WriteRules | ForgetEarly | CloseFrontends


@dataclass(slots=True)
class InForce:
    """What is: open frontends, listeners that workers accept on, and the kernel's rules (None: unknown)."""

    frontends: dict[Listener, Frontend] = field(default_factory=dict)
    announced: set[Listener] = field(default_factory=set)
    rules: Rules | None = None


def transition(now: InForce, desired: DesiredState) -> Iterator[Step]:
    """Steps from what is, as it is at the call, to what must hold."""
    frontends, rules = dict(now.frontends), now.rules
    opened = tuple(new for listener, new in desired.frontends.items() if listener not in frontends)
    unheard = tuple(listener for listener in desired.frontends if listener not in now.announced)
    changed = tuple(
        new for listener, new in desired.frontends.items() if listener in frontends and frontends[listener] != new
    )
    closed = tuple(listener for listener in frontends if listener not in desired.frontends)
    emptied = tuple(frontend for frontend in changed if not frontend.endpoints)
    if opened:
        yield OpenFrontends(opened)
    if unheard:
        yield Announce(unheard)
    if len(emptied) < len(changed):
        yield UpdateFrontends(tuple(frontend for frontend in changed if frontend.endpoints))
    if rules != desired.rules:
        yield WriteRules(rules, desired.rules)
        early = _new_portals(rules, desired.rules)
        if early.portals or early.node_ports:
            yield early
    if emptied:
        # only once their portals refuse: a connection may still be on its way to the listener
        yield UpdateFrontends(emptied)
    if closed:
        yield CloseFrontends(closed)


def _new_portals(old: Rules | None, new: Rules) -> ForgetEarly:
    known = old or Rules()
    return ForgetEarly(
        portals=frozenset(new.portals.keys() - known.portals.keys()),
        node_ports=frozenset(port.port for port in new.node_ports.keys() - known.node_ports.keys()),
    )
