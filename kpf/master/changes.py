"""What has become of Services from one desired state to the next, in words for the log. Pure."""

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from kpf.model.names import ObjectName
from kpf.model.snapshot import Problem
from kpf.named import Named
from kpf.plan.desired import DesiredState
from kpf.plan.differences import differences

# portals that a line names
NAMED_PORTALS = 6


class Change(NamedTuple):
    """`kind`: what many of it are called, with room for their number. `service`: whose; `what` has become of it."""

    kind: str
    service: Named
    what: str


def changes(before: DesiredState, now: DesiredState) -> Iterator[Change]:
    """One for each Service that has come or gone, or whose portals have, or that has its first endpoint, or none."""
    plans = differences(now.plans, before.plans, attrgetter("claims.name"))
    captured = differences(now.captured, before.captured, lambda claims: claims[0].service_name)
    for name in dict.fromkeys(chain(*plans, *captured)):
        yield from _of_service(name, before, now)


def _of_service(name: ObjectName, before: DesiredState, now: DesiredState) -> Iterator[Change]:
    had = dict.fromkeys(claim.portal for claim in before.captured.get(name, ()))
    has = dict.fromkeys(claim.portal for claim in now.captured.get(name, ()))
    service, endpoints = Named(f"Service {name}", namespace=name.namespace, service=name.name), _endpoints(name, now)
    if not had:
        if has:
            what = f"has come: {_listed(has)}; {_counted(len(endpoints))}"
            yield Change("%d more Services have come", service, what)
        return
    if not has:
        yield Change("%d more Services have gone", service, f"has gone: {_listed(had)}")
        return
    for what, left, right in (("has another portal", has, had), ("has lost a portal", had, has)):
        if listed := _listed(one for one in left if one not in right):
            yield Change("%d more Services have other portals", service, f"{what}: {listed}")
    if bool(endpoints) != bool(_endpoints(name, before)):
        what = f"has endpoints again: {_counted(len(endpoints))}" if endpoints else "has no endpoint any more"
        yield Change("%d more Services have their first endpoint, or none any more", service, what)


def _endpoints(name: ObjectName, state: DesiredState) -> set[object]:
    plan = state.plans.get(name)
    return set(chain.from_iterable(one.endpoints for one in plan.frontends.values())) if plan else set()


def _listed(portals: Iterable[object]) -> str:
    shown = list(map(str, portals))
    more = [f"{len(shown) - NAMED_PORTALS} more"] if len(shown) > NAMED_PORTALS else []
    return ", ".join([*shown[:NAMED_PORTALS], *more])


def _counted(endpoints: int) -> str:
    return "1 endpoint" if endpoints == 1 else f"{endpoints or 'no'} endpoints"


def named(problem: Problem) -> Named:
    """A problem, with keys for its parts."""
    keys = {"origin": problem.origin, "object": problem.object, "field": problem.field, "reason": problem.message}
    kind, _, name = problem.object.partition(" ")
    namespace, _, service = name.partition("/")
    if kind == "Service" and service:
        keys |= {"namespace": namespace, "service": service}
    return Named(str(problem), **{key: value for key, value in keys.items() if value})
