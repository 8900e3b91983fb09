"""Objects that break the API's own rules: each concerns itself alone, and what it last was stays in force."""

import time
from typing import Any

import pytest

from kpf.sources.api import reflector
from tests.api.checks import LATE, SHOP, WEB, Make, Messages, add, asked, assert_goes_on, assert_truth, has
from tests.api.follower import Follower
from tests.apiserver import ApiServer
from tests.apiserver.objects import endpoint_slice, service


def _of_no_type() -> Any:
    made = endpoint_slice("web", ["10.0.0.1"])
    del made["addressType"]
    return made


def _without_spec() -> Any:
    made = service("web", "10.96.0.1")
    del made["spec"]
    return made


MALFORMED = [
    (_without_spec(), "Service default/web: spec: is required"),
    (
        service("web", "10.96.0.1", ports=[{"port": "80", "protocol": "TCP"}]),
        "Service default/web: spec.ports[0].port: must be an integer, not '80'",
    ),
    (
        service("web", "10.96.0.1") | {"spec": {"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}},
        "Service default/web: spec.clusterIP: must be an IP address, not '10.96.0.300'",
    ),
    (_of_no_type(), "EndpointSlice default/web-1: addressType: is required"),
    (
        {**endpoint_slice("web", ["10.0.0.1"]), "endpoints": {"addresses": ["10.0.0.1"]}},
        "EndpointSlice default/web-1: endpoints: must be a list, not an object",
    ),
]


@pytest.mark.parametrize(("malformed", "problem"), MALFORMED)
def test_an_object_that_is_malformed_stays_as_it_last_was(
    server: ApiServer, kpf: Follower, malformed: Any, problem: str
) -> None:
    before = kpf.snapshots[-1]
    server.put(malformed)
    during = kpf.until(lambda snapshot: bool(snapshot.problems))
    assert [str(one) for one in during.problems] == [problem]
    add(server)
    during = kpf.until(has(LATE))
    assert during.services[WEB] is before.services[WEB]
    assert during.slices[WEB] is before.slices[WEB]
    server.put_all([service("web", "10.96.0.1"), endpoint_slice("web", ["10.0.0.7"])])
    after = kpf.until(lambda snapshot: not snapshot.problems and snapshot.slices[WEB] != before.slices[WEB])
    assert_truth(server, after)
    assert len(server.requests()) == 4


@pytest.mark.parametrize(("malformed", "problem"), MALFORMED)
def test_an_object_that_is_malformed_from_the_start(
    server: ApiServer, follow: Make, malformed: Any, problem: str
) -> None:
    server.put(malformed)
    kpf = follow()
    snapshot = kpf.until()
    assert [str(one) for one in snapshot.problems] == [problem]
    assert SHOP in snapshot.services
    server.delete(malformed["kind"], "default", malformed["metadata"]["name"])
    kpf.until(lambda snapshot: not snapshot.problems)


def _services_of_the_future() -> list[Any]:
    """Which today's server would not take, or does not know; each keeps 10.96.0.1:80."""
    made = service("web", "10.96.0.1")
    spec = made["spec"]
    return [
        {**made, "spec": {**spec, **fields}}
        for fields in (
            {"type": "Anycast"},
            {"sessionAffinity": "Cookie", "sessionAffinityConfig": {"cookie": {"name": "a"}}},
            {"internalTrafficPolicy": "Nearby", "externalTrafficPolicy": "Nearby"},
            {"ports": [*spec["ports"], {"name": "quic", "port": 443, "protocol": "QUIC"}]},
            {"externalIPs": ["203.0.113.300"], "trafficDistribution": {"to": "anywhere"}},
            {"clusterIPs": ["10.96.0.1", "fd00::x"]},
        )
    ]


@pytest.mark.parametrize("newer", _services_of_the_future())
def test_a_service_that_a_server_has_taken_is_served_whatever_it_says(
    server: ApiServer, kpf: Follower, newer: Any
) -> None:
    """As far as it can be understood, and from its newest version: another port comes with it."""
    newer["spec"]["ports"] = [*newer["spec"]["ports"], {"name": "more", "port": 81, "protocol": "TCP"}]
    server.put(newer)
    snapshot = kpf.until(lambda snapshot: len(snapshot.services[WEB].ports) == 2)
    found = snapshot.services[WEB]
    assert [port.port for port in found.ports] == [80, 81]
    assert list(map(str, found.cluster_ips)) == ["10.96.0.1"]
    assert all(problem.is_limit for problem in snapshot.problems)
    assert 1 <= len(snapshot.problems) <= 2
    kpf.source.report(snapshot.problems)
    add(server)
    kpf.until(has(LATE))
    assert server.requests("events") == [], "nobody is to blame"


def test_a_slice_that_a_server_has_taken_loses_no_more_than_it_must(server: ApiServer, kpf: Follower) -> None:
    odd = endpoint_slice("web", ["10.0.0.1", "010.000.000.002", "10.0.0.300", "10.0.0.4"])
    odd["endpoints"][3]["hints"] = {"forRegions": [{"name": "a"}]}
    odd["ports"] = [*odd["ports"], {"name": "quic", "port": 443, "protocol": "QUIC"}]
    server.put(odd)
    snapshot = kpf.until(lambda snapshot: bool(snapshot.problems))
    (piece,) = snapshot.slices[WEB]
    assert [str(one.address) for one in piece.endpoints] == ["10.0.0.1", "10.0.0.2", "10.0.0.4"]
    assert [one.field for one in snapshot.problems] == ["ports[1].protocol", "endpoints[2].addresses[0]"]
    server.put({**odd, "addressType": "IPv8"})
    snapshot = kpf.until(lambda snapshot: WEB not in snapshot.slices)
    assert [one.field for one in snapshot.problems] == ["ports[1].protocol", "addressType"]


@pytest.mark.parametrize("name", ["Odd", "odd\0name", "a/b", "..", "x" * 300, "caf\u00e9"])
def test_an_object_with_an_odd_name_is_passed_over(
    server: ApiServer, kpf: Follower, messages: Messages, name: str
) -> None:
    server.put(service(name, "10.96.0.5"))
    add(server)
    snapshot = kpf.until(has(LATE))
    assert snapshot.services.keys() == {WEB, SHOP, LATE}
    (message,) = messages()
    assert message.endswith("the object is passed over")
    assert "\0" not in message
    assert len(message) < 300
    assert len(server.requests()) == 4


def test_a_line_that_is_too_long_is_passed_over(
    server: ApiServer, kpf: Follower, monkeypatch: pytest.MonkeyPatch, messages: Messages
) -> None:
    monkeypatch.setattr(reflector, "MAX_LINE_BYTES", 1 << 20)
    since_s = time.monotonic()
    server.end_watches("services")
    kpf.until_holds(lambda: bool(asked(server, since_s)) and server.watching("services") == 1)
    assert server.inject("x" * (3 << 20), "services") == 1
    assert_goes_on(server, kpf, since_s)
    assert messages() == ["Service: an object of more than 1 MiB is passed over"]
    assert len(asked(server, since_s)) == 1
