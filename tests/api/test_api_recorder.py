"""Events as the API server gets them: best effort, and never in anybody's way."""

import pytest

from kpf.model.snapshot import Problem
from kpf.sources.api import recorder
from tests.api.checks import LATE, REFUSED, WEB, Messages, add, has
from tests.api.follower import Follower
from tests.apiserver import ApiServer
from tests.apiserver.objects import service

EVENTS_PATH = "/apis/events.k8s.io/v1/namespaces/default/events"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PACE_S", 0.01)
    monkeypatch.setattr(recorder, "PAUSE_S", 0.01)


@pytest.fixture
def before(server: ApiServer) -> int:
    """How many Events there were: the server keeps them."""
    return len(server.events())


def problem(text: str, *, of: str = "Service default/web") -> Problem:
    return Problem("", of, "", text)


def test_a_malformed_service_gets_an_event(server: ApiServer, kpf: Follower, before: int) -> None:
    version = server.put(service("web", "10.96.0.1", ports=[{"port": "80", "protocol": "TCP"}]))
    snapshot = kpf.until(lambda snapshot: bool(snapshot.problems))
    kpf.source.report(snapshot.problems)
    kpf.until_holds(lambda: len(server.events()) > before)
    (event,) = server.events()[before:]
    (uid,) = [one["metadata"]["uid"] for one in server.truth("Service") if one["metadata"]["name"] == "web"]
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": uid,
        "resourceVersion": str(version),
    }
    assert event["note"] == "spec.ports[0].port: must be an integer, not '80'"
    (posted,) = server.requests("events")
    assert (posted.method, posted.path, posted.status) == ("POST", EVENTS_PATH, 201)


def test_each_is_sent_once(server: ApiServer, kpf: Follower, before: int) -> None:
    kpf.source.report((problem("one"), problem("of a slice", of="EndpointSlice default/web-1")))
    kpf.source.report((problem("one"), problem("two")))
    kpf.source.report((problem("of a node", of="Node node-1"),))
    kpf.until_holds(lambda: len(server.events()) == before + 3)
    assert [one["note"] for one in server.events()[before:]] == ["one", "two", "of a node"]


def test_events_that_are_forbidden_hurt_nobody(
    server: ApiServer, kpf: Follower, before: int, messages: Messages
) -> None:
    server.forbid("events")
    kpf.source.report((problem("one"), problem("two")))
    kpf.until_holds(lambda: [one.status for one in server.requests("events")] == [403, 403])
    add(server)
    assert WEB in kpf.until(has(LATE)).services
    assert kpf.source.troubles == ()
    assert messages() == []
    server.lift()
    kpf.source.report((problem("one"), problem("three")))
    kpf.until_holds(lambda: len(server.events()) > before)
    assert [one["note"] for one in server.events()[before:]] == ["three"]


def test_a_server_that_does_not_let_us_is_left_alone_for_a_while(
    server: ApiServer, kpf: Follower, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PAUSE_S", 0.5)
    server.answer(429, resource="events")
    kpf.source.report((problem("one"), problem("two")))
    kpf.until_holds(lambda: len(server.events()) > before)
    refused, answered = server.requests("events")
    assert (refused.status, answered.status) == (429, 201)
    assert answered.time_s - refused.time_s >= 0.5


def test_a_server_that_is_gone_or_silent_is_no_harm(
    server: ApiServer, kpf: Follower, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpf.sources.api.client.POST_S", 0.1)
    server.silence("events")
    kpf.source.report((problem("one"), problem("two")))
    # one at a time: the first was given up
    kpf.until_holds(lambda: len(server.requests("events")) == 2)
    server.lift()
    server.die()
    kpf.until_holds(lambda: kpf.source.troubles == (REFUSED,))
    kpf.source.report((problem("three"),))
    add(server)
    server.listen()
    kpf.until(has(LATE))
    kpf.source.report((problem("four"),))
    kpf.until_holds(lambda: "four" in [one["note"] for one in server.events()[before:]])
