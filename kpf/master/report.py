"""The state of the daemon as `kpf status --json` shows it."""

from collections.abc import Iterable, Mapping

from kpf.master.addresses import endpoint_of
from kpf.master.workers import Workers
from kpf.model.names import ServicePortName, SocketAddress
from kpf.model.rules import NodePort, Portal
from kpf.plan.desired import DesiredState, Frontend, Listener
from kpf.plan.frontends import EndpointSet
from kpf.shm.directory import Directory


def workers_report(workers: Workers, directory: Directory) -> list[dict[str, object]]:
    """One entry a slot."""
    entries: list[dict[str, object]] = []
    for index, slot in enumerate(workers.slots):
        seen = directory.worker(index)
        entries.append(
            {
                "slot": index,
                "pid": slot.pid,
                "state": str(slot.state),
                "connectionsActive": seen.active if slot.pid else 0,
                "connectionsTotal": seen.total,
                "restarts": slot.restarts,
                "privileges": workers.privileges(index),
            }
        )
    return entries


def services_report(
    desired: DesiredState, open_slots: Mapping[Listener, int], directory: Directory
) -> list[dict[str, object]]:
    """One entry a ServicePort, its frontends added up."""
    listeners: dict[ServicePortName, list[Listener]] = {}
    for listener in desired.frontends:
        if listener in open_slots:
            listeners.setdefault(listener.frontend.port, []).append(listener)
    portals: dict[ServicePortName, list[Portal | NodePort]] = {}
    for portal, key in desired.claims.items():
        portals.setdefault(key.port, []).append(portal)
    entries = []
    for name, group in sorted(listeners.items()):
        group.sort(key=_first_choice)
        entries.append(
            {
                "namespace": name.namespace,
                "name": name.service,
                "port": name.port,
                "protocol": str(name.protocol),
                "forwarding": "proxied",
                **_portals(portals.get(name, []), desired),
                "proxyPort": group[0].at.port,
                "sessionAffinity": _affinity(desired.frontends[listener] for listener in group),
                **_connections([open_slots[listener] for listener in group], directory),
            }
        )
    return entries


def _first_choice(listener: Listener) -> tuple[int, bool]:
    """The IPv4 cluster-wide frontend is the one that `proxyPort` names."""
    return listener.frontend.family, listener.frontend.endpoint_set is not EndpointSet.CLUSTER


def _portals(claimed: list[Portal | NodePort], desired: DesiredState) -> dict[str, object]:
    portals = [portal for portal in claimed if isinstance(portal, Portal)]
    portals.sort(key=lambda portal: (portal.address.version, int(portal.address), portal.port))
    node_ports = {portal.port for portal in claimed if isinstance(portal, NodePort)}
    return {
        "clusterIPs": [str(portal.address) for portal in portals if portal.address in desired.rules.cluster_ips],
        "portals": [str(SocketAddress(portal.address, portal.port)) for portal in portals],
        "nodePort": min(node_ports, default=None),
    }


def _affinity(frontends: Iterable[Frontend]) -> str:
    return "ClientIP" if any(frontend.affinity_timeout_s for frontend in frontends) else "None"


def _connections(slots: list[int], directory: Directory) -> dict[str, object]:
    counts = [directory.frontend(slot) for slot in slots]
    endpoints: dict[str, dict[str, object]] = {}
    for member in (member for slot in slots for member in directory.members(slot)):
        address = str(endpoint_of(member.address))
        # an endpoint of two sets is one endpoint to the reader
        known = endpoints.setdefault(address, _endpoint(address))
        known["state"] = "shut out" if member.shut_out else known["state"]
        for field, count in zip(COUNTED, (member.active, member.total, member.dial_failures), strict=True):
            known[field] = int(str(known[field])) + count
    return {
        "connectionsActive": sum(count.active for count in counts),
        "connectionsTotal": sum(count.total for count in counts),
        "endpoints": list(endpoints.values()),
    }


COUNTED = ("connectionsActive", "connectionsTotal", "dialFailures")


def _endpoint(address: str) -> dict[str, object]:
    return {"address": address, "state": "healthy", **dict.fromkeys(COUNTED, 0)}
