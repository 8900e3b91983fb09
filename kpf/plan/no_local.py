"""Ports of Services that have endpoints, but none on this node, where a traffic policy says Local.

As kube-proxy's `sync_proxy_rules_no_local_endpoints_total` (Kubernetes 1.36, pkg/proxy/nftables/proxier.go).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from kpf.model.names import EndpointSet, Family
from kpf.model.rules import Verdict
from kpf.model.service import TrafficPolicy
from kpf.plan.service_plan import ServicePlans

Policy = Literal["internal", "external"]


def no_local_endpoints(plans: ServicePlans) -> Mapping[tuple[Family, Policy], int]:
    """How many, by IP family and policy; those that are not there are 0."""
    found: Counter[tuple[Family, Policy]] = Counter()
    for plan in plans.values():
        service = plan.service
        if TrafficPolicy.LOCAL not in (service.internal_policy, service.external_policy):
            continue
        # a port's local frontends, proxied and direct, have the same endpoints
        ports = {
            (key.port, key.family)
            for key, frontend in plan.frontends.items()
            if key.endpoint_set is EndpointSet.LOCAL and frontend.when_empty is Verdict.DROP and not frontend.endpoints
        }
        for _, family in ports:
            if service.internal_policy is TrafficPolicy.LOCAL:
                found[family, "internal"] += 1
            if service.external_policy is TrafficPolicy.LOCAL:
                found[family, "external"] += 1
    return found
