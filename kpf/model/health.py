"""What a load balancer is told that asks whether this node wants the traffic of a Service."""

from typing import NamedTuple

from kpf.model.names import ObjectName


class HealthCheck(NamedTuple):
    """`local_endpoints`: how many endpoints on this node take new connections, 0 if it should get none."""

    service: ObjectName
    local_endpoints: int
