"""EndpointSlice as kpf uses it (discovery.k8s.io/v1 of the Kubernetes API, 1.36)."""

from dataclasses import dataclass, field

from kpf.model.names import Family, IPAddress, ObjectName, Protocol


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """`port` is None where the slice gives no number: such a port is ignored."""

    name: str
    protocol: Protocol
    port: int | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One entry of a slice, its conditions with the API's defaults applied. `address` is `addresses[0]`.

    `pod`: "namespace/name" of the pod behind it, "" if it is none, or not known.
    """

    address: IPAddress
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()
    pod: str = ""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A slice that counts: it names a service, is not headless, and its addressType is an IP family.

    `triggered_at_s`: when what it tells of has happened, in seconds of the Unix epoch; 0 if it does not say.
    """

    name: ObjectName
    service: ObjectName
    family: Family
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    origin: str = ""
    triggered_at_s: float = field(default=0.0, compare=False)
