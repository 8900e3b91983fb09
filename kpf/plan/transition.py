"""The order of effects, as data: make before break.

After every step each portal that is redirected has a listener that listens, workers that accept, and endpoints to dial;
a listener closes only when nothing is sent to it any more. So a transition may stop after any step, for ever.
Effects are elsewhere (`kpf.master.effects`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from kpf.model.rules import Portal, Rules
from kpf.plan.desired import DesiredState, Frontend
from kpf.plan.differences import differences, missing
from kpf.plan.ground import Listener


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
    """What is: open frontends, those that workers do not accept on yet, and the kernel's rules (None: unknown)."""

    frontends: dict[Listener, Frontend] = field(default_factory=dict)
    unheard: set[Listener] = field(default_factory=set)
    rules: Rules | None = None


def transition(now: InForce, desired: DesiredState) -> Iterator[Step]:
    """Steps from what is, as it is at the call, to what must hold."""
    rules = now.rules
    listeners, closed = differences(desired.frontends, now.frontends, attrgetter("listener"))
    suspects = [desired.frontends[listener] for listener in listeners]
    opened = tuple(new for new in suspects if new.listener not in now.frontends)
    changed = tuple(new for new in suspects if now.frontends.get(new.listener, new) != new)
    unheard = (*(now.unheard - closed), *(new.listener for new in opened))
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
        yield CloseFrontends(tuple(closed))


def _new_portals(old: Rules | None, new: Rules) -> ForgetEarly:
    known = old or Rules()
    return ForgetEarly(
        portals=frozenset(missing(new.portals, known.portals)),
        node_ports=frozenset(port.port for port in missing(new.node_ports, known.node_ports)),
    )
