"""Node ports that something else on this node listens on: the portal wins, and whoever runs it should know."""

from collections.abc import Mapping

from kpf.model.names import Family, Protocol
from kpf.model.rules import NodePort
from kpf.model.snapshot import Problem
from kpf.net import sockets
from kpf.plan.desired import DesiredState
from kpf.plan.differences import missing
from kpf.plan.ownership import Ownership

_EVERYWHERE = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}


class OccupiedNodePorts:
    """Each node port is tried once, when it comes."""

    def __init__(self) -> None:
        self._tried: Mapping[NodePort, object] = {}
        self._found: set[NodePort] = set()

    def problems(self, desired: DesiredState) -> tuple[Problem, ...]:
        """Those of all node ports that are in use now."""
        now = desired.rules.node_ports
        if now is not self._tried:
            gone, come = missing(self._tried, now), missing(now, self._tried)
            self._found -= gone
            self._found.update(port for port in come if not _is_free(port))
            self._tried = now
        found = (port for port in sorted(self._found) if not _is_endpoint(port, desired))
        return tuple(_problem(port, desired.allocation.ownership) for port in found)


def _is_endpoint(port: NodePort, desired: DesiredState) -> bool:
    """Who listens there is whom the node port leads to."""
    claim = desired.allocation.ownership.claimants[port][0]
    frontends = desired.plans[claim.service_name].frontends
    here = desired.allocation.facts.local_addresses
    endpoints = (at for key in claim.frontends for at in frontends[key].members if port.port in frontends[key].ports)
    return any(at.port == port.port and at.address in here for at in endpoints)


def _problem(port: NodePort, ownership: Ownership) -> Problem:
    claim = ownership.claimants[port][0]
    message = f"something on this node listens on {port} too: the Service has it now"
    return ownership.claims_of(claim.frontend).problem(claim.field, message)


def _is_free(port: NodePort) -> bool:
    """False only if it is certain that somebody has it."""
    if port.protocol is Protocol.SCTP:
        return True
    try:
        return sockets.port_is_free(_EVERYWHERE[port.family], port.port, is_udp=port.protocol is Protocol.UDP)
    except OSError:
        return True
