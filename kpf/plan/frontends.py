"""What one Service asks for: its frontends, and the portals that lead to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpf.model.endpoint import EndpointSlice
from kpf.model.health import HealthCheck
from kpf.model.names import FrontendKey, IPAddress, IPNetwork, ObjectName, SocketAddress
from kpf.model.rules import Masquerade, NodePort, Portal, Verdict
from kpf.model.service import Service
from kpf.model.snapshot import Problem
from kpf.plan.policy import Backends

# that are told of one slice, or of one frontend: who writes it may have written a thousand
MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class FrontendPlan:
    """`members` are the endpoints as a set, `ports` those that they have.

    `when_empty`: what becomes of connections while there are none.
    `affinity_timeout_s` is None without session affinity. `flows_kept`: the endpoints whose flows may go on, of a
    frontend without connections (UDP). `hairpins`: endpoints on this node, of one that the kernel forwards.
    """

    endpoints: Backends
    members: frozenset[SocketAddress]
    ports: frozenset[int]
    when_empty: Verdict
    affinity_timeout_s: int | None
    flows_kept: frozenset[SocketAddress] = frozenset()
    hairpins: frozenset[IPAddress] = frozenset()


class PortalPlan(NamedTuple):
    """A portal, where it leads, and the field that asks for it.

    `far`: where it leads for connections from elsewhere than this node and its pods, if that is another place.
    `loopback`: where the node port leads that is reached at 127.0.0.1 or ::1, if that is another place.
    `masquerade` is of direct forwarding. `sources`: who alone may come, anybody if there is none. `is_cluster_ip`: it
    is asked for as such, and comes before what is asked for as an external address.
    """

    portal: Portal | NodePort
    field: str
    frontend: FrontendKey
    far: FrontendKey | None = None
    loopback: FrontendKey | None = None
    masquerade: Masquerade = Masquerade.NEVER
    sources: tuple[IPNetwork, ...] = ()
    is_cluster_ip: bool = False

    @property
    def service_name(self) -> ObjectName:
        """The Service that asks for the portal, whether or not it gets it."""
        return self.frontend.port.service_name

    @property
    def frontends(self) -> tuple[FrontendKey, ...]:
        """All places where it leads."""
        return tuple(one for one in (self.frontend, self.far, self.loopback) if one is not None)


class Claims(NamedTuple):
    """What a Service asks for that another one might ask for too. Endpoints come and go without changing it."""

    created: str
    name: ObjectName
    origin: str
    portals: tuple[PortalPlan, ...]
    cluster_ips: tuple[IPAddress, ...]
    health_check_port: int = 0

    @property
    def age(self) -> tuple[bool, str, ObjectName]:
        """Sorts the older one first. Who does not say when it was made is younger than who does."""
        return not self.created, self.created, self.name

    def problem(self, field: str, message: str) -> Problem:
        """One of this Service's; `field` as the API writes it (`spec.ports[0].nodePort`), "" for the whole object."""
        return Problem(self.origin, f"Service {self.name}", field, message)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one Service asks for, before it meets the others."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    claims: Claims
    frontends: Mapping[FrontendKey, FrontendPlan]
    problems: tuple[Problem, ...]
    health_check: HealthCheck | None = None

    def refused_endpoints(self, refused: Sequence[tuple[SocketAddress, str]]) -> Iterator[Problem]:
        """Complaints about endpoints, with why they are refused: `MAX_PROBLEMS`, and one that counts the others.

        Raises LookupError for an endpoint that is in none of `slices`.
        """
        for address, reason in refused[:MAX_PROBLEMS]:
            yield self._endpoint_problem(address, reason)
        if len(refused) > MAX_PROBLEMS:
            message = f"{len(refused) - MAX_PROBLEMS} more endpoints are refused"
            yield Problem(self.service.origin, f"Service {self.service.name}", "", message)

    def _endpoint_problem(self, refused: SocketAddress, reason: str) -> Problem:
        """A complaint about an endpoint, naming the slice that has it."""
        for piece in self.slices:
            for index, endpoint in enumerate(piece.endpoints):
                if endpoint.address == refused.address:
                    field = f"endpoints[{index}].addresses[0]"
                    message = f"endpoint {refused} is refused: {reason}"
                    return Problem(piece.origin, f"EndpointSlice {piece.name}", field, message)
        raise LookupError(f"{refused} is in no slice of {self.service.name}")
