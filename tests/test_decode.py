"""From raw objects to values: defaults, rules, field paths; and no object whatever makes it raise."""

from copy import deepcopy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, ObjectName, Protocol
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.model.snapshot import Node
from kpf.sources.decode import MAX_PROBLEMS, Decoded, Kind, decode
from kpf.sources.objects import timestamp

Object = dict[str, Any]

SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
SLICE: Object = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"port": 8080}],
    "endpoints": [{"addresses": ["10.244.0.1"]}],
}
NODE: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}


def changed(raw: Object, path: str, value: Any) -> Object:
    """A copy with the field at "spec.ports.0.port" set."""
    copy = deepcopy(raw)
    *outer, last = path.split(".")
    inner: Any = copy
    for part in outer:
        inner = inner[int(part)] if part.isdigit() else inner.setdefault(part, {})
    inner[int(last) if last.isdigit() else last] = value
    return copy


def one(raw: Any) -> Decoded:
    (decoded,) = decode(raw, "f.yaml")
    return decoded


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


def fields_of(raw: Any) -> dict[str, str]:
    decoded = one(raw)
    assert decoded.value is None
    assert decoded.problems
    assert all(problem.origin == "f.yaml" for problem in decoded.problems)
    return {problem.field: problem.message for problem in decoded.problems}


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


BAD_SERVICES: list[tuple[str, Any, str]] = [
    ("metadata.name", "Web", "metadata.name"),
    ("metadata.name", "w" * 64, "metadata.name"),
    ("metadata.name", None, "metadata.name"),
    ("metadata.name", "a\nb", "metadata.name"),
    ("metadata.namespace", "a/b", "metadata.namespace"),
    ("metadata.labels", ["a"], "metadata.labels"),
    ("metadata.labels", {"a/b": 1}, "metadata.labels[a/b]"),
    ("metadata.creationTimestamp", "yesterday", "metadata.creationTimestamp"),
    ("metadata.creationTimestamp", "2025-02-30T00:00:00Z", "metadata.creationTimestamp"),
    ("spec", None, "spec"),
    ("spec", [], "spec"),
    ("spec.type", "ClusterIp", "spec.type"),
    ("spec.clusterIP", None, "spec.clusterIP"),
    ("spec.clusterIP", "", "spec.clusterIP"),
    ("spec.clusterIP", "10.96.0.300", "spec.clusterIP"),
    ("spec.clusterIP", "010.96.0.1", "spec.clusterIP"),
    ("spec.clusterIP", "fe80::1%eth0", "spec.clusterIP"),
    ("spec.clusterIP", 10, "spec.clusterIP"),
    ("spec.clusterIPs", ["10.96.0.2"], "spec.clusterIPs[0]"),
    ("spec.clusterIPs", ["10.96.0.1", "10.96.0.2"], "spec.clusterIPs"),
    ("spec.clusterIPs", ["10.96.0.1", "x"], "spec.clusterIPs[1]"),
    ("spec.ports", [], "spec.ports"),
    ("spec.ports", {"port": 80}, "spec.ports"),
    ("spec.ports", [80], "spec.ports[0]"),
    ("spec.ports.0.port", 70000, "spec.ports[0].port"),
    ("spec.ports.0.port", 0, "spec.ports[0].port"),
    ("spec.ports.0.port", "80", "spec.ports[0].port"),
    ("spec.ports.0.port", True, "spec.ports[0].port"),
    ("spec.ports.0.port", 80.5, "spec.ports[0].port"),
    ("spec.ports.0.port", None, "spec.ports[0].port"),
    ("spec.ports.0.protocol", "tcp", "spec.ports[0].protocol"),
    ("spec.ports.0.name", "Web", "spec.ports[0].name"),
    ("spec.ports.0.nodePort", 30080, "spec.ports[0].nodePort"),
    ("spec.ports.0.nodePort", 65536, "spec.ports[0].nodePort"),
    ("spec.ports", [{"port": 80}, {"port": 81, "name": "b"}], "spec.ports[0].name"),
    ("spec.ports", [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}], "spec.ports[1].name"),
    ("spec.ports", [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}], "spec.ports[1].port"),
    ("spec.externalIPs", ["203.0.113.1", "::ffff:1.2.3.4"], "spec.externalIPs[1]"),
    ("spec.externalIPs", [{}], "spec.externalIPs[0]"),
    ("spec.externalTrafficPolicy", "Local", "spec.externalTrafficPolicy"),
    ("spec.externalTrafficPolicy", "Nearby", "spec.externalTrafficPolicy"),
    ("spec.internalTrafficPolicy", "local", "spec.internalTrafficPolicy"),
    ("spec.loadBalancerSourceRanges", ["10.0.0.0/8"], "spec.loadBalancerSourceRanges"),
    ("spec.loadBalancerSourceRanges", ["10.0.0.0"], "spec.loadBalancerSourceRanges[0]"),
    ("spec.loadBalancerSourceRanges", ["10.0.0.0/255.0.0.0"], "spec.loadBalancerSourceRanges[0]"),
    ("spec.loadBalancerSourceRanges", ["10.0.0.0/33"], "spec.loadBalancerSourceRanges[0]"),
    ("spec.healthCheckNodePort", 31000, "spec.healthCheckNodePort"),
    ("spec.sessionAffinity", "clientIP", "spec.sessionAffinity"),
    ("spec.sessionAffinityConfig", {"clientIP": {}}, "spec.sessionAffinityConfig"),
    *(
        (
            "spec.sessionAffinityConfig",
            {"clientIP": {"timeoutSeconds": bad}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        )
        for bad in (0, 86401, -1, "60")
    ),
    ("status", {"loadBalancer": {"ingress": [{"ip": "1.2.3"}]}}, "status.loadBalancer.ingress[0].ip"),
    ("status", {"loadBalancer": {"ingress": [{"ipMode": "vip"}]}}, "status.loadBalancer.ingress[0].ipMode"),
]
BAD_SLICES = [
    ("metadata.name", "", "metadata.name"),
    ("addressType", "IPv5", "addressType"),
    ("addressType", None, "addressType"),
    ("addressType", "IPv6", "endpoints[0].addresses[0]"),
    ("ports", {}, "ports"),
    ("ports.0.port", -1, "ports[0].port"),
    ("ports.0.port", 65536, "ports[0].port"),
    ("ports.0.port", "http", "ports[0].port"),
    ("ports.0.protocol", "HTTP", "ports[0].protocol"),
    ("ports", [{"port": 80}, {"port": 81}], "ports[1].name"),
    ("endpoints", "10.0.0.1", "endpoints"),
    ("endpoints", [{"addresses": ["10.0.0.1"]}] * 1001, "endpoints"),
    ("endpoints.0", None, "endpoints[0]"),
    ("endpoints.0.addresses", [], "endpoints[0].addresses"),
    ("endpoints.0.addresses", None, "endpoints[0].addresses"),
    ("endpoints.0.addresses", ["10.0.0.256"], "endpoints[0].addresses[0]"),
    ("endpoints.0.addresses", ["10.0.0.1", "::1"], "endpoints[0].addresses[1]"),
    ("endpoints.0.addresses", [1], "endpoints[0].addresses[0]"),
    ("endpoints.0.conditions", {"ready": "yes"}, "endpoints[0].conditions.ready"),
    ("endpoints.0.nodeName", 1, "endpoints[0].nodeName"),
    ("endpoints.0.hints", {"forZones": ["a"]}, "endpoints[0].hints.forZones[0]"),
]
BAD_NODES = [
    ("spec.podCIDRs", ["10.0.0.0"], "spec.podCIDRs[0]"),
    ("status", {"addresses": [{"type": "InternalIP", "address": "node-1"}]}, "status.addresses[0].address"),
]


@pytest.mark.parametrize(
    ("raw", "path", "value", "field"),
    [
        *((SERVICE, *case) for case in BAD_SERVICES),
        *((SLICE, *case) for case in BAD_SLICES),
        *((NODE, *case) for case in BAD_NODES),
    ],
)
def test_what_the_api_server_would_refuse(raw: Object, path: str, value: Any, field: str) -> None:
    assert not one(raw).problems
    bad = changed(raw, path, value)
    assert list(fields_of(bad)) == [field]
    if not path.startswith("metadata.name"):
        assert one(bad).name == one(raw).name
        assert one(bad).problems[0].object == f"{raw['kind']} {one(raw).name}"


def test_all_problems_of_an_object_come_at_once_and_name_the_values() -> None:
    raw = changed(changed(changed(SERVICE, "spec.ports.0.port", 70000), "spec.type", "Nodeport"), "spec.clusterIP", 5)
    assert fields_of(raw) == {
        "spec.type": "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer' or 'ExternalName', not 'Nodeport'",
        "spec.clusterIP": "must be text, not 5",
        "spec.ports[0].port": "must be at most 65535, not 70000",
    }
    assert str(one(changed(SERVICE, "spec.ports.0.port", 70000)).problems[0]) == (
        "f.yaml: Service shop/web: spec.ports[0].port: must be at most 65535, not 70000"
    )


def test_the_problems_of_one_object_are_bounded() -> None:
    problems = one(changed(SLICE, "endpoints", [{}] * 500)).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].message == f"has {500 - MAX_PROBLEMS} more problems"


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
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "node-2"}]},
    }
    found = endpoint_slice(addressType="IPv6", endpoints=[endpoint], ports=[{"name": "x", "protocol": "SCTP"}])
    assert found.endpoints == (Endpoint(ip_address("fd00::1"), False, False, True, "node-1", ("a", "b"), ("node-2",)),)
    assert found.ports == (EndpointPort("x", Protocol.SCTP, None),)
    assert found.family is Family.IPV6


def test_null_lists_are_empty() -> None:
    found = endpoint_slice(endpoints=None, ports=None)
    assert (found.endpoints, found.ports) == ((), ())


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


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.builds(lambda: 1 << 20_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PATHS = sorted(
    {(kind, path) for kind, cases in (("s", BAD_SERVICES), ("e", BAD_SLICES), ("n", BAD_NODES)) for path, _, _ in cases}
    | {("s", "kind"), ("s", "apiVersion"), ("s", "metadata"), ("e", "metadata"), ("e", "endpoints.0.conditions.ready")}
)


@given(ANYTHING)
def test_no_document_makes_it_raise(raw: Any) -> None:
    for decoded in decode(raw, "f.yaml"):
        assert decoded.problems


@settings(max_examples=300)
@given(st.sampled_from(PATHS), ANYTHING)
def test_no_value_in_any_field_makes_it_raise(place: tuple[str, str], value: Any) -> None:
    kind, path = place
    raw = changed({"s": SERVICE, "e": SLICE, "n": NODE}[kind], path, value)
    for decoded in decode(raw, "f.yaml"):
        assert decoded.value is None or not decoded.problems
        for problem in decoded.problems:
            assert len(str(problem)) < 500
            assert str(problem).isprintable()
