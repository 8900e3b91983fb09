"""Objects as a real kube-apiserver keeps them: none is lost, today's or tomorrow's.

`kube_apiserver/stored-1.36.2.jsonl` has objects from the edges of validity, one a line, as kube-apiserver 1.36.2
(default gates) answered to a server-side dry run; of Nodes without nodeInfo. A dry run lets nodePort -1 through, which
stands here for what other servers may have let through.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from kpf.model.endpoint import EndpointSlice
from kpf.model.service import Service
from kpf.model.snapshot import Node, ServiceCIDR
from kpf.sources.decode import Decoded, Kind, decode_as

Object = dict[str, Any]
Address = IPv4Address | IPv6Address

FILE = Path(__file__).parent / "kube_apiserver" / "stored-1.36.2.jsonl"
STORED: list[Object] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
IDS = [f"{one['kind']}-{one['metadata']['name'][:20]}" for one in STORED]


def held(raw: Object) -> Decoded:
    return decode_as(Kind(raw["kind"]), raw)


def addresses(texts: list[str]) -> list[Address]:
    """Those that kube-proxy can read, written another way than kpf does it."""
    found: list[Address] = []
    for text in texts:
        octets = text.removeprefix("::ffff:").split(".")
        try:
            if ":" in text and len(octets) == 1:
                found.append(IPv6Address(text))
            elif len(octets) == 4 and all(one.isdigit() and int(one) < 256 for one in octets):
                found.append(IPv4Address(".".join(str(int(one)) for one in octets)))
            elif len(octets) == 4:
                found.append(IPv6Address(text))
        except ValueError:
            continue
    plain = [one for one in found if not (isinstance(one, IPv6Address) and one.scope_id)]
    return [one.ipv4_mapped or one if isinstance(one, IPv6Address) else one for one in plain]


def assert_whole_service(value: Any, raw: Object) -> None:
    """Everything that kube-proxy reads: pkg/proxy/serviceport.go."""
    assert isinstance(value, Service)
    spec, ingress = raw["spec"], raw["status"]["loadBalancer"].get("ingress", [])
    assert [(port.name, port.protocol, port.port, port.node_port) for port in value.ports] == [
        (port.get("name", ""), port["protocol"], port["port"], max(port.get("nodePort", 0), 0))
        for port in spec.get("ports", [])
    ]
    is_served = spec["type"] != "ExternalName" and spec["clusterIP"] != "None"
    assert list(value.cluster_ips) == (addresses(spec["clusterIPs"]) if is_served else [])
    assert list(value.external_ips) == addresses(spec.get("externalIPs", []))
    assert list(value.load_balancer_ips) == addresses([one["ip"] for one in ingress if one.get("ipMode") == "VIP"])
    ranges = [ip_network(text.strip(), strict=False) for text in spec.get("loadBalancerSourceRanges", [])]
    assert list(value.load_balancer_source_ranges) == ranges
    timeout_s = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds")
    assert value.affinity_timeout_s == timeout_s
    assert value.internal_policy == spec.get("internalTrafficPolicy", "Cluster")
    assert value.external_policy == spec.get("externalTrafficPolicy", "Cluster")
    assert value.health_check_node_port == spec.get("healthCheckNodePort", 0)


def assert_whole_slice(value: Any, raw: Object) -> None:
    """Everything that kube-proxy reads: pkg/proxy/endpointslicecache.go."""
    labels = raw["metadata"].get("labels", {})
    if not labels.get("kubernetes.io/service-name") or "service.kubernetes.io/headless" in labels:
        assert value is None
        return
    assert isinstance(value, EndpointSlice)
    endpoints = raw["endpoints"] or []
    assert [one.address for one in value.endpoints] == addresses([one["addresses"][0] for one in endpoints])
    assert [one.node_name for one in value.endpoints] == [one.get("nodeName", "") for one in endpoints]
    assert [one.ready for one in value.endpoints] == [one["conditions"].get("ready", True) for one in endpoints]
    assert [(one.name, one.protocol, one.port) for one in value.ports] == [
        (one["name"], one["protocol"], one.get("port")) for one in raw["ports"] or []
    ]


def assert_whole_node(value: Any, raw: Object) -> None:
    assert isinstance(value, Node)
    internal = [one["address"] for one in raw["status"].get("addresses", []) if one["type"] == "InternalIP"]
    assert list(value.internal_ips) == addresses(internal)
    assert list(value.pod_cidrs) == [ip_network(one) for one in raw["spec"].get("podCIDRs", [])]
    assert value.labels == raw["metadata"].get("labels", {})


def assert_whole_cidr(value: Any, raw: Object) -> None:
    assert isinstance(value, ServiceCIDR)
    assert list(value.cidrs) == [ip_network(one) for one in raw["spec"]["cidrs"]]


ASSERT_WHOLE: dict[str, Callable[[Any, Object], None]] = {
    "Service": assert_whole_service,
    "EndpointSlice": assert_whole_slice,
    "Node": assert_whole_node,
    "ServiceCIDR": assert_whole_cidr,
}


@pytest.mark.parametrize("raw", STORED, ids=IDS)
def test_nothing_of_what_a_server_keeps_is_lost(raw: Object) -> None:
    decoded = held(raw)
    assert not decoded.malformed
    assert all(problem.is_limit for problem in decoded.problems)
    ASSERT_WHOLE[raw["kind"]](decoded.value, raw)


def places(value: Any, *above: int | str) -> Iterator[tuple[int | str, ...]]:
    """Of everything within it that is no list and no object."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, *above, key)
    elif value is not None:
        yield above


def put(raw: Object, place: tuple[int | str, ...], value: Any) -> Object:
    made = inner = deepcopy(raw)
    for part in place[:-1]:
        inner = inner[part]  # type: ignore[index]  # any JSON
    inner[place[-1]] = value  # type: ignore[index]  # any JSON
    return made


# what an object is told by; of a Service also its only cluster IP
IDENTITY = {("metadata", "name"), ("metadata", "namespace"), ("kind",), ("apiVersion",)}
CLUSTER_IPS = {("spec", "clusterIP"), ("spec", "clusterIPs", 0)}


@pytest.mark.parametrize("raw", STORED, ids=IDS)
def test_no_value_that_another_server_may_have_taken_costs_an_object(raw: Object) -> None:
    """Of the same type, but unknown."""
    whole = held(raw).value
    for place in places(raw):
        before: Any = raw
        for part in place:
            before = before[part]
        if place in IDENTITY or place in CLUSTER_IPS or isinstance(before, bool):
            continue
        for value in ("Unknown-1", "") if isinstance(before, str) else (-1, 0, 2**31 - 1):
            decoded = held(put(raw, place, value))
            assert not decoded.malformed, (place, value)
            # such a slice is none of ours
            if place != ("addressType",) and place[:2] != ("metadata", "labels"):
                assert type(decoded.value) is type(whole), (place, value)


def with_new_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [with_new_fields(inner) for inner in value]
    if isinstance(value, dict):
        return {key: with_new_fields(inner) for key, inner in value.items()} | {"since140": [{"a": 1}]}
    return value


@pytest.mark.parametrize("raw", STORED, ids=IDS)
def test_fields_of_the_future_change_nothing(raw: Object) -> None:
    newer = with_new_fields(raw)
    newer["metadata"] = {**raw["metadata"], "since140": {}}
    assert held(newer) == held(raw)
