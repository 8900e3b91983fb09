"""The state of the daemon as `kpf status --json` shows it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import orjson

from kpf.master.endpoints_report import Clock, at, unwatched, watched_endpoints
from kpf.master.generations import Generations
from kpf.model.names import EndpointSet, Forwarding, ServicePortName, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.model.selection import Selection
from kpf.model.snapshot import Problem
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState
from kpf.plan.routes import PortalClaim
from kpf.shm.directory import Directory
from kpf.shm.observer import WorkerView

# endpoints that are reported before others get their turn on the loop
AT_A_TIME = 50


def problems_report(problems: Mapping[Problem, float]) -> list[dict[str, object]]:
    """For `status --json`. `problems`: since when there is each, in seconds of the Unix epoch."""
    return [
        {
            "origin": problem.origin,
            "object": problem.object,
            "field": problem.field,
            "message": problem.message,
            "since": at(since_s),
            "lastStays": problem.last_stays,
        }
        for problem, since_s in problems.items()
    ]


def workers_report(workers: Generations, directory: Directory) -> list[dict[str, object]]:
    """For `status --json`: one entry a place of those that serve, then one for each worker that is leaving."""
    serving = workers.serving
    entries: list[dict[str, object]] = []
    for index, slot in enumerate(workers.slots):
        seen = directory.worker(serving.places[index])
        entries.append(
            {
                "slot": serving.places[index],
                "pid": slot.pid,
                "state": str(slot.state),
                "connectionsActive": seen.active if slot.pid else 0,
                "connectionsTotal": seen.total,
                "restarts": slot.restarts,
                "privileges": workers.serving.privileges(index),
                "generation": serving.generation,
            }
        )
    for place in directory.worker_slots():
        if place not in serving.places:
            entries.append(_leaving(place, directory.worker(place)))
    return entries


def _leaving(place: int, seen: WorkerView) -> dict[str, object]:
    """One of before, whoever its master is: it goes on with what it has."""
    return {
        "slot": place,
        "pid": seen.pid,
        "state": "leaving",
        "connectionsActive": seen.active,
        "connectionsTotal": seen.total,
        "restarts": 0,
        "privileges": "",
        "generation": seen.generation,
    }


async def services_report(
    desired: DesiredState, slot_of: Callable[[Listener], int | None], directory: Directory, wanted: Selection
) -> list[orjson.Fragment]:
    """One entry a ServicePort, as JSON, its frontends added up; made in turns with everything else on the loop.

    `slot_of`: a listener's place in shared memory, None if it is not open (any more).
    """
    made, due = list[orjson.Fragment](), 0
    for entry, endpoints in _entries(desired, slot_of, directory, wanted):
        made.append(orjson.Fragment(orjson.dumps(entry)))
        due += endpoints + 1
        if due >= AT_A_TIME:
            due = 0
            await asyncio.sleep(0)
    return made


def _entries(
    desired: DesiredState, slot_of: Callable[[Listener], int | None], directory: Directory, wanted: Selection
) -> Iterator[tuple[dict[str, object], int]]:
    """With the number of endpoints of each."""
    listeners, clock = desired.allocation.listeners, Clock()
    for service in sorted(desired.captured):
        ports: dict[ServicePortName, list[PortalClaim]] = {}
        for claim in desired.captured[service]:
            if wanted.has(claim.frontend.port):
                ports.setdefault(claim.frontend.port, []).append(claim)
        for name, group in sorted(ports.items()):
            keys = dict.fromkeys(key for claim in group for key in claim.frontends)
            open_ones = [listeners[key] for key in keys if key in listeners]
            slots = {listener: slot for listener in open_ones if (slot := slot_of(listener)) is not None}
            # one that has nothing to be served by is not open yet
            if slots or any(key.forwarding is Forwarding.DIRECT for key in keys):
                entry = _entry(name, group, slots, desired, directory, clock)
                yield entry, sum(len(desired.frontends[listener].endpoints) for listener in slots)


def _entry(
    name: ServicePortName,
    claims: Sequence[PortalClaim],
    slots: Mapping[Listener, int],
    desired: DesiredState,
    directory: Directory,
    clock: Clock,
) -> dict[str, object]:
    plan = desired.plans[name.service_name]
    is_direct = all(claim.frontend.forwarding is Forwarding.DIRECT for claim in claims)
    watched = {} if is_direct else slots
    first = min(watched, key=_first_choice, default=None)
    off_node_is_direct = any(
        claim.off_node is not None and claim.off_node.forwarding is Forwarding.DIRECT for claim in claims
    )
    affinity_s = max((plan.frontends[claim.frontend].affinity_timeout_s or 0 for claim in claims), default=0)
    return {
        "namespace": name.namespace,
        "name": name.service,
        "port": name.port,
        "protocol": str(name.protocol),
        "forwarding": str(Forwarding.DIRECT if is_direct else Forwarding.PROXIED),
        # external policy Local: others than this node and its pods keep their address
        "directFromElsewhere": off_node_is_direct and not is_direct,
        # connections may come back by another node: a share of each worker's sessions
        "limited": any(desired.frontends[listener].may_loop for listener in slots),
        **_portals(claims, desired),
        "proxyPort": None if first is None else first.at.port,
        "proxyPorts": [_proxy_port(one) for one in sorted(watched, key=_first_choice)],
        "sessionAffinity": "ClientIP" if affinity_s else "None",
        "affinityTimeoutSeconds": affinity_s or None,
        **(
            watched_endpoints(watched.values(), directory, plan.slices, clock)
            if watched
            else unwatched(_forwarded_to(claims, desired), plan.slices)
        ),
    }


def _proxy_port(listener: Listener) -> dict[str, object]:
    key, place = listener
    return {"family": str(key.family), "endpointSet": str(key.endpoint_set), "port": place.port}


def _forwarded_to(claims: Iterable[PortalClaim], desired: DesiredState) -> Iterable[SocketAddress]:
    forwards = [desired.rules.forwards.get(key) for claim in claims for key in claim.frontends]
    return dict.fromkeys(endpoint for forward in forwards if forward for endpoint in forward.endpoints)


def _first_choice(listener: Listener) -> tuple[int, bool]:
    """The IPv4 cluster-wide frontend is the one that `proxyPort` names."""
    return listener.frontend.family, listener.frontend.endpoint_set is not EndpointSet.CLUSTER


def _portals(claims: Iterable[PortalClaim], desired: DesiredState) -> dict[str, object]:
    portals = [claim.portal for claim in claims if isinstance(claim.portal, Portal)]
    portals.sort(key=lambda portal: (portal.address.version, int(portal.address), portal.port))
    node_ports = {claim.portal.port for claim in claims if isinstance(claim.portal, NodePort)}
    return {
        "clusterIPs": [str(portal.address) for portal in portals if portal.address in desired.rules.cluster_ips],
        "portals": [str(SocketAddress(portal.address, portal.port)) for portal in portals],
        "nodePort": min(node_ports, default=None),
    }
