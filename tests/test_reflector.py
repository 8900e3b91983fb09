"""The conversation with an API server, as a conversation: what is asked, what is answered, what is known after it."""

from typing import Any

import orjson
import pytest

from kpf.lab.manifests import Object
from kpf.model.names import ObjectName
from kpf.sources.api import reflector as machine
from kpf.sources.api.deltas import Deleted, Delta, LogLine, Replaced, Updated
from kpf.sources.api.reflector import Reflector
from kpf.sources.api.resources import Ask, Request, Resource, resources
from kpf.sources.decode import Kind

SERVICES, SLICES, NODE, CIDRS = resources("node-1")
WEB, SHOP = ObjectName("default", "web"), ObjectName("default", "shop")


def service(name: str, version: int, **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], **spec},
    }


def bookmark(version: int, *, end: bool = False) -> Object:
    annotations = {"annotations": {"k8s.io/initial-events-end": "true"}} if end else {}
    return {"metadata": {"resourceVersion": str(version), **annotations}}


def line(kind: str, raw: object) -> bytes:
    return orjson.dumps({"type": kind, "object": raw}) + b"\n"


def status(code: int, message: str = "", **details: Any) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message, "details": details}


def page(version: int, *items: Object, more: str = "") -> bytes:
    metadata = {"resourceVersion": str(version), "continue": more}
    return orjson.dumps({"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": items})


class Talk:
    """One reflector and a clock. `chance` is 1: each wait is as long as it can be."""

    def __init__(self, resource: Resource = SERVICES) -> None:
        self.reflector = Reflector(resource, chance=lambda: 1.0)
        self.now_s = 1000.0
        self.events: list[Delta] = []

    def asks(self, ask: Ask) -> dict[str, str]:
        """It asks this now; the query."""
        request = self.reflector.next(self.now_s)
        assert isinstance(request, Request), f"it waits {request - self.now_s} s: {self.reflector.trouble}"
        assert request.ask is ask
        return dict(request.query)

    def waits(self, seconds: float) -> None:
        """It would wait so long, and then so long has passed."""
        due_s = self.reflector.next(self.now_s)
        assert isinstance(due_s, float)
        assert due_s - self.now_s == pytest.approx(seconds)
        self.now_s = due_s

    def answer(self, code: int = 200, *data: bytes, retry_after_s: float = 0.0) -> None:
        self.reflector.begin(code, self.now_s, retry_after_s=retry_after_s)
        for one in data:
            self.hears(one)

    def hears(self, data: bytes) -> None:
        self.events += self.reflector.feed(data, self.now_s)

    def ends(self, after_s: float = 0.0, error: str = "", *, silent: bool = False) -> None:
        self.now_s += after_s
        self.events += self.reflector.end(self.now_s, error, silent=silent)

    def cannot_stream(self) -> None:
        """The server knows no streamed lists."""
        self.asks(Ask.STREAMED_LIST)
        self.answer(422, b"{}")
        self.ends()

    def told(self) -> list[Delta]:
        """What has been told since the last time."""
        events, self.events = self.events, []
        return events

    def names(self) -> list[str]:
        """Briefly: +name, -name, =all names."""
        return [brief(event) for event in self.told()]


def brief(event: Delta) -> str:
    match event:
        case Updated(one):
            return f"+{one.name.name if one.name else None}"
        case Deleted(name):
            return f"-{name.name}"
        case Replaced(objects):
            return "=" + ",".join(sorted(one.name.name for one in objects if one.name))
        case LogLine(text):
            return f"!{text}"


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def watching(talk: Talk) -> Talk:
    """All is listed, the list's own stream has ended, and a watch is open at version 10."""
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("ADDED", service("web", 7)), line("BOOKMARK", bookmark(10, end=True)))
    talk.ends(300.0)
    talk.asks(Ask.WATCH)
    talk.answer(200)
    talk.told()
    return talk


def test_a_streamed_list_is_told_when_it_is_complete_and_goes_on_as_a_watch(talk: Talk) -> None:
    query = talk.asks(Ask.STREAMED_LIST)
    assert query == {
        "labelSelector": "!service.kubernetes.io/service-proxy-name",
        "fieldSelector": "spec.clusterIP!=None",
        "watch": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "600",
    }
    talk.answer(200, line("ADDED", service("web", 7)), line("ADDED", service("shop", 5)))
    assert not talk.told()
    assert not talk.reflector.listed
    talk.hears(line("BOOKMARK", bookmark(10, end=True)))
    assert talk.names() == ["=shop,web"]
    assert talk.reflector.listed
    talk.hears(line("MODIFIED", service("web", 11)) + line("DELETED", service("shop", 12)))
    assert talk.names() == ["+web", "-shop"]
    talk.ends(600.0)
    assert talk.asks(Ask.WATCH)["resourceVersion"] == "12"


def test_a_server_that_does_not_stream_lists_is_asked_for_pages(talk: Talk) -> None:
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(422, orjson.dumps(status(422, "sendInitialEvents is forbidden")))
    talk.ends()
    assert talk.asks(Ask.PAGE) == {
        "labelSelector": "!service.kubernetes.io/service-proxy-name",
        "fieldSelector": "spec.clusterIP!=None",
        "limit": "100",
    }
    talk.answer(200, page(10, service("web", 7), more="next"))
    talk.ends()
    assert not talk.told()
    assert talk.asks(Ask.PAGE)["continue"] == "next"
    talk.answer(200, page(10, service("shop", 5)))
    talk.ends()
    assert talk.names() == ["=shop,web"]
    assert talk.asks(Ask.WATCH)["resourceVersion"] == "10"


def test_a_field_selector_that_the_server_does_not_know_is_left_out(talk: Talk) -> None:
    refused = orjson.dumps(status(400, "field label not supported: spec.clusterIP"))
    for ask in (Ask.STREAMED_LIST, Ask.PAGE):
        assert "fieldSelector" in talk.asks(ask)
        talk.answer(400, refused)
        talk.ends()
    assert "fieldSelector" not in talk.asks(Ask.PAGE)
    talk.answer(200, page(3))
    talk.ends()
    assert talk.names() == ["="]
    assert "fieldSelector" not in talk.asks(Ask.WATCH)


def test_a_page_that_fails_is_asked_for_again(talk: Talk) -> None:
    talk.cannot_stream()
    talk.asks(Ask.PAGE)
    talk.answer(200, page(10, service("web", 7), more="next"))
    talk.ends()
    talk.asks(Ask.PAGE)
    talk.answer(200, b'{"metadata": {"resou')
    talk.ends(error="the connection was cut")
    talk.waits(0.8)
    assert talk.asks(Ask.PAGE)["continue"] == "next"
    talk.answer(200, page(10, service("shop", 5)))
    talk.ends()
    assert talk.names() == ["=shop,web"]


def test_pages_that_expire_are_had_in_one_piece(talk: Talk) -> None:
    talk.cannot_stream()
    talk.asks(Ask.PAGE)
    talk.answer(200, page(10, service("gone", 7), more="next"))
    talk.ends()
    talk.asks(Ask.PAGE)
    talk.answer(410, orjson.dumps(status(410, "The provided continue parameter is too old")))
    talk.ends()
    talk.waits(0.8)
    query = talk.asks(Ask.PAGE)
    assert "limit" not in query
    assert "continue" not in query
    talk.answer(200, page(20, service("web", 17)))
    talk.ends()
    assert talk.names() == ["=web"]


def test_pages_that_are_too_large_become_smaller(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_PAGE_BYTES", 100)
    talk.cannot_stream()
    talk.asks(Ask.PAGE)
    talk.answer(200, b" " * 101)
    assert talk.reflector.hangs_up
    talk.ends()
    talk.waits(0.8)
    assert talk.asks(Ask.PAGE)["limit"] == "10"


def test_a_watch_goes_on_where_the_last_one_ended(watching: Talk) -> None:
    watching.hears(line("MODIFIED", service("web", 11)))
    watching.hears(line("BOOKMARK", bookmark(15)))
    watching.ends(60.0)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "15"
    assert watching.names() == ["+web"]


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_line_that_is_torn_is_no_event(watching: Talk, cut: int) -> None:
    whole = line("MODIFIED", service("web", 11))
    watching.hears(line("ADDED", service("shop", 10)) + whole[:cut])
    watching.ends(5.0, "the connection was cut")
    assert watching.names() == ["+shop"]
    watching.waits(0.8)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
    watching.answer(200, whole)
    assert watching.names() == ["+web"]


@pytest.mark.parametrize("where", ["in a line", "as an answer"])
def test_gone_is_answered_by_a_list_that_replaces_in_one_event(watching: Talk, where: str) -> None:
    gone = orjson.dumps(status(410, "too old resource version"))
    if where == "in a line":
        watching.hears(line("ERROR", status(410, "too old resource version")))
        assert watching.reflector.hangs_up
    else:
        watching.ends(60.0)
        watching.asks(Ask.WATCH)
        watching.answer(410, gone)
    watching.ends()
    assert not watching.told()
    watching.waits(0.8)
    assert watching.asks(Ask.STREAMED_LIST)
    watching.answer(200, line("ADDED", service("shop", 90)))
    assert not watching.told()
    watching.hears(line("BOOKMARK", bookmark(99, end=True)))
    assert watching.names() == ["=shop"]


def test_too_many_requests_are_answered_by_the_patience_that_is_asked_for(watching: Talk) -> None:
    watching.ends(60.0)
    watching.asks(Ask.WATCH)
    watching.answer(429, orjson.dumps(status(429, "too many requests")), retry_after_s=7.0)
    watching.ends()
    assert watching.reflector.trouble == "429 too many requests"
    watching.waits(7.7)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
    watching.answer(429, orjson.dumps(status(429, "too many requests", retryAfterSeconds=20)))
    watching.ends()
    watching.waits(22.0)
    watching.asks(Ask.WATCH)
    watching.answer(429, b"", retry_after_s=86_400.0)
    watching.ends()
    watching.waits(330.0)


def test_an_error_of_the_server_is_waited_out_ever_longer(watching: Talk) -> None:
    watching.ends(60.0)
    for wait_s in (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0):
        assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
        watching.answer(500, orjson.dumps(status(500, "etcd is not there")))
        watching.ends()
        assert watching.reflector.trouble == "500 etcd is not there"
        watching.waits(wait_s)
    watching.asks(Ask.WATCH)
    watching.answer(200, line("BOOKMARK", bookmark(11)))
    assert not watching.reflector.trouble
    watching.ends(1.0, "the connection was cut")
    watching.waits(0.8)
    assert not watching.told()


def test_a_server_that_is_gone_for_an_hour_is_gone_on_with(watching: Talk) -> None:
    watching.ends(10.0, "the connection was reset")
    began_s, requests = watching.now_s, 0
    while watching.now_s < began_s + 3600:
        asked = watching.reflector.next(watching.now_s)
        if isinstance(asked, float):
            watching.now_s = asked
            continue
        assert asked.ask is Ask.WATCH
        requests += 1
        watching.ends(error="cannot connect: Connection refused")
    assert 110 < requests < 130
    assert not watching.told()
    watching.now_s += 30.0
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
    watching.answer(200, line("MODIFIED", service("web", 11)))
    assert watching.names() == ["+web"]


def test_a_server_that_has_forgotten_meanwhile_is_asked_for_a_list(watching: Talk) -> None:
    watching.ends(10.0, "the connection was reset")
    watching.now_s += 60.0
    watching.asks(Ask.WATCH)
    watching.answer(200, line("ERROR", status(410)))
    watching.ends()
    watching.now_s += 30.0
    watching.asks(Ask.STREAMED_LIST)


def test_silence_makes_it_look_whether_the_server_has_gone_back_in_time(watching: Talk) -> None:
    assert watching.reflector.silence_s == 100.0
    watching.ends(100.0, "nothing came", silent=True)
    assert watching.asks(Ask.PROBE)["limit"] == "1"
    assert watching.reflector.silence_s == 65.0
    watching.answer(200, page(10, service("web", 7), more="next"))
    watching.ends()
    # it was just quiet
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
    watching.answer(200)
    watching.ends(100.0, "nothing came", silent=True)
    watching.asks(Ask.PROBE)
    watching.answer(200, page(4, service("web", 2)))
    watching.ends()
    assert watching.names() == ["!the API server has gone back in time, from version 10 to 4"]
    watching.asks(Ask.STREAMED_LIST)
    watching.answer(200, line("ADDED", service("web", 2)), line("BOOKMARK", bookmark(4, end=True)))
    assert watching.names() == ["=web"]


def test_a_server_that_accepts_and_never_answers_is_given_up(watching: Talk) -> None:
    watching.ends(60.0)
    watching.asks(Ask.WATCH)
    assert watching.reflector.silence_s == 65.0
    watching.ends(65.0, "nothing came for 65 s", silent=True)
    assert watching.reflector.trouble == "nothing came for 65 s"
    watching.waits(0.8)
    watching.asks(Ask.WATCH)


def test_a_list_that_never_ends_is_asked_for_in_pages(talk: Talk) -> None:
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("ADDED", service("web", 7)))
    assert talk.reflector.silence_s == 65.0
    talk.ends(65.0, "nothing came for 65 s", silent=True)
    talk.waits(0.8)
    talk.asks(Ask.PAGE)
    assert not talk.told()


def test_a_list_that_is_cut_is_begun_anew(talk: Talk) -> None:
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("ADDED", service("gone", 7)))
    talk.ends(1.0, "the connection was cut")
    talk.waits(0.8)
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("ADDED", service("web", 8)), line("BOOKMARK", bookmark(9, end=True)))
    assert talk.names() == ["=web"]


def test_lines_that_are_no_events_are_not_believed_and_a_list_helps_in_the_end(watching: Talk) -> None:
    for following in (Ask.WATCH, Ask.WATCH, Ask.STREAMED_LIST):
        watching.hears(b"<html>\n" + line("DELETED", service("web", 11)))
        assert watching.reflector.hangs_up
        watching.ends()
        watching.now_s += 30.0
        watching.asks(following)
        watching.answer(200)
    assert not watching.told()


def test_watches_that_end_at_once_are_not_asked_for_without_a_pause(watching: Talk) -> None:
    watching.ends(0.1)
    for wait_s in (0.8, 1.6, 3.2):
        watching.waits(wait_s)
        watching.asks(Ask.WATCH)
        watching.answer(200)
        watching.ends(0.1)
    assert watching.reflector.trouble == "the server ends watches at once"


def test_one_malformed_object_concerns_that_object_alone(watching: Talk) -> None:
    watching.hears(line("MODIFIED", service("web", 11, ports=[{"port": "80"}])))
    watching.hears(line("ADDED", service("shop", 12)))
    first, second = watching.told()
    assert isinstance(first, Updated)
    assert [str(one) for one in first.object.decoded.problems] == [
        "Service default/web: spec.ports[0].port: must be an integer, not '80'"
    ]
    assert isinstance(second, Updated)
    assert second.object.decoded.value is not None


def test_what_has_no_name_is_passed_over(watching: Talk) -> None:
    watching.hears(line("ADDED", {"metadata": {"name": "Odd\u0000", "resourceVersion": "11"}, "spec": {}}))
    (remark,) = watching.told()
    assert isinstance(remark, LogLine)
    assert "'Odd\\x00'" in remark.text
    watching.ends(60.0)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "11"


def test_a_line_beyond_all_bounds_is_passed_over(watching: Talk) -> None:
    for _ in range(5):
        watching.hears(b"x" * (4 << 20))
    watching.hears(b"\n" + line("ADDED", service("shop", 12)))
    assert watching.names() == ["!an object of more than 16 MiB is passed over", "+shop"]


def test_credentials_that_do_not_do_are_told(watching: Talk) -> None:
    watching.ends(60.0)
    watching.asks(Ask.WATCH)
    watching.answer(401, orjson.dumps(status(401, "Unauthorized")))
    watching.ends()
    assert watching.reflector.unauthorized
    watching.waits(0.8)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"
    assert not watching.reflector.unauthorized


@pytest.mark.parametrize("resource", [NODE, CIDRS])
@pytest.mark.parametrize("code", [403, 404])
def test_what_kpf_can_do_without_is_not_waited_for(resource: Resource, code: int) -> None:
    talk = Talk(resource)
    # a server that has just started knows no roles for some seconds
    for wait_s in (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 600.0, 600.0):
        talk.asks(Ask.STREAMED_LIST)
        talk.answer(code, orjson.dumps(status(code, "no")))
        talk.ends()
        assert talk.reflector.answered
        assert not talk.reflector.listed
        assert talk.reflector.trouble == ("403 no" if code == 403 else "")
        talk.waits(wait_s)
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("BOOKMARK", bookmark(10, end=True)))
    assert talk.reflector.listed


@pytest.mark.parametrize("code", [400, 422])
def test_a_watch_that_another_server_does_not_understand_becomes_a_list(watching: Talk, code: int) -> None:
    watching.ends(60.0)
    watching.asks(Ask.WATCH)
    watching.answer(code, orjson.dumps(status(code, "field label not supported: spec.clusterIP")))
    watching.ends()
    watching.waits(0.8)
    watching.asks(Ask.STREAMED_LIST)
    watching.answer(code, b"")
    watching.ends()
    watching.asks(Ask.PAGE)
    assert not watching.told()


def test_a_page_that_another_server_does_not_understand_is_the_first_again(talk: Talk) -> None:
    talk.cannot_stream()
    talk.asks(Ask.PAGE)
    talk.answer(200, page(10, service("gone", 7), more="next"))
    talk.ends()
    talk.asks(Ask.PAGE)
    talk.answer(400, orjson.dumps(status(400, "continue key is not valid")))
    talk.ends()
    talk.waits(0.8)
    assert "continue" not in talk.asks(Ask.PAGE)
    talk.answer(200, page(20, service("web", 17)))
    talk.ends()
    assert talk.names() == ["=web"]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Service", "metadata": {"resourceVersion": "5"}},
        {"kind": "ServiceList", "metadata": {"resourceVersion": "5"}},
        {"kind": "ServiceList", "metadata": {"resourceVersion": ""}, "items": []},
        {"kind": "ServiceList", "metadata": {}, "items": []},
        {"kind": "ServiceList", "metadata": {"resourceVersion": "5"}, "items": {}},
        {"metadata": {"resourceVersion": "5"}, "items": []},
        "sign in",
    ],
)
def test_what_is_no_list_is_not_taken_for_an_empty_one(talk: Talk, body: object) -> None:
    talk.cannot_stream()
    talk.asks(Ask.PAGE)
    talk.answer(200, orjson.dumps(body))
    talk.ends()
    assert not talk.told()
    assert talk.reflector.trouble == "a list that is none"
    talk.waits(0.8)
    talk.asks(Ask.PAGE)
    talk.answer(200, orjson.dumps({"kind": "ServiceList", "metadata": {"resourceVersion": "5"}, "items": None}))
    talk.ends()
    assert talk.names() == ["="]


def test_an_event_without_a_version_does_not_lose_the_place(watching: Talk) -> None:
    raw = service("web", 11)
    raw["metadata"]["resourceVersion"] = ""
    watching.hears(line("MODIFIED", raw))
    watching.ends(60.0)
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "10"


@pytest.mark.parametrize("how", ["cut", "error"])
def test_a_streamed_list_that_breaks_off_thrice_is_tried_in_pages(talk: Talk, how: str) -> None:
    for _ in range(3):
        talk.asks(Ask.STREAMED_LIST)
        talk.answer(200, line("ADDED", service("web", 7)))
        if how == "error":
            talk.hears(line("ERROR", status(500, "etcd is not there")))
        talk.ends(1.0, "the connection was cut" if how == "cut" else "")
        talk.now_s += 30.0
    talk.asks(Ask.PAGE)
    assert not talk.told()


def test_silence_after_some_events_is_no_trouble(watching: Talk) -> None:
    watching.hears(line("MODIFIED", service("web", 11)))
    watching.ends(160.0, "nothing came for 100 s", silent=True)
    assert not watching.reflector.trouble
    assert watching.asks(Ask.WATCH)["resourceVersion"] == "11"


def test_the_selector_of_this_node_is_never_left_out() -> None:
    talk = Talk(NODE)
    for ask in (Ask.STREAMED_LIST, Ask.PAGE, Ask.PAGE):
        assert "fieldSelector" in talk.asks(ask)
        talk.answer(400, b"<html>")
        talk.ends()
        talk.now_s += 30.0


def test_what_kpf_needs_is_waited_for(talk: Talk) -> None:
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(403, orjson.dumps(status(403, "services is forbidden")))
    talk.ends()
    assert not talk.reflector.answered
    assert talk.reflector.trouble == "403 services is forbidden"
    talk.waits(0.8)


def test_what_was_known_stays_when_it_is_forbidden_later() -> None:
    talk = Talk(NODE)
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("BOOKMARK", bookmark(10, end=True)))
    talk.ends(300.0)
    talk.told()
    talk.asks(Ask.WATCH)
    talk.answer(403, orjson.dumps(status(403, "no")))
    talk.ends()
    assert not talk.told()
    talk.waits(0.8)
    assert talk.asks(Ask.WATCH)["resourceVersion"] == "10"


def test_selectors_of_each_kind() -> None:
    assert [(one.kind, one.label_selector, one.field_selector) for one in (SLICES, NODE, CIDRS)] == [
        (Kind.ENDPOINT_SLICE, "kubernetes.io/service-name,!service.kubernetes.io/headless", ""),
        (Kind.NODE, "", "metadata.name=node-1"),
        (Kind.SERVICE_CIDR, "", ""),
    ]


def test_it_is_known_when_the_server_has_spoken_and_how_often_it_was_asked(talk: Talk) -> None:
    reflector = talk.reflector
    assert (reflector.heard_s, reflector.begun) == (float("-inf"), 0)
    talk.asks(Ask.STREAMED_LIST)
    talk.answer(200, line("BOOKMARK", bookmark(7, end=True)))
    assert (reflector.heard_s, reflector.begun) == (1000.0, 1)
    talk.now_s += 60
    talk.hears(line("BOOKMARK", bookmark(8)))
    assert reflector.heard_s == 1060.0
    talk.ends(100, silent=True)
    # what has it gone back to? That is no watch, and its answer no news of one
    talk.asks(Ask.WATCH)
    talk.answer(503)
    talk.hears(b"busy")
    talk.ends()
    assert (reflector.heard_s, reflector.begun) == (1060.0, 2)
