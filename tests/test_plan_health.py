"""What a health check says: which endpoints count, and where it listens."""

from ipaddress import ip_address, ip_network

import pytest

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.health import HealthCheck
from kpf.model.names import Family, ObjectName, Protocol
from kpf.model.service import ServiceType, TrafficPolicy
from kpf.plan.health import health_check, health_check_addresses, local_endpoints
from tests.values import endpoints, service

HERE = "node-1"
STATES = {
    "ready": (True, True, False),
    "unready": (False, False, False),
    "leaving": (False, True, True),
    "gone": (False, False, True),
    # of a Service with publishNotReadyAddresses
    "published": (True, True, True),
}


def endpoint(address: str, state: str = "ready", node: str = HERE) -> Endpoint:
    ready, serving, terminating = STATES[state]
    return Endpoint(ip_address(address), ready, serving, terminating, node_name=node)


def two_ports(*addresses: str) -> EndpointSlice:
    return EndpointSlice(
        ObjectName("default", "two"),
        ObjectName("default", "web"),
        Family.IPV4,
        (EndpointPort("http", Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 53)),
        tuple(map(endpoint, addresses)),
    )


A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


@pytest.mark.parametrize(
    ("expected", "slices"),
    [
        (0, []),
        (0, [endpoints()]),
        (2, [endpoints(endpoint(A), endpoint(B))]),
        (1, [endpoints(endpoint(A), endpoint(B, node="node-2"), endpoint(C, node=""))]),
        *((0, [endpoints(endpoint(A, state))]) for state in STATES if state != "ready"),
        (1, [endpoints(*(endpoint(f"10.0.0.{n}", state) for n, state in enumerate(STATES)))]),
        # addresses, not ports
        (2, [two_ports(A, B)]),
        (2, [two_ports(A, B), endpoints(endpoint(A), name="b", port=9090, port_name="metrics")]),
        (3, [endpoints(endpoint(A), endpoint(B), name="a"), endpoints(endpoint(C), endpoint(A), name="b")]),
        # a port without a number is none
        (0, [endpoints(endpoint(A), port=None)]),
        # the last that is said of an endpoint counts, but for one that terminates
        (0, [endpoints(endpoint(A), name="a"), endpoints(endpoint(A, "unready"), name="b")]),
        (1, [endpoints(endpoint(A, "unready"), name="a"), endpoints(endpoint(A), name="b")]),
        (1, [endpoints(endpoint(A), name="a"), endpoints(endpoint(A, "leaving"), name="b")]),
        (1, [endpoints(endpoint(A, "leaving"), name="a"), endpoints(endpoint(A), name="b")]),
        (0, [endpoints(endpoint(A), name="a"), endpoints(endpoint(A, node="node-2"), name="b")]),
        # of two ports, one is ready: the address takes connections
        (
            1,
            [
                endpoints(endpoint(A), name="a", port_name="http"),
                endpoints(endpoint(A, "unready"), name="b", port_name="admin"),
            ],
        ),
        # they are not dialled
        (0, [endpoints(endpoint("127.0.0.1"), endpoint("169.254.169.254"), endpoint("0.0.0.0"))]),
        (1, [endpoints(endpoint("fe80::1"), endpoint("::1"), endpoint("fd00::1"))]),
        # a pod of both families is one
        (2, [endpoints(endpoint(A), endpoint(B)), endpoints(endpoint("fd00::1"), endpoint("fd00::2"), name="six")]),
        (2, [endpoints(endpoint(A)), endpoints(endpoint("fd00::1"), endpoint("fd00::2"), name="six")]),
        (1, [endpoints(endpoint(A, "leaving")), endpoints(endpoint("fd00::1"), name="six")]),
    ],
)
def test_local_endpoints(expected: int, slices: list[EndpointSlice]) -> None:
    assert local_endpoints(slices, HERE) == expected


@pytest.mark.parametrize(
    ("kind", "policy", "port", "expected"),
    [
        (ServiceType.LOAD_BALANCER, TrafficPolicy.LOCAL, 30500, HealthCheck(ObjectName("default", "web"), 1)),
        (ServiceType.LOAD_BALANCER, TrafficPolicy.LOCAL, 0, None),
        (ServiceType.LOAD_BALANCER, TrafficPolicy.CLUSTER, 30500, None),
        (ServiceType.NODE_PORT, TrafficPolicy.LOCAL, 30500, None),
        (ServiceType.CLUSTER_IP, TrafficPolicy.LOCAL, 30500, None),
    ],
)
def test_who_has_a_health_check(
    kind: ServiceType, policy: TrafficPolicy, port: int, expected: HealthCheck | None
) -> None:
    asked = service("web", type=kind, external_policy=policy, health_check_node_port=port)
    assert health_check(asked, [endpoints(endpoint(A))], HERE) == expected


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ("", "0.0.0.0 ::"),
        ("192.168.1.0/24", "192.168.1.10 192.168.1.11 ::"),
        ("192.168.1.10/32 fd00::/64", "192.168.1.10 fd00::10"),
        ("127.0.0.0/8 192.168.1.11/32", "127.0.0.1 192.168.1.11 ::"),
        ("0.0.0.0/0 ::/0", "0.0.0.0 ::"),
        ("192.168.1.11/32 0.0.0.0/0", "0.0.0.0 ::"),
        # none of them is here (yet)
        ("172.16.0.0/12", "::"),
        ("fe80::/10 ::/1", "0.0.0.0 ::1"),
    ],
)
def test_where_it_listens(networks: str, expected: str) -> None:
    local = map(ip_address, ["192.168.1.11", "fd00::10", "127.0.0.1", "::1", "192.168.1.10", "fe80::1"])
    found = health_check_addresses([ip_network(one) for one in networks.split()], local)
    assert " ".join(map(str, found)) == expected
