"""Objects as the API server gives them, its defaults filled in. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from tests.apiserver.resources import Object

SERVICE_NAME = "kubernetes.io/service-name"


def service(
    name: str, cluster_ip: str, *, port: int = 80, target_port: int = 8080, namespace: str = "default", **spec: object
) -> Object:
    """A ClusterIP Service with one TCP port; `spec` replaces fields of its spec."""
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "ports": [{"protocol": "TCP", "port": port, "targetPort": target_port}],
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv6" if ":" in cluster_ip else "IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            **spec,
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    of: str, addresses: Sequence[str], *, name: str = "", port: int = 8080, namespace: str = "default"
) -> Object:
    """A slice of a Service's ready endpoints; `name`: "SERVICE-1" unless given."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": name or f"{of}-1",
            "namespace": namespace,
            "generation": 1,
            "labels": {SERVICE_NAME: of, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
        },
        "addressType": "IPv6" if any(":" in address for address in addresses) else "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "node-2",
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"{of}-pod-{number}"},
            }
            for number, address in enumerate(addresses)
        ],
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
    }


def node(name: str, *internal_ips: str, labels: Mapping[str, str] | None = None) -> Object:
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {},
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": address} for address in internal_ips),
                {"type": "Hostname", "address": name},
            ],
        },
    }


def service_cidr(name: str, *cidrs: str) -> Object:
    return {
        "kind": "ServiceCIDR",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "reason": "NetworkReady",
                    "message": "",
                }
            ]
        },
    }


def many(services: int, endpoints: int) -> Iterator[Object]:
    """So many Services from 10.96.0.1 on, each with a slice of so many endpoints from 10.128.0.0 on."""
    first, backend = IPv4Address("10.96.0.1"), IPv4Address("10.128.0.0")
    for number in range(services):
        name = f"service-{number}"
        yield service(name, str(first + number))
        start = backend + number * endpoints
        yield endpoint_slice(name, [str(start + place) for place in range(endpoints)])
