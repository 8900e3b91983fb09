"""From raw objects to values: defaults, and every field; what is no object, and what is none of ours."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, ObjectName, Protocol
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Node
from kpf.sources.decode import Decoded, Kind, decode
from kpf.sources.fields import timestamp
from tests.decoding import NODE, SERVICE, SLICE, Object, changed, one, value_of


def service(**spec: Any) -> Service:
    decoded = one({**SERVICE, "spec": {**SERVICE["spec"], **spec}})
    assert not decoded.problems
    assert isinstance(decoded.value, Service)
    return decoded.value


def endpoint_slice(**fields: Any) -> EndpointSlice:
    decoded = one({**SLICE, **fields})
    assert not decoded.problems
    assert isinstance(decoded.value, EndpointSlice)
    return decoded.value


def test_a_service_gets_the_defaults_of_the_api() -> None:
    assert service() == Service(
        name=ObjectName("shop", "web"),
        type=ServiceType.CLUSTER_IP,
        ports=(ServicePort("", Protocol.TCP, 80),),
        cluster_ips=(ip_address("10.96.0.1"),),
        origin="f.yaml",
    )
    nulls = dict.fromkeys(
        ("type", "clusterIPs", "externalIPs", "sessionAffinity", "sessionAffinityConfig", "internalTrafficPolicy"
         , "externalTrafficPolicy", "loadBalancerSourceRanges", "healthCheckNodePort")
    )  # fmt: skip
    assert service(**nulls) == service()
    empty = {"type": "", "sessionAffinity": "", "externalTrafficPolicy": "", "clusterIPs": []}
    assert service(**empty, ports=[{"port": 80, "name": None, "protocol": "", "nodePort": 0}]) == service()


def test_every_field_of_a_service() -> None:
    raw = {
        **SERVICE,
        "metadata": {
            "name": "web",
            "creationTimestamp": "2025-01-31T12:00:00+02:00",
            "labels": {"service.kubernetes.io/service-proxy-name": ""},
            "annotations": {"any": "1", "kpf.io/b": "x", "kpf.io/a": ""},
        },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053, "targetPort": "dns"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
            ],
            "externalIPs": ["203.0.113.1", "2001:db8::1"],
            "loadBalancerSourceRanges": [" 10.0.0.1/8 ", "::/0"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000,
            "somethingNew": {"of": "1.40"},
        },
        "status": {
            "loadBalancer": {
                "ingress": [
                    {"ip": "198.51.100.1"},
                    {"ip": "198.51.100.2", "ipMode": "Proxy"},
                    {"hostname": "x.example"},
                ]
            }
        },
    }
    assert one(raw).value == Service(
        name=ObjectName("default", "web"),
        type=ServiceType.LOAD_BALANCER,
        ports=(ServicePort("dns", Protocol.UDP, 53, 30053), ServicePort("dns-tcp", Protocol.TCP, 53, 30053)),
        cluster_ips=(ip_address("10.96.0.1"), ip_address("fd00::1")),
        external_ips=(ip_address("203.0.113.1"), ip_address("2001:db8::1")),
        load_balancer_ips=(ip_address("198.51.100.1"),),
        load_balancer_source_ranges=(ip_network("10.0.0.0/8"), ip_network("::/0")),
        affinity_timeout_s=60,
        internal_policy=TrafficPolicy.LOCAL,
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=31000,
        foreign_proxy=True,
        annotations=(("kpf.io/a", ""), ("kpf.io/b", "x")),
        created="2025-01-31T10:00:00Z",
        origin="f.yaml",
    )


@pytest.mark.parametrize(
    ("spec", "cluster_ips"),
    [
        ({"clusterIP": "None", "clusterIPs": ["None"], "ports": []}, 0),
        ({"clusterIP": "None"}, 0),
        ({"type": "ExternalName", "clusterIP": "", "ports": None, "externalName": "x.example"}, 0),
        ({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"]}, 2),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, 1),
        ({"externalIPs": ["203.0.113.1"], "externalTrafficPolicy": "Local"}, 1),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 1),
    ],
)
def test_services_that_are_right(spec: Object, cluster_ips: int) -> None:
    assert len(service(**spec).cluster_ips) == cluster_ips


def test_affinity_without_a_timeout_lasts_three_hours() -> None:
    assert service(sessionAffinity="ClientIP").affinity_timeout_s == 10800
    assert service(sessionAffinity="None").affinity_timeout_s is None


@pytest.mark.parametrize(
    ("raw", "field", "shown"),
    [
        ("text", "", "'text'"),
        ([], "", "a list"),
        ({}, "kind", "is required"),
        ({"kind": "Service"}, "apiVersion", "is required"),
        ({"kind": 5, "apiVersion": "v1"}, "kind", "5"),
        ({"kind": "Service", "apiVersion": "v2"}, "apiVersion", "'v2'"),
        ({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1beta1"}, "apiVersion", "v1beta1"),
        ({"kind": "List", "apiVersion": "v1", "items": "x"}, "items", "'x'"),
        ({"kind": "Service", "apiVersion": "v1"}, "metadata", "is required"),
    ],
)
def test_documents_that_are_no_objects(raw: Any, field: str, shown: str) -> None:
    problem = one(raw).problems[0]
    assert problem.field == field
    assert shown in problem.message


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "ConfigMap", "apiVersion": "v1"},
        {"kind": "Service", "apiVersion": "serving.knative.dev/v1"},
        {"kind": "Deployment", "apiVersion": "apps/v1", "spec": 5},
        {"kind": "List", "apiVersion": "v1", "items": None},
    ],
)
def test_other_kinds_are_no_business_of_ours(raw: Object) -> None:
    assert not list(decode(raw, ""))


def test_lists_and_lists_of_lists() -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [SLICE, 5]}
    outer = {"apiVersion": "v1", "kind": "List", "items": [SERVICE, inner, NODE]}
    assert [(one.kind, bool(one.problems)) for one in decode(outer, "")] == [
        (Kind.SERVICE, False),
        (Kind.ENDPOINT_SLICE, False),
        (None, True),
        (Kind.NODE, False),
    ]


def test_a_slice_gets_the_defaults_of_the_api() -> None:
    expected = EndpointSlice(
        name=ObjectName("shop", "web-1"),
        service=ObjectName("shop", "web"),
        family=Family.IPV4,
        ports=(EndpointPort("", Protocol.TCP, 8080),),
        endpoints=(Endpoint(ip_address("10.244.0.1")),),
        origin="f.yaml",
    )
    assert endpoint_slice() == expected
    nothing = {"ready": None, "serving": None, "terminating": None}
    endpoints = [{"addresses": ["10.244.0.1"], "conditions": nothing, "nodeName": None, "hints": None}]
    assert endpoint_slice(endpoints=endpoints, ports=[{"port": 8080, "name": None, "protocol": None}]) == expected
    assert endpoint_slice(endpoints=[{"addresses": ["10.244.0.1"], "conditions": None}]) == expected


def test_every_field_of_an_endpoint() -> None:
    endpoint = {
        "addresses": ["fd00::1", "fd00::2"],
        "conditions": {"ready": False, "serving": False, "terminating": True},
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "7"},
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "node-2"}]},
    }
    found = endpoint_slice(addressType="IPv6", endpoints=[endpoint], ports=[{"name": "x", "protocol": "SCTP"}])
    expected = Endpoint(ip_address("fd00::1"), False, False, True, "node-1", ("a", "b"), ("node-2",), pod="shop/web-1")
    assert found.endpoints == (expected,)
    assert found.ports == (EndpointPort("x", Protocol.SCTP, None),)
    assert found.family is Family.IPV6


@pytest.mark.parametrize("target", [None, {}, {"kind": "Node", "name": "node-1"}, {"kind": "Pod", "name": None}])
def test_an_endpoint_need_not_be_of_a_pod(target: object) -> None:
    found = endpoint_slice(endpoints=[{"addresses": ["10.244.0.1"], "targetRef": target}])
    assert [one.pod for one in found.endpoints] == [""]


def test_null_lists_are_empty() -> None:
    found = endpoint_slice(endpoints=None, ports=None)
    assert (found.endpoints, found.ports) == ((), ())


def test_what_a_server_fills_in_need_not_be_there() -> None:
    hinted = {"addresses": ["10.244.0.1"], "hints": {"forZones": [{}, {"name": "a"}]}}
    found = endpoint_slice(endpoints=[hinted], ports=[None])
    assert found.ports == (EndpointPort("", Protocol.TCP, None),)
    assert found.endpoints[0].for_zones == ("", "a")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.labels", None),
        ("metadata.labels", {"kubernetes.io/service-name": ""}),
        ("metadata.labels", {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}),
        ("addressType", "FQDN"),
    ],
)
def test_slices_that_do_not_count(path: str, value: Any) -> None:
    decoded = one(changed(SLICE, path, value))
    assert decoded == Decoded(Kind.ENDPOINT_SLICE, ObjectName("shop", "web-1"))


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1"])
def test_an_endpoint_that_may_not_be_dialled_is_left_to_the_plan(address: str) -> None:
    """It concerns that endpoint, not its slice."""
    assert len(endpoint_slice(endpoints=[{"addresses": [address]}, {"addresses": ["10.0.0.1"]}]).endpoints) == 2


def test_a_node() -> None:
    raw = {
        **NODE,
        "metadata": {
            "name": "node-1",
            "namespace": None,
            "labels": {"topology.kubernetes.io/zone": "a", "empty": None},
        },
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"], "taints": [{"key": "x"}]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "node-1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
            ]
        },
    }
    expected = Node(
        name="node-1",
        labels={"topology.kubernetes.io/zone": "a", "empty": ""},
        internal_ips=(ip_address("192.0.2.1"),),
        pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00::/64")),
    )
    decoded = one(raw)
    assert (decoded.name, decoded.value) == (ObjectName("", "node-1"), expected)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.deletionTimestamp", "2025-01-01T00:00:00Z"),
        ("spec", {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}),
    ],
)
def test_a_node_that_is_being_deleted(path: str, value: Any) -> None:
    node = one(changed(NODE, path, value)).value
    assert isinstance(node, Node)
    assert node.being_deleted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("2025-01-31T12:00:00Z", "2025-01-31T12:00:00Z"),
        ("2025-01-31T12:00:00.5-01:00", "2025-01-31T13:00:00Z"),
        ("2025-01-31", None),
        ("2025-01-31T12:00:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("2025-01-31T12:00:00+99:00", None),
        ("2025-01-31T12:00:00Z\n", None),
    ],
)
def test_times_sort_as_text(text: str, expected: str | None) -> None:
    assert timestamp(text) == expected


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("2026-11-29T12:00:00Z", 1795953600.0),
        ("2026-11-29T13:00:00.25+01:00", 1795953600.25),
        ("2026-11-29T12:00:00.123456789Z", 1795953600.123456),
        (None, 0.0),
        ("", 0.0),
        ("yesterday", 0.0),
        ("2026-11-29T12:00:00", 0.0),
        ("2026-13-29T12:00:00Z", 0.0),
    ],
)
def test_when_what_a_slice_tells_has_happened(text: str | None, moment_s: float) -> None:
    annotation = "endpoints.kubernetes.io/last-change-trigger-time"
    assert value_of(changed(SLICE, "metadata.annotations", {annotation: text})).triggered_at_s == moment_s
    assert value_of(SLICE).triggered_at_s == 0.0
