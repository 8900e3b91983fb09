"""What mistakes in an object cost: the object, a part of it, or nothing; and no object whatever makes it raise."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort
from kpf.model.names import Family, Protocol
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.sources.decode import MAX_PROBLEMS, Kind, decode, decode_as
from tests.decoding import NODE, SERVICE, SERVICE_CIDR, SLICE, Object, changed, from_server, one, value_of

# of nothing of these can be made anything: a wrong type, a field that is missing, a name, no cluster IP that is one
MALFORMED: list[tuple[Object, str, Any, str]] = [
    (SERVICE, "metadata.name", "Web", "metadata.name"),
    (SERVICE, "metadata.name", "w" * 64, "metadata.name"),
    (SERVICE, "metadata.name", None, "metadata.name"),
    (SERVICE, "metadata.name", "a\nb", "metadata.name"),
    (SERVICE, "metadata.namespace", "a/b", "metadata.namespace"),
    (SERVICE, "metadata.labels", ["a"], "metadata.labels"),
    (SERVICE, "spec", None, "spec"),
    (SERVICE, "spec", [], "spec"),
    (SERVICE, "spec.type", 1, "spec.type"),
    (SERVICE, "spec.clusterIP", "10.96.0.300", "spec.clusterIP"),
    (SERVICE, "spec.clusterIP", "fe80::1%eth0", "spec.clusterIP"),
    (SERVICE, "spec.clusterIP", 10, "spec.clusterIP"),
    (SERVICE, "spec.ports", {"port": 80}, "spec.ports"),
    (SERVICE, "spec.ports", [80], "spec.ports[0]"),
    (SERVICE, "spec.ports", [{}], "spec.ports[0].port"),
    (SERVICE, "spec.ports.0.port", "80", "spec.ports[0].port"),
    (SERVICE, "spec.ports.0.port", True, "spec.ports[0].port"),
    (SERVICE, "spec.ports.0.port", 80.5, "spec.ports[0].port"),
    (SERVICE, "spec.ports.0.port", None, "spec.ports[0].port"),
    (SERVICE, "spec.ports.0.nodePort", "30080", "spec.ports[0].nodePort"),
    (SERVICE, "spec.loadBalancerSourceRanges", "10.0.0.0/8", "spec.loadBalancerSourceRanges"),
    (SERVICE, "spec.loadBalancerSourceRanges", [8], "spec.loadBalancerSourceRanges[0]"),
    (
        SERVICE,
        "spec.sessionAffinityConfig",
        {"clientIP": {"timeoutSeconds": "60"}},
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
    ),
    (SERVICE, "status", {"loadBalancer": []}, "status.loadBalancer"),
    (SLICE, "metadata.name", "", "metadata.name"),
    (SLICE, "addressType", None, "addressType"),
    (SLICE, "ports", {}, "ports"),
    (SLICE, "ports.0.port", "http", "ports[0].port"),
    (SLICE, "endpoints", "10.0.0.1", "endpoints"),
    (NODE, "metadata.labels", "a", "metadata.labels"),
    (NODE, "spec", "a", "spec"),
    (SERVICE_CIDR, "spec", {"cidrs": "10.96.0.0/16"}, "spec.cidrs"),
]


@pytest.mark.parametrize(("raw", "path", "value", "field"), MALFORMED)
def test_what_is_malformed(raw: Object, path: str, value: Any, field: str) -> None:
    bad = changed(raw, path, value)
    for decoded in (one(bad), from_server(bad)):
        assert decoded.malformed
        assert decoded.value is None
        assert [problem.field for problem in decoded.problems] == [field]
        if not path.startswith("metadata.name"):
            assert decoded.name == one(raw).name
            assert decoded.problems[0].object == f"{raw['kind']} {one(raw).name}"


def spared(
    raw: Object, path: str, value: Any, field: str, **expected: Any
) -> tuple[Object, str, Any, str, dict[str, Any]]:
    return raw, path, value, field, expected


PORT = {"port": 81, "name": "b"}
B = ServicePort("b", Protocol.TCP, 81)
AFFINITY = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}
LOAD_BALANCER = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "type": "LoadBalancer"}
TIMEOUT = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
HOST = ip_address("203.0.113.1")
OTHER = {"addresses": ["10.244.0.2"]}
FAR = Endpoint(ip_address("10.244.0.2"))
PAST = ip_network("10.244.1.0/24")
# each costs no more than what it concerns: `expected` is all that is otherwise than in the object without it
SPARED = [
    spared(SERVICE, "metadata.labels", {"a/b": 1}, "metadata.labels[a/b]"),
    spared(
        SERVICE,
        "metadata.annotations",
        {"a/b": 1, "kpf.io/a": "b"},
        "metadata.annotations[a/b]",
        annotations=(("kpf.io/a", "b"),),
    ),
    spared(SERVICE, "metadata.creationTimestamp", "yesterday", "metadata.creationTimestamp"),
    spared(SERVICE, "metadata.creationTimestamp", "2025-02-30T00:00:00Z", "metadata.creationTimestamp"),
    spared(SERVICE, "metadata.creationTimestamp", 1700000000, "metadata.creationTimestamp"),
    spared(SERVICE, "spec.type", "ClusterIp", "spec.type"),
    spared(SERVICE, "spec.type", "Headless", "spec.type"),
    spared(SERVICE, "spec.clusterIPs", ["10.96.0.1", "x"], "spec.clusterIPs[1]"),
    spared(
        SERVICE,
        "spec",
        {"clusterIP": "10.96.0.300", "clusterIPs": ["10.96.0.300", "fd00::1"], "ports": [{"port": 80}]},
        "spec.clusterIPs[0]",
        cluster_ips=(ip_address("fd00::1"),),
    ),
    spared(SERVICE, "spec.clusterIPs", ["10.96.0.1", "10.96.0.2"], "spec.clusterIPs"),
    spared(SERVICE, "spec.ports", [{"port": 70000}, PORT], "spec.ports[0].port", ports=(B,)),
    spared(SERVICE, "spec.ports", [{"port": 0, "name": "a"}, PORT], "spec.ports[0].port", ports=(B,)),
    spared(
        SERVICE,
        "spec.ports",
        [{"port": 80, "name": "a", "protocol": "QUIC"}, PORT],
        "spec.ports[0].protocol",
        ports=(B,),
    ),
    spared(SERVICE, "spec.ports", [{"port": 80, "name": "Web"}, PORT], "spec.ports[0].name", ports=(B,)),
    spared(SERVICE, "spec.ports.0.protocol", "QUIC", "spec.ports[0].protocol", ports=()),
    spared(SERVICE, "spec.ports.0.nodePort", 65536, "spec.ports[0].nodePort"),
    spared(SERVICE, "spec.ports.0.nodePort", -1, "spec.ports[0].nodePort"),
    spared(SERVICE, "spec.ports", [PORT, {"port": 81, "name": "c"}], "spec.ports[1].port", ports=(B,)),
    spared(
        SERVICE,
        "spec",
        {**LOAD_BALANCER, "ports": [{**PORT, "nodePort": 30001}, {"port": 82, "name": "c", "nodePort": 30001}]},
        "spec.ports[1].nodePort",
        type=ServiceType.LOAD_BALANCER,
        ports=(ServicePort("b", Protocol.TCP, 81, 30001), ServicePort("c", Protocol.TCP, 82)),
    ),
    spared(SERVICE, "spec.externalIPs", ["203.0.113.1", "x"], "spec.externalIPs[1]", external_ips=(HOST,)),
    spared(SERVICE, "spec.externalIPs", ["", "203.0.113.1"], "spec.externalIPs[0]", external_ips=(HOST,)),
    spared(SERVICE, "spec.externalIPs", [{}, "203.0.113.1"], "spec.externalIPs[0]", external_ips=(HOST,)),
    spared(SERVICE, "spec.internalTrafficPolicy", "PreferLocal", "spec.internalTrafficPolicy"),
    spared(SERVICE, "spec.externalTrafficPolicy", "Nearby", "spec.externalTrafficPolicy"),
    spared(SERVICE, "spec.healthCheckNodePort", 65536, "spec.healthCheckNodePort"),
    spared(SERVICE, "spec.sessionAffinity", "Cookie", "spec.sessionAffinity"),
    *(
        spared(
            SERVICE,
            "spec",
            {**AFFINITY, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": bad}}},
            TIMEOUT,
            affinity_timeout_s=10800,
        )
        for bad in (0, -1, 2**31)
    ),
    *(
        spared(
            SERVICE,
            "status",
            {"loadBalancer": {"ingress": [bad, {"ip": "203.0.113.1"}]}},
            f"status.loadBalancer.ingress[0]{field}",
            load_balancer_ips=(HOST,),
        )
        for bad, field in (({"ip": "1.2.3"}, ".ip"), ({"ip": "203.0.113.9", "ipMode": "Anycast"}, ".ipMode"), ("x", ""))
    ),
    spared(SLICE, "ports", [{"port": -1, "name": "a"}, {"port": 8080}], "ports[0].port"),
    spared(SLICE, "ports", [{"port": 65536, "name": "a"}, {"port": 8080}], "ports[0].port"),
    spared(SLICE, "ports", [{"protocol": "QUIC", "name": "a"}, {"port": 8080}], "ports[0].protocol"),
    spared(SLICE, "ports", [{"port": 1, "name": "A"}, {"port": 8080}], "ports[0].name"),
    *(
        spared(SLICE, "endpoints", [bad, OTHER], f"endpoints[0]{field}", endpoints=(FAR,))
        for bad, field in (
            (None, ""),
            ({}, ".addresses"),
            ({"addresses": []}, ".addresses"),
            ({"addresses": None}, ".addresses"),
            ({"addresses": ["10.0.0.256"]}, ".addresses[0]"),
            ({"addresses": ["fd00::1"]}, ".addresses[0]"),
            ({"addresses": ["pod-1"]}, ".addresses[0]"),
            ({"addresses": [1]}, ".addresses[0]"),
            ({"addresses": ["10.244.0.1"], "conditions": {"ready": "yes"}}, ".conditions.ready"),
            ({"addresses": ["10.244.0.1"], "nodeName": 1}, ".nodeName"),
        )
    ),
    spared(SLICE, "endpoints.0.hints", {"forZones": ["a"]}, "endpoints[0].hints.forZones[0]"),
    spared(SLICE, "endpoints.0.hints", "a", "endpoints[0].hints"),
    spared(SLICE, "endpoints.0.targetRef", {"kind": 1}, "endpoints[0].targetRef.kind"),
    spared(SLICE, "endpoints.0.hints", {"forNodes": [{}]}, "endpoints[0].hints.forNodes[0].name"),
    spared(SLICE, "addressType", "IPv6", "endpoints[0].addresses[0]", family=Family.IPV6, endpoints=()),
    spared(SLICE, "endpoints", [OTHER] * 1001, "endpoints", endpoints=(FAR,) * 1000),
    spared(NODE, "spec", {"podCIDRs": ["10.0.0.0", "10.244.1.0/24"]}, "spec.podCIDRs[0]", pod_cidrs=(PAST,)),
    spared(NODE, "spec", {"podCIDR": "10.0.0.0/33"}, "spec.podCIDR"),
    spared(
        NODE, "spec", {"taints": [1, {"key": "ToBeDeletedByClusterAutoscaler"}]}, "spec.taints[0]", being_deleted=True
    ),
    spared(
        NODE,
        "status",
        {"addresses": [{"type": "InternalIP", "address": one} for one in ("node-1", "203.0.113.1")]},
        "status.addresses[0].address",
        internal_ips=(HOST,),
    ),
    spared(NODE, "metadata.labels", {"a": "b", "c/d": True}, "metadata.labels[c/d]", labels={"a": "b", "c/d": ""}),
    spared(SERVICE_CIDR, "spec", {"cidrs": ["10/8", "10.244.1.0/24"]}, "spec.cidrs[0]", cidrs=(PAST,)),
]


@pytest.mark.parametrize(("raw", "path", "value", "field", "expected"), SPARED)
def test_what_is_left_out_and_no_more(raw: Object, path: str, value: Any, field: str, expected: dict[str, Any]) -> None:
    bad = changed(raw, path, value)
    for decoded in (one(bad), from_server(bad)):
        assert not decoded.malformed
        # a file's name is not the server's
        origin = {"origin": decoded.problems[0].origin} if hasattr(decoded.value, "origin") else {}
        assert decoded.value == replace(value_of(raw), **expected, **origin)
        assert [problem.field for problem in decoded.problems] == [field]
        # of what the server has taken, nobody is to blame
        assert decoded.problems[0].is_limit == (decoded.problems[0].origin == "")


def test_a_slice_of_an_unknown_kind_of_addresses_counts_no_more() -> None:
    decoded = from_server(changed(SLICE, "addressType", "IPv5"))
    assert (decoded.value, decoded.malformed) == (None, False)
    assert [str(problem) for problem in decoded.problems] == [
        "EndpointSlice shop/web-1: addressType: must be one of 'IPv4', 'IPv6' or 'FQDN', not 'IPv5'"
    ]


NODE_PORTS = [{"port": 80, "nodePort": 30080}]
NAMELESS = (ServicePort("", Protocol.TCP, 80), B)
# the API server takes none of these today, and may have taken them: kpf serves them as they are
RULES = [
    spared(SERVICE, "spec.clusterIP", None, "spec.clusterIP", cluster_ips=()),
    spared(SERVICE, "spec.clusterIP", "", "spec.clusterIP", cluster_ips=()),
    spared(SERVICE, "spec.clusterIPs", ["10.96.0.2"], "spec.clusterIPs[0]", cluster_ips=(ip_address("10.96.0.2"),)),
    spared(SERVICE, "spec.ports", [], "spec.ports", ports=()),
    spared(
        SERVICE, "spec.ports", NODE_PORTS, "spec.ports[0].nodePort", ports=(ServicePort("", Protocol.TCP, 80, 30080),)
    ),
    spared(SERVICE, "spec.ports", [{"port": 80}, PORT], "spec.ports[0].name", ports=NAMELESS),
    spared(
        SERVICE,
        "spec.ports",
        [PORT, {"port": 82, "name": "b"}],
        "spec.ports[1].name",
        ports=(B, ServicePort("b", Protocol.TCP, 82)),
    ),
    spared(
        SERVICE,
        "spec.externalTrafficPolicy",
        "Local",
        "spec.externalTrafficPolicy",
        external_policy=TrafficPolicy.LOCAL,
    ),
    spared(
        SERVICE,
        "spec.loadBalancerSourceRanges",
        ["10.0.0.0/8"],
        "spec.loadBalancerSourceRanges",
        load_balancer_source_ranges=(ip_network("10.0.0.0/8"),),
    ),
    spared(SERVICE, "spec.healthCheckNodePort", 31000, "spec.healthCheckNodePort", health_check_node_port=31000),
    spared(SERVICE, "spec.sessionAffinityConfig", {"clientIP": {}}, "spec.sessionAffinityConfig"),
    *(
        spared(
            SERVICE,
            "spec",
            {**AFFINITY, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": much}}},
            TIMEOUT,
            affinity_timeout_s=much,
        )
        for much in (86401, 2**31 - 1)
    ),
    spared(
        SLICE,
        "ports",
        [{"port": 8080}, {"port": 81}],
        "ports[1].name",
        ports=(EndpointPort("", Protocol.TCP, 8080), EndpointPort("", Protocol.TCP, 81)),
    ),
    spared(SLICE, "endpoints.0.addresses", ["10.244.0.1", "::1"], "endpoints[0].addresses[1]"),
    spared(SLICE, "endpoints.0.addresses", ["10.244.0.1"] * 101, "endpoints[0].addresses"),
    # forms that older servers took
    spared(SERVICE, "spec.clusterIP", "010.096.000.001", "spec.clusterIP"),
    spared(SERVICE, "spec.externalIPs", ["203.000.113.001"], "spec.externalIPs[0]", external_ips=(HOST,)),
    spared(SERVICE, "spec.externalIPs", ["::ffff:203.0.113.1"], "spec.externalIPs[0]", external_ips=(HOST,)),
    spared(
        SERVICE,
        "status",
        {"loadBalancer": {"ingress": [{"ip": "203.000.113.001"}]}},
        "status.loadBalancer.ingress[0].ip",
        load_balancer_ips=(HOST,),
    ),
    *(
        spared(
            SERVICE,
            "spec",
            {**LOAD_BALANCER, "loadBalancerSourceRanges": [text]},
            "spec.loadBalancerSourceRanges[0]",
            type=ServiceType.LOAD_BALANCER,
            load_balancer_source_ranges=(ip_network("192.168.50.0/24"),),
        )
        for text in ("192.168.050.0/24", " 192.168.050.007/24 ", "::ffff:192.168.50.7/120")
    ),
    spared(SLICE, "endpoints.0.addresses", ["010.244.000.001"], "endpoints[0].addresses[0]"),
    spared(SLICE, "endpoints.0.addresses", ["::ffff:10.244.0.1"], "endpoints[0].addresses[0]"),
    spared(NODE, "spec", {"podCIDRs": ["010.244.001.0/24"]}, "spec.podCIDRs[0]", pod_cidrs=(PAST,)),
    spared(NODE, "spec", {"podCIDR": "010.244.001.0/24"}, "spec.podCIDR", pod_cidrs=(PAST,)),
    spared(
        NODE,
        "status",
        {"addresses": [{"type": "InternalIP", "address": "203.000.113.001"}]},
        "status.addresses[0].address",
        internal_ips=(HOST,),
    ),
    spared(SERVICE_CIDR, "spec", {"cidrs": ["010.244.001.0/24"]}, "spec.cidrs[0]", cidrs=(PAST,)),
]


@pytest.mark.parametrize(("raw", "path", "value", "field", "expected"), RULES)
def test_what_a_server_has_taken_is_not_judged_again(
    raw: Object, path: str, value: Any, field: str, expected: dict[str, Any]
) -> None:
    odd = changed(raw, path, value)
    held = from_server(odd)
    origin = {"origin": ""} if hasattr(held.value, "origin") else {}
    assert held.value == replace(value_of(raw), **expected, **origin)
    assert held.problems == ()
    written = one(odd)
    assert not written.malformed
    assert written.value == replace(value_of(raw), **expected)
    assert [problem.field for problem in written.problems] == [field]


def test_a_range_that_cannot_be_read_opens_nothing() -> None:
    """Not to the family that no other range is of, either: it may have been meant for that."""
    nobody = (ip_network("0.0.0.0/32"), ip_network("::/128"))
    for ranges, expected in (
        (["10.0.0.0"], nobody),
        (["10.0.0.0/255.0.0.0"], nobody),
        (["10.0.0.0/33", ""], nobody),
        (["x", "10.0.0.0/8"], (ip_network("10.0.0.0/8"), *nobody)),
    ):
        for decode_one in (one, from_server):
            decoded = decode_one(changed(SERVICE, "spec", {**LOAD_BALANCER, "loadBalancerSourceRanges": ranges}))
            assert isinstance(decoded.value, Service)
            assert decoded.value.load_balancer_source_ranges == expected
            assert decoded.problems[0].field == "spec.loadBalancerSourceRanges[0]"
            assert repr(ranges[0]) in decoded.problems[0].message


def test_fields_are_named_as_they_are_written_whatever_is_left_out_before_them() -> None:
    unknown, again, double = {"port": 82, "protocol": "QUIC"}, {"port": 83, "name": "b"}, {"port": 81, "name": "e"}
    ports = [{"port": 70000}, PORT, unknown, again, double]
    assert [problem.field for problem in one(changed(SERVICE, "spec.ports", ports)).problems] == [
        "spec.ports[0].port",
        "spec.ports[2].protocol",
        "spec.ports[3].name",
        "spec.ports[4].port",
    ]


def test_all_problems_of_an_object_come_at_once_and_name_the_values() -> None:
    raw = changed(changed(SERVICE, "spec.ports.0.port", 70000), "spec.clusterIP", 5)
    raw["spec"]["sessionAffinity"] = "a"
    assert {problem.field: problem.message for problem in one(raw).problems} == {
        "spec.sessionAffinity": "must be one of 'None' or 'ClientIP', not 'a'",
        "spec.clusterIP": "must be text, not 5",
        "spec.ports[0].port": "must be at most 65535, not 70000",
    }
    assert str(one(changed(SERVICE, "spec.ports.0.port", 70000)).problems[0]) == (
        "f.yaml: Service shop/web: spec.ports[0].port: must be at most 65535, not 70000"
    )


@pytest.mark.parametrize("bad", [{}, {"addresses": ["x"]}])
def test_the_problems_of_one_object_are_bounded(bad: Object) -> None:
    raw = changed(SLICE, "endpoints", [bad] * 500)
    for decoded in (one(raw), from_server(raw)):
        assert len(decoded.problems) == MAX_PROBLEMS + 1
        assert decoded.problems[-1].message == f"has {500 - MAX_PROBLEMS} more problems"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.builds(lambda: 1 << 20_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PATHS = sorted(
    {(raw["kind"], path) for raw, path, _, _ in MALFORMED}
    | {(raw["kind"], path) for raw, path, *_ in (*SPARED, *RULES)}
    | {("Service", "kind"), ("Service", "apiVersion"), ("Service", "metadata"), ("EndpointSlice", "metadata")}
    | {("EndpointSlice", "endpoints.0.conditions.ready")}
)


@given(ANYTHING)
def test_no_document_makes_it_raise(raw: Any) -> None:
    for decoded in decode(raw, "f.yaml"):
        assert decoded.problems


@settings(max_examples=300)
@given(st.sampled_from(PATHS), ANYTHING)
def test_no_value_in_any_field_makes_it_raise(place: tuple[str, str], value: Any) -> None:
    kind, path = place
    raw = changed({one["kind"]: one for one in (SERVICE, SLICE, NODE, SERVICE_CIDR)}[kind], path, value)
    for decoded in (*decode(raw, "f.yaml"), decode_as(Kind(kind), raw)):
        assert not decoded.malformed or (decoded.value is None and decoded.problems)
        for problem in decoded.problems:
            assert len(str(problem)) < 500
            assert str(problem).isprintable()
