"""Which Service has which health check node port."""

from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

from kpf.model.health import HealthCheck
from kpf.model.names import ObjectName, Protocol
from kpf.model.snapshot import Problem
from kpf.plan.intent import United


class AskedHealthCheck(NamedTuple):
    """What one Service asks for: `healthCheckNodePort`, and what is answered there."""

    port: int
    check: HealthCheck


def health_checks(
    asked: Mapping[ObjectName, AskedHealthCheck], united: United
) -> tuple[dict[int, HealthCheck], tuple[Problem, ...]]:
    """Each port for the oldest Service that asks for it, unless it is a node port; and complaints about the others."""
    served: dict[int, HealthCheck] = {}
    problems: list[Problem] = []
    node_ports = {portal.port: portal for portal in sorted(united.node_ports) if portal.protocol is Protocol.TCP}
    for claims in sorted((united.services[name] for name in asked), key=attrgetter("age")):
        port, check = asked[claims.name]
        reason = ""
        if port in node_ports:
            reason = f"{port} is also a node port of Service {united.claimants[node_ports[port]][0].service_name}"
        elif port in served:
            reason = f"{port} is already that of Service {served[port].service}"
        if reason:
            problems.append(claims.problem("spec.healthCheckNodePort", f"{reason}: the health check is not served"))
        else:
            served[port] = check
    return served, tuple(problems)
