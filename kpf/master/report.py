"""The state of the daemon as `kpf status --json` shows it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kpf.master.addresses import shown
from kpf.master.generations import Generations
from kpf.model.names import EndpointSet, Forwarding, ServicePortName, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState
from kpf.plan.routes import PortalClaim
from kpf.plan.service_plan import FrontendPlan
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.observer import MemberView, WorkerView

# endpoints that are reported before others get their turn on the loop
AT_A_TIME = 500


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
    desired: DesiredState, slot_of: Callable[[Listener], int | None], directory: Directory
) -> list[dict[str, object]]:
    """One entry a ServicePort, its frontends added up; made in turns with everything else on the loop.

    `slot_of`: a listener's place in shared memory, None if it is not open (any more).
    """
    entries, due = [], 0
    for entry, endpoints in _entries(desired, slot_of, directory):
        entries.append(entry)
        due += endpoints + 1
        if due >= AT_A_TIME:
            due = 0
            await asyncio.sleep(0)
    return entries


def _entries(
    desired: DesiredState, slot_of: Callable[[Listener], int | None], directory: Directory
) -> Iterator[tuple[dict[str, object], int]]:
    """With the number of endpoints of each."""
    listeners = desired.allocation.listeners
    for _, claims in sorted(desired.captured.items()):
        ports: dict[ServicePortName, list[PortalClaim]] = {}
        for claim in claims:
            ports.setdefault(claim.frontend.port, []).append(claim)
        for name, group in sorted(ports.items()):
            keys = dict.fromkeys(key for claim in group for key in claim.frontends)
            open_ones = [listeners[key] for key in keys if key in listeners]
            slots = {listener: slot for listener in open_ones if (slot := slot_of(listener)) is not None}
            # one that has nothing to be served by is not open yet
            if slots or any(key.forwarding is Forwarding.DIRECT for key in keys):
                entry = _entry(name, group, slots, desired, directory)
                yield entry, sum(len(desired.frontends[listener].endpoints) for listener in slots)


def _entry(
    name: ServicePortName,
    claims: Sequence[PortalClaim],
    slots: Mapping[Listener, int],
    desired: DesiredState,
    directory: Directory,
) -> dict[str, object]:
    plans = desired.plans[name.service_name].frontends
    is_direct = all(claim.frontend.forwarding is Forwarding.DIRECT for claim in claims)
    watched = {} if is_direct else slots
    first = min(watched, key=_first_choice, default=None)
    off_node_is_direct = any(
        claim.off_node is not None and claim.off_node.forwarding is Forwarding.DIRECT for claim in claims
    )
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
        "sessionAffinity": _affinity(plans[claim.frontend] for claim in claims),
        **(_connections(watched.values(), directory) if watched else _unwatched(claims, desired)),
    }


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


def _affinity(frontends: Iterable[FrontendPlan]) -> str:
    return "ClientIP" if any(frontend.affinity_timeout_s for frontend in frontends) else "None"


def _unwatched(claims: Iterable[PortalClaim], desired: DesiredState) -> dict[str, object]:
    """What is known of endpoints that the kernel forwards to: that they have been told to it."""
    forwards = [desired.rules.forwards.get(key) for claim in claims for key in claim.frontends]
    endpoints = dict.fromkeys(endpoint for forward in forwards if forward for endpoint in forward.endpoints)
    nothing = dict.fromkeys(("connectionsActive", "connectionsTotal"))
    return {
        **nothing,
        "endpoints": [
            {"address": str(endpoint), "state": "not watched", **nothing, "dialFailures": None}
            for endpoint in endpoints
        ],
    }


def _connections(slots: Iterable[int], directory: Directory) -> dict[str, object]:
    counts = [directory.frontend(slot) for slot in slots]
    # an endpoint of two sets is one endpoint to the reader
    endpoints: dict[Address, list[MemberView]] = {}
    for slot in slots:
        for member in directory.members(slot):
            endpoints.setdefault(member.address, []).append(member)
    return {
        "connectionsActive": sum(count.active for count in counts),
        "connectionsTotal": sum(count.total for count in counts),
        "endpoints": [_endpoint(address, members) for address, members in endpoints.items()],
    }


def _endpoint(address: Address, members: Sequence[MemberView]) -> dict[str, object]:
    counts = zip(*((one.active, one.total, one.dial_failures) for one in members), strict=True)
    return {
        "address": shown(address),
        "state": "shut out" if any(one.ejected for one in members) else "healthy",
        **dict(zip(("connectionsActive", "connectionsTotal", "dialFailures"), map(sum, counts), strict=True)),
    }
