"""Objects that break the API's own rules: each concerns itself alone, and what it last was stays in force."""

import time
from typing import Any

import pytest

from kpf.sources.api import reflector
from tests.api.checks import LATE, SHOP, WEB, Make, Messages, add, asked, assert_goes_on, assert_truth, has
from tests.api.follower import Follower
from tests.apiserver import ApiServer
from tests.apiserver.objects import endpoint_slice, service


def _many_endpoints() -> Any:
    return endpoint_slice("web", [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(10_000)])


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
    (_many_endpoints(), "EndpointSlice default/web-1: endpoints: must have at most 1000 elements, not 10000"),
    (
        {**endpoint_slice("web", ["10.0.0.1"]), "addressType": "IPv6"},
        "EndpointSlice default/web-1: endpoints[0].addresses[0]: must be an IPv6 address as addressType says, "
        "not '10.0.0.1'",
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
