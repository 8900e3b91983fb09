"""Services that the kernel forwards to, among others, as objects of an API server. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from tests.apiserver import objects
from tests.apiserver.resources import Object

FIRST_LOAD_BALANCER = IPv4Address("198.18.0.0")
FIRST_NODE_PORT = 30000
TIMEOUT_S = 600


def mixed(services: int, endpoints: int, direct: int, node: str) -> Iterator[Object]:
    """`objects.many`, of which `direct`, evenly spread, are forwarded by the kernel; their first endpoint is on `node`.

    Eight in ten are UDP, one is annotated, and one is a load balancer's with external policy Local, whose connections
    from off the node are direct. One in twenty, of all kinds, has ClientIP affinity.
    """
    pairs = iter(objects.many(services, endpoints))
    made = 0
    for number, (service, endpoint_slice) in enumerate(zip(pairs, pairs, strict=True)):
        if (number + 1) * direct // services > made:
            service, endpoint_slice = _forwarded(service, made), on_node(endpoint_slice, node)
            if made % 10 > 1:
                endpoint_slice = {**endpoint_slice, "ports": [{"name": "", "protocol": "UDP", "port": 5353}]}
            made += 1
        yield service
        yield endpoint_slice


def forwarded(objects: Sequence[Object]) -> list[tuple[Object, Object]]:
    """Of what `mixed` makes: Services that the kernel forwards to, wherever one asks from, and their slices."""
    pairs = zip(objects[::2], objects[1::2], strict=True)
    return [pair for pair in pairs if _is_udp(pair[0]) or "annotations" in pair[0]["metadata"]]


def _is_udp(service: Object) -> bool:
    return bool(service["spec"]["ports"][0]["protocol"] == "UDP")


def _forwarded(service: Object, number: int) -> Object:
    spec = dict(service["spec"])
    # each block of twenty has one, at another place than the one before
    if number % 20 == number // 20 % 20:
        affinity = {"clientIP": {"timeoutSeconds": TIMEOUT_S}}
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": affinity}
    if number % 10 == 0:
        metadata = {**service["metadata"], "annotations": {"kpf.io/forwarding": "direct"}}
        return {**service, "metadata": metadata, "spec": spec}
    if number % 10 == 1:
        return _local(service, spec, number // 10)
    return {**service, "spec": {**spec, "ports": [{"protocol": "UDP", "port": 53, "targetPort": 5353}]}}


def _local(service: Object, spec: Mapping[str, object], number: int) -> Object:
    node_port = FIRST_NODE_PORT + 2 * number
    ports = [{"protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": node_port}]
    policy = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": node_port + 1}
    status = {"loadBalancer": {"ingress": [{"ip": str(FIRST_LOAD_BALANCER + number), "ipMode": "VIP"}]}}
    return {**service, "spec": {**spec, **policy, "ports": ports}, "status": status}


def on_node(endpoint_slice: Object, node: str) -> Object:
    first, *others = endpoint_slice["endpoints"]
    return {**endpoint_slice, "endpoints": [{**first, "nodeName": node}, *others]}
