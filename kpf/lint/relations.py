"""What does not fit together: EndpointSlices and the Services that they name. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kpf.model.names import ObjectName, Protocol
from kpf.model.service import Service, ServiceType
from kpf.model.snapshot import Problem
from kpf.sources.messages import path_of
from kpf.sources.slices import LABEL_SERVICE_NAME
from kpf.suggestions import did_you_mean

# of names of Services with one that is none: 20 us each
MAX_COMPARISONS = 100_000
MAX_SHOWN = 5

_PROTOCOLS = {str(one) for one in Protocol}


@dataclass(frozen=True, slots=True)
class SlicePort:
    """As it is written: `index` in the slice's list."""

    index: int
    name: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice that would count, if its Service were there."""

    origin: str
    name: ObjectName
    service: ObjectName
    ports: Sequence[SlicePort]

    def problem(self, place: tuple[int | str, ...], message: str) -> Problem:
        """What is wrong with it there."""
        return Problem(self.origin, f"EndpointSlice {self.name}", path_of(place), message)


@dataclass(slots=True)
class Relations:
    """Services by name, None for one that is malformed, and slices, as they are read."""

    services: dict[ObjectName, Service | None] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)

    def oddities(self) -> Iterator[Problem]:
        """Slices of a Service that is not there, and ports of slices that their Service does not have."""
        names: dict[str, list[str]] = {}
        namespaces: dict[str, list[str]] = {}
        for namespace, name in self.services:
            names.setdefault(namespace, []).append(name)
            namespaces.setdefault(name, []).append(namespace)
        left = MAX_COMPARISONS
        for one in self.slices:
            if one.service not in self.services:
                alike = names.get(one.service.namespace, []) if left > 0 else []
                left -= len(alike)
                yield _without_service(one, alike, namespaces.get(one.service.name, ()))
            elif service := self.services[one.service]:
                yield from _odd_ports(one, service)


def _without_service(one: Slice, alike: Sequence[str], namespaces: Sequence[str]) -> Problem:
    message = f"there is no Service {one.service}"
    if namespaces:
        message += f", but one of this name in namespace {namespaces[0]}"
    else:
        message += did_you_mean(one.service.name, alike)
    return one.problem(("metadata", "labels", LABEL_SERVICE_NAME), message)


def _odd_ports(one: Slice, service: Service) -> Iterator[Problem]:
    if service.type is ServiceType.EXTERNAL_NAME:
        return
    protocols: dict[str, set[str]] = {}
    for port in service.ports:
        protocols.setdefault(port.name, set()).add(port.protocol)
    for written in one.ports:
        if written.name not in protocols:
            yield one.problem(("ports", written.index, "name"), _no_port(written.name, service.name, protocols))
        elif written.protocol not in protocols[written.name] and written.protocol in _PROTOCOLS:
            has = " and ".join(sorted(protocols[written.name]))
            message = f"port {written.name!r} of Service {service.name} is {has}, not {written.protocol}"
            yield one.problem(("ports", written.index, "protocol"), message)


def _no_port(name: str, service: ObjectName, protocols: Mapping[str, object]) -> str:
    if not protocols:
        return f"Service {service} has no ports"
    if not name:
        has = ", ".join([*protocols][:MAX_SHOWN])
        return f"is missing: the ports of Service {service} have names: {has}"
    if [*protocols] == [""]:
        return f"{name!r} is no port of Service {service}, whose only port has no name"
    return f"{name!r} is no port of Service {service}" + did_you_mean(name, protocols)
