"""An API server that refuses, answers nonsense, or does not answer: what was known stays, and no list is asked for."""

import time

import pytest

from kpf.sources.api import source
from tests.api.checks import (
    LATE,
    REFUSED,
    RESOURCES,
    SHOP,
    WEB,
    Make,
    Messages,
    add,
    asked,
    assert_goes_on,
    assert_nothing_is_ever_missing,
    assert_truth,
    has,
    probes,
)
from tests.api.follower import Follower
from tests.apiserver import ApiServer
from tests.apiserver.objects import endpoint_slice, service


# ---- refusals
def test_the_patience_that_the_server_asks_for_is_had(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    server.answer(429, resource="services", retry_after_s=1)
    server.end_watches("services")
    assert_goes_on(server, kpf, since_s)
    refused, answered = asked(server, since_s, "services")
    assert (refused.status, answered.status) == (429, 200)
    assert 1.0 <= answered.time_s - refused.time_s < 1.5


@pytest.mark.parametrize("code", [500, 503, 504])
def test_an_error_of_the_server_is_waited_out(server: ApiServer, kpf: Follower, code: int) -> None:
    since_s = time.monotonic()
    server.answer(code, times=2, resource="services")
    server.end_watches("services")
    kpf.until_holds(lambda: kpf.source.troubles == (f"{code} told to answer {code}",))
    assert_goes_on(server, kpf, since_s)
    assert [one.status for one in asked(server, since_s, "services")] == [code, code, 200]
    kpf.until_holds(lambda: not kpf.source.troubles)


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500])
def test_an_error_event_is_waited_out(server: ApiServer, kpf: Follower, code: int) -> None:
    since_s = time.monotonic()
    assert server.send_error(code, message="etcd is not there") == 4
    kpf.until_holds(lambda: kpf.source.troubles == (f"{code} etcd is not there",))
    assert_goes_on(server, kpf, since_s)


@pytest.mark.parametrize("text", ["garbage", '{"type":"ADDED"}', '{"type":"ADDED","object":[]}', "[]", "\0"])
def test_a_line_that_is_no_event(server: ApiServer, kpf: Follower, text: str) -> None:
    since_s = time.monotonic()
    assert server.inject(text) == 4
    assert_goes_on(server, kpf, since_s)


def test_a_proxy_that_answers_for_the_server(server: ApiServer, follow: Make, messages: Messages) -> None:
    server.answer(200, body="<html>\nsign in\n</html>\n", resource="services")
    server.answer(200, body="<html>sign in</html>", times=2, resource="services")
    kpf = follow()
    assert_truth(server, kpf.until())
    told = [one.partition("does not tell what it has: ")[2] for one in messages()]
    assert list(filter(None, told))[:3] == [
        "a line that is no event",
        "the list ended before it was complete",
        "a list that is none",
    ]


def test_forbidden_services_are_asked_for_until_they_are_allowed(server: ApiServer, follow: Make) -> None:
    server.forbid("services")
    kpf = follow()
    user = "system:serviceaccount:kube-system:kpf"
    forbidden = f'403 services is forbidden: User "{user}" cannot watch resource "services" in API group "" at the'
    kpf.until_holds(lambda: kpf.source.troubles == (f"{forbidden} cluster scope",))
    kpf.until_holds(lambda: len(server.requests("services")) >= 3)
    assert kpf.source.read() is None
    server.lift()
    assert_truth(server, kpf.until())


@pytest.mark.parametrize("resource", ["nodes", "servicecidrs"])
def test_what_kpf_can_do_without_may_be_forbidden(
    server: ApiServer, follow: Make, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    # it is not patience that ends the waiting
    monkeypatch.setattr(source, "PATIENCE_S", 60.0)
    server.forbid(resource)
    kpf = follow()
    snapshot = kpf.until()
    assert {WEB, SHOP} <= snapshot.services.keys()
    assert snapshot.problems == ()
    (trouble,) = kpf.source.troubles
    assert trouble.startswith(f"403 {resource}")
    assert (snapshot.node is None) == (resource == "nodes")
    assert (snapshot.service_cidrs == ()) == (resource == "servicecidrs")
    add(server)
    kpf.until(has(LATE))
    assert len(server.requests(resource)) == 1


def test_outages_are_told_also_while_something_is_forbidden_for_good(
    server: ApiServer, follow: Make, messages: Messages
) -> None:
    server.forbid("nodes")
    kpf = follow()
    kpf.until()
    for times in (1, 2):
        server.die()
        kpf.until_holds(lambda: REFUSED in kpf.source.troubles)
        server.listen()
        kpf.until_holds(lambda: REFUSED not in kpf.source.troubles)
        assert sum(one.endswith(REFUSED) for one in messages()) == times


def test_a_server_without_service_cidrs(server: ApiServer, follow: Make) -> None:
    server.remove("servicecidrs")
    kpf = follow()
    snapshot = kpf.until()
    assert (snapshot.service_cidrs, snapshot.problems, kpf.source.troubles) == ((), (), ())


def test_what_kpf_can_do_without_is_waited_for_a_while(
    server: ApiServer, follow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PATIENCE_S", 0.3)
    server.silence("nodes")
    kpf = follow()
    snapshot = kpf.until()
    assert snapshot.node is None
    assert {WEB, SHOP} <= snapshot.services.keys()
    assert None in kpf.reads
    server.lift()
    kpf.until(lambda snapshot: snapshot.node is not None)


def test_a_server_that_does_not_know_the_field_selector(server: ApiServer, follow: Make) -> None:
    server.put(service("headless", "None"))
    server.answer(400, resource="services", times=2)
    kpf = follow()
    snapshot = kpf.until()
    assert snapshot.problems == ()
    assert {WEB, SHOP} <= snapshot.services.keys()
    kpf.until_holds(lambda: server.watching("services") == 1)
    selectors = ["fieldSelector" in one.query for one in server.requests("services")]
    assert selectors == [True, True, False, False]
    add(server)
    kpf.until(has(LATE))


# ---- silence
@pytest.mark.usefixtures("short_silence")
def test_watches_that_are_silent_are_asked_about_and_go_on(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    server.stall()
    kpf.until_holds(lambda: {one.resource for one in asked(server, since_s) if probes(one)} == {*RESOURCES})
    server.lift()
    assert_goes_on(server, kpf, since_s)


@pytest.mark.usefixtures("short_silence")
def test_requests_that_are_taken_and_never_answered(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    server.silence()
    server.end_watches()
    kpf.until_holds(lambda: len(asked(server, since_s, "services")) >= 3 and bool(kpf.source.troubles))
    server.lift()
    assert_goes_on(server, kpf, since_s)


@pytest.mark.usefixtures("short_silence")
def test_a_server_that_is_frozen(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    server.freeze()
    try:
        kpf.until_holds(lambda: bool(kpf.source.troubles))
    finally:
        server.thaw()
    assert_goes_on(server, kpf, since_s)


@pytest.mark.usefixtures("short_silence")
def test_a_list_that_stops_in_the_middle_is_asked_for_in_pages(server: ApiServer, follow: Make) -> None:
    server.stall("services")
    kpf = follow()
    kpf.until_holds(lambda: bool(server.requests("services", "list")))
    assert_truth(server, kpf.until())


@pytest.mark.usefixtures("short_silence")
def test_a_server_that_goes_back_in_time(server: ApiServer, kpf: Follower, messages: Messages) -> None:
    version, before = server.version(), kpf.snapshots[-1]
    add(server)
    server.put(endpoint_slice("shop", ["10.0.0.4"]))
    kpf.until(lambda snapshot: LATE in snapshot.services and snapshot.slices[SHOP] != before.slices[SHOP])
    server.restore(version)
    after = kpf.until(lambda snapshot: LATE not in snapshot.services and snapshot.slices[SHOP] == before.slices[SHOP])
    assert_nothing_is_ever_missing(kpf)
    assert_truth(server, after)
    assert any("has gone back in time" in one for one in messages())
    assert after.services[WEB] is before.services[WEB]
    add(server)
    kpf.until(has(LATE))
