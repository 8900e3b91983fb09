"""A real API server, as the source takes it: lists, watches, connections that break, history that is forgotten."""

import time
from pathlib import Path

import pytest

from kpf.sources.api import reflector
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
    fill,
    has,
    lists,
)
from tests.api.follower import Follower
from tests.apiserver import ApiServer
from tests.apiserver.faults import Ending
from tests.apiserver.objects import endpoint_slice, node, service


# ---- lists and watches as they should be
def test_all_is_had_by_streaming_lists_in_one_request_each(server: ApiServer, kpf: Follower) -> None:
    assert_truth(server, kpf.snapshots[-1])
    requests = server.requests()
    assert sorted(one.resource for one in requests) == sorted(RESOURCES)
    assert all(one.query["sendInitialEvents"] == "true" and one.verb == "watch" for one in requests)
    assert all(one.user_agent.startswith("kpf/") for one in requests)
    assert not kpf.source.troubles


def test_changes_are_told_as_they_come(server: ApiServer, kpf: Follower) -> None:
    add(server)
    kpf.until(has(LATE))
    server.put(endpoint_slice("late", ["10.0.0.9"]))
    kpf.until(lambda snapshot: LATE in snapshot.slices)
    server.delete("EndpointSlice", "default", "late-1")
    kpf.until(lambda snapshot: LATE not in snapshot.slices)
    server.put(service("web", "10.96.0.1", port=81))
    kpf.until(lambda snapshot: snapshot.services[WEB] != kpf.snapshots[0].services[WEB])
    server.delete("Service", "default", "shop")
    last = kpf.until(lambda snapshot: SHOP not in snapshot.services)
    assert last.touched == {SHOP}
    assert last.services[WEB] is kpf.snapshots[-2].services[WEB]
    assert_truth(server, last)
    assert len(server.requests()) == 4


def test_a_server_without_streaming_lists_is_read_in_pages(
    server: ApiServer, follow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "PAGE_OBJECTS", 2)
    server.settings(streaming_list=False)
    server.put_all(service(f"more-{number}", f"10.96.1.{number}") for number in range(1, 5))
    kpf = follow()
    assert_truth(server, kpf.until())
    pages = server.requests("services", "list")
    assert [(one.query["limit"], "continue" in one.query) for one in pages] == [("2", False), ("2", True), ("2", True)]
    kpf.until_holds(lambda: server.watching("services") == 1)
    add(server)
    kpf.until(has(LATE))
    assert len(server.requests("services", "list")) == 3


def test_a_server_on_ipv6(tmp_path: Path) -> None:
    with ApiServer(host="::1") as server:
        fill(server)
        with Follower(server.kubeconfig(tmp_path / "config", token=server.token)) as kpf:
            assert_truth(server, kpf.until())


def test_nothing_is_known_before_both_are_listed(server: ApiServer, follow: Make) -> None:
    server.silence("endpointslices")
    kpf = follow()
    kpf.until_holds(lambda: len(kpf.reads) >= 3 and server.watching("services") == 1)
    assert kpf.snapshots == []
    assert kpf.source.read() is None
    server.lift()
    assert_truth(server, kpf.until())


def test_a_node_that_the_server_does_not_know(follow: Make) -> None:
    kpf = follow(node_name="elsewhere")
    snapshot = kpf.until()
    message = "Node elsewhere: is not known to the API server: is --hostname-override needed?"
    assert [str(one) for one in snapshot.problems] == [message]
    assert snapshot.node is None
    assert {WEB, SHOP} <= snapshot.services.keys()


# ---- connections
def test_a_bookmark_is_where_the_next_watch_begins(server: ApiServer, kpf: Follower) -> None:
    # a change elsewhere makes the server's version a newer one
    server.put(node("node-3"))
    version, since_s = server.version(), time.monotonic()
    server.bookmark()
    server.end_watches()
    kpf.until_holds(lambda: len(asked(server, since_s)) >= 4)
    assert {one.query["resourceVersion"] for one in asked(server, since_s)} == {str(version)}
    assert_goes_on(server, kpf, since_s)


def test_watches_that_end_go_on(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    assert server.end_watches() == 4
    assert_goes_on(server, kpf, since_s)


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_watches_that_are_cut_in_the_middle_of_a_line_go_on(server: ApiServer, kpf: Follower, ending: Ending) -> None:
    since_s = time.monotonic()
    assert server.cut_watches(ending=ending) == 4
    assert_goes_on(server, kpf, since_s)


def test_connections_that_are_reset(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    assert server.reset() == 4
    assert_goes_on(server, kpf, since_s)


def test_a_list_that_is_cut_is_begun_anew(server: ApiServer, follow: Make) -> None:
    server.cut_next(300, resource="services", times=2)
    kpf = follow()
    assert_truth(server, kpf.until())
    assert len(server.requests("services")) == 3
    assert len(server.requests("endpointslices")) == 1


def test_a_server_that_is_gone_and_comes_back(server: ApiServer, kpf: Follower, messages: Messages) -> None:
    server.die()
    since_s = time.monotonic()
    kpf.until_holds(lambda: kpf.source.troubles == (REFUSED,))
    add(server, "meanwhile")
    server.listen()
    assert_goes_on(server, kpf, since_s)
    kpf.until_holds(lambda: not kpf.source.troubles)
    refused = f"the API server {server.url} does not tell what it has: {REFUSED}"
    assert messages().count(refused) == 1
    assert messages()[-1] == f"the API server {server.url} tells what it has again"


def test_a_server_that_comes_later(server: ApiServer, follow: Make) -> None:
    server.refuse()
    kpf = follow()
    kpf.until_holds(lambda: kpf.source.troubles == (REFUSED,))
    assert kpf.source.read() is None
    server.listen()
    assert_truth(server, kpf.until())


# ---- forgotten history
def test_gone_in_mid_stream_changes_nothing_that_is_still_there(server: ApiServer, kpf: Follower) -> None:
    before, since_s = kpf.snapshots[-1], time.monotonic()
    assert server.send_error(410) == 4
    kpf.until_holds(lambda: sum(map(lists, asked(server, since_s))) == 4)
    add(server)
    after = kpf.until(has(LATE))
    assert after.touched == {LATE}
    assert_nothing_is_ever_missing(kpf)
    for name in (WEB, SHOP):
        assert after.services[name] is before.services[name]
        assert after.slices[name] is before.slices[name]
    assert_truth(server, after)


def test_history_that_was_compacted_meanwhile(server: ApiServer, kpf: Follower) -> None:
    add(server)
    before = kpf.until(has(LATE))
    server.die()
    server.delete("Service", "default", "late")
    server.put(endpoint_slice("shop", ["10.0.0.4"]))
    server.expire()
    server.listen()
    after = kpf.until(lambda snapshot: LATE not in snapshot.services and snapshot.slices[SHOP] != before.slices[SHOP])
    assert_nothing_is_ever_missing(kpf)
    assert after.services[WEB] is before.services[WEB]
    assert after.services[SHOP] is before.services[SHOP]
    assert after.slices[WEB] is before.slices[WEB]
    assert_truth(server, after)


def test_pages_that_expire(server: ApiServer, follow: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PAGE_OBJECTS", 1)
    server.settings(streaming_list=False)
    server.cut_next(10, resource="services", verb="list", times=1)
    kpf = follow()
    server.answer(410, resource="services", verb="list", times=2)
    assert_truth(server, kpf.until())
