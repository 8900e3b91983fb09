"""The test API server where it behaves: lists, watches, events, load. The official client judges its shapes."""

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from kubernetes import client, config, watch

from kpf.lab.machine import wait_until
from tests.apiserver import ApiServer
from tests.apiserver.asking import Asker
from tests.apiserver.objects import endpoint_slice, many, node, service, service_cidr

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
STREAMED = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
WEB = service("web", "10.96.0.1")


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    """Empty, and as it was at first."""
    shared.lift()
    shared.set_tokens(shared.token)
    shared.settings(streaming_list=True, bookmark_interval_s=60.0)
    for kind in ("Service", "EndpointSlice", "Node", "ServiceCIDR"):
        for one in shared.truth(kind):
            shared.delete(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"])
    return shared


@pytest.fixture
def asker(server: ApiServer) -> Asker:
    return Asker(server, token=server.token)


def _names(body: Any) -> list[str]:
    return [one["metadata"]["name"] for one in body["items"]]


def _labelled(name: str, address: str, **labels: str) -> dict[str, Any]:
    made = service(name, address)
    return {**made, "metadata": {**made["metadata"], "labels": labels}}


# ---- the judge


def test_the_official_client_lists_pages_and_watches(server: ApiServer, tmp_path: Path) -> None:
    server.put_all([*many(5, 2), node("node-1", "192.0.2.1"), service_cidr("kubernetes", "10.96.0.0/12")])
    with config.new_client_from_config(str(server.kubeconfig(tmp_path / "config", token=server.token))) as api:
        core, discovery = client.CoreV1Api(api), client.DiscoveryV1Api(api)
        first = core.list_service_for_all_namespaces(limit=3)
        rest = core.list_service_for_all_namespaces(limit=3, _continue=first.metadata._continue)
        names = [one.metadata.name for one in (*first.items, *rest.items)]
        assert names == [f"service-{number}" for number in range(5)]
        assert (first.metadata.remaining_item_count, rest.metadata._continue) == (2, None)
        assert discovery.list_endpoint_slice_for_all_namespaces().items[0].endpoints[1].addresses == ["10.128.0.1"]
        assert core.list_node().items[0].status.addresses[0].address == "192.0.2.1"
        assert client.NetworkingV1Api(api).list_service_cidr().items[0].spec.cidrs == ["10.96.0.0/12"]
        server.delete("EndpointSlice", "default", "service-0-1")
        listed = discovery.list_endpoint_slice_for_all_namespaces
        events = watch.Watch().stream(listed, resource_version=first.metadata.resource_version, timeout_seconds=1)
        seen = [(event["type"], event["object"].metadata.name) for event in events]
    assert seen == [("DELETED", "service-0-1")]


# ---- lists


def test_items_are_bare_and_watched_objects_are_not(server: ApiServer, asker: Asker) -> None:
    version = server.put(WEB)
    body = asker.list("services")
    assert (body["kind"], body["apiVersion"], body["metadata"]) == (
        "ServiceList",
        "v1",
        {"resourceVersion": str(version)},
    )
    assert not body["items"][0].keys() & {"kind", "apiVersion"}
    with asker.watch("services") as watching:
        what, obj = watching.event()
    assert what == "ADDED"
    assert obj == server.truth("Service")[0]
    assert obj["metadata"].keys() == {"name", "namespace", "uid", "creationTimestamp", "resourceVersion"}


def test_a_page_shows_what_was_when_the_first_was_asked_for(server: ApiServer, asker: Asker) -> None:
    server.put_all([service("a", "10.96.0.1"), service("b", "10.96.0.2"), service("c", "10.96.0.3")])
    first = asker.list("services", limit=1)
    server.delete("Service", "default", "b")
    server.put(service("d", "10.96.0.4"))
    token, version = first["metadata"]["continue"], first["metadata"]["resourceVersion"]
    rest = asker.list("services", **{"continue": token})
    assert (_names(rest), rest["metadata"]) == (["b", "c"], {"resourceVersion": version})
    server.expire()
    expired = asker.list("services", **{"continue": token})
    assert (expired["code"], expired["reason"]) == (410, "Expired")
    assert _names(asker.list("services", **{"continue": expired["metadata"]["continue"]})) == ["c", "d"]
    assert asker.list("services", **{"continue": "nonsense"})["code"] == 400


def test_which_version_a_list_shows(server: ApiServer, asker: Asker) -> None:
    old = server.put(WEB)
    new = server.put(service("db", "10.96.0.2"))
    exact = {"resourceVersion": old, "resourceVersionMatch": "Exact"}
    assert _names(asker.list("services", **exact)) == ["web"]
    assert _names(asker.list("services", resourceVersion=old, limit=5)) == ["web"]
    assert _names(asker.list("services", resourceVersion=old)) == ["db", "web"]
    # the watch cache has no pages
    assert _names(asker.list("services", resourceVersion=0, limit=1)) == ["db", "web"]
    large = asker.list("services", resourceVersion=new + 1)
    assert (large["code"], large["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
    server.expire()
    assert asker.list("services", **exact)["code"] == 410


def test_large_lists_are_compressed_for_who_takes_it(server: ApiServer) -> None:
    server.put_all(many(200, 10))
    taker = Asker(server, token=server.token, headers={"Accept-Encoding": "gzip, deflate"})
    with taker.get("/apis/discovery.k8s.io/v1/endpointslices") as large, taker.get("/api/v1/nodes") as small:
        assert (large.response.getheader("Content-Encoding"), small.response.getheader("Content-Encoding")) == (
            "gzip",
            None,
        )
        assert len(orjson.loads(gzip.decompress(large.response.read()))["items"]) == 200


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"labelSelector": PROXY_NAME}, ["other"]),
        ({"labelSelector": f"!{PROXY_NAME}"}, ["headless", "web"]),
        ({"labelSelector": f"!{PROXY_NAME},tier!=front"}, ["headless"]),
        ({"labelSelector": "tier=front"}, ["web"]),
        ({"labelSelector": "tier==front"}, ["web"]),
        ({"fieldSelector": "spec.clusterIP!=None"}, ["other", "web"]),
        ({"fieldSelector": "spec.type=ClusterIP,metadata.name=web"}, ["web"]),
        ({"fieldSelector": "metadata.namespace!=default"}, []),
    ],
)
def test_selectors(server: ApiServer, asker: Asker, query: dict[str, str], names: list[str]) -> None:
    other = _labelled("other", "10.96.0.2", **{PROXY_NAME: "other"})
    server.put_all([_labelled("web", "10.96.0.1", tier="front"), other, service("headless", "None")])
    assert _names(asker.list("services", **query)) == names


@pytest.mark.parametrize(
    ("resource", "query", "code", "message"),
    [
        ("services", {"fieldSelector": "spec.x=1"}, 400, "field label not supported: spec.x"),
        ("endpointslices", {"fieldSelector": "spec.x=1"}, 400, '"spec.x" is not a known field selector: only'),
        ("services", {"labelSelector": "a b"}, 400, "unable to parse requirement: a b"),
        ("services", {"limit": "x"}, 400, 'limit: Invalid value: "x"'),
        ("services", {"resourceVersionMatch": "Exact"}, 422, "forbidden unless resourceVersion is provided"),
        (
            "services",
            {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
            422,
            'forbidden for resourceVersion "0"',
        ),
        ("services", {"sendInitialEvents": "true"}, 422, "sendInitialEvents is forbidden for list"),
        ("services", {"watch": "1", "sendInitialEvents": "true"}, 422, "requires setting resourceVersionMatch"),
        ("services", {"watch": "1", **STREAMED, "allowWatchBookmarks": "0"}, 422, "requires allowWatchBookmarks"),
        ("services", {"watch": "1", "resourceVersionMatch": "Exact"}, 422, "unless sendInitialEvents is provided"),
    ],
)
def test_what_is_not_allowed(asker: Asker, resource: str, query: dict[str, str], code: int, message: str) -> None:
    status = asker.list(resource, **query)
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code)
    assert status["reason"] == {400: "BadRequest", 422: "Invalid"}[code]
    assert message in status["message"]


# ---- watches


def test_a_watch_goes_on_where_it_is_told_to(server: ApiServer, asker: Asker) -> None:
    version = server.put(WEB)
    server.put(endpoint_slice("web", ["10.0.0.1"]))
    server.put(service("web", "10.96.0.9"))
    with asker.watch("services", resourceVersion=version) as watching:
        assert watching.names(1) == ["MODIFIED web"]
        deleted = server.delete("Service", "default", "web")
        what, obj = watching.event()
    assert (what, obj["spec"]["clusterIP"]) == ("DELETED", "10.96.0.9")
    assert obj["metadata"]["resourceVersion"] == str(deleted)


def test_a_selector_turns_changes_into_arrivals_and_departures(server: ApiServer, asker: Asker) -> None:
    with asker.watch("services", labelSelector=f"!{PROXY_NAME}") as watching:
        server.put_all([WEB, _labelled("web", "10.96.0.1", **{PROXY_NAME: "x"}), WEB, WEB])
        assert watching.names(4) == ["ADDED web", "DELETED web", "ADDED web", "MODIFIED web"]


def test_a_streaming_list_tells_its_end(server: ApiServer, asker: Asker) -> None:
    version = server.put_all([service("b", "10.96.0.1"), service("a", "10.96.0.2")])
    with asker.watch("services", **STREAMED) as watching:
        assert watching.names(2) == ["ADDED a", "ADDED b"]
        what, mark = watching.event()
        server.put(WEB)
        assert watching.names(1) == ["ADDED web"]
    assert (what, mark["kind"], mark["apiVersion"]) == ("BOOKMARK", "Service", "v1")
    assert mark["metadata"] == {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}


def test_without_streaming_lists_it_says_so(server: ApiServer, asker: Asker) -> None:
    server.settings(streaming_list=False)
    with asker.watch("services", **STREAMED) as answer:
        status = answer.json()
    assert (answer.status, status["reason"]) == (422, "Invalid")
    assert status["details"]["causes"][0]["field"] == "sendInitialEvents"


def test_bookmarks_come_at_their_interval_to_who_wants_them(server: ApiServer, asker: Asker) -> None:
    with asker.watch("nodes", allowWatchBookmarks="true") as wants, asker.watch("nodes") as wants_none:
        version = server.put(WEB)
        server.settings(bookmark_interval_s=0.05)
        assert wants.names(2) == [f"BOOKMARK {version}"] * 2
        server.put(node("node-1"))
        assert wants_none.names(1) == ["ADDED node-1"]


def test_a_version_too_old_is_told_within_the_stream(server: ApiServer, asker: Asker) -> None:
    version = server.put(WEB)
    server.expire()
    with asker.watch("services", resourceVersion=version) as watching:
        what, status = watching.event()
        assert (watching.status, what, status["code"], status["reason"]) == (200, "ERROR", 410, "Expired")
        assert status["message"] == f"too old resource version: {version} ({version + 1})"
        assert watching.line() == b""


def test_history_is_bounded() -> None:
    with ApiServer(history=3, tls=False) as server:
        versions = [server.put(service(f"s{number}", "10.96.0.1")) for number in range(5)]
        asker = Asker(server, token=server.token)
        with asker.watch("services", resourceVersion=versions[0]) as watching:
            assert watching.event()[0] == "ERROR"
        with asker.watch("services", resourceVersion=versions[1]) as watching:
            assert watching.names(3) == ["ADDED s2", "ADDED s3", "ADDED s4"]


def test_a_version_of_the_future_is_met_with_silence(server: ApiServer, asker: Asker) -> None:
    query = {"resourceVersion": server.version() + 100, "timeoutSeconds": 1, "allowWatchBookmarks": "true"}
    with asker.watch("services", **query) as watching:
        server.put(WEB)
        server.bookmark()
        start_s = time.monotonic()
        assert watching.line() == b""
        assert time.monotonic() - start_s > 0.5


# ---- events, load


def test_events_are_kept_and_other_things_are_not_found(server: ApiServer, asker: Asker) -> None:
    event = {"metadata": {"name": "web.1", "namespace": "default"}, "reason": "Odd"}
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    with asker.send("POST", path, orjson.dumps(event)) as answer:
        assert answer.status == 201
    assert server.events() == [event]
    with asker.get("/api/v1/pods") as answer:
        assert (answer.status, answer.json()["reason"]) == (404, "NotFound")
    asked = server.requests("events", "create")
    assert [(one.method, one.path, one.namespace, one.status) for one in asked] == [("POST", path, "default", 201)]


def test_the_driver_records_what_it_sent_and_when(server: ApiServer, asker: Asker) -> None:
    version = server.put_all(many(3, 2))
    with asker.watch("endpointslices", resourceVersion=version) as watching:
        start_s = time.monotonic()
        server.drive(0.2, 50, ["swap", "flip"])
        objects = [watching.event()[1] for _ in range(10)]
    wait_until(lambda: not server.is_driving())
    sent = server.sent()
    assert [one.name for one in sent] == [f"default/{one['metadata']['name']}" for one in objects]
    assert [one.change for one in sent] == ["swap", "flip"] * 5
    assert (sent[0].went, sent[0].came) == (["10.128.0.0"], ["10.192.0.0"])
    down, up = objects[1], objects[3]
    assert down["metadata"]["name"] == up["metadata"]["name"]
    assert [one["conditions"]["ready"] for one in (*down["endpoints"], *up["endpoints"])] == [False, False, True, True]
    assert (sent[1].came, sent[3].went, sent[1].went) == ([], [], sent[3].came)
    times_s = [one.time_s - start_s for one in sent]
    assert times_s == sorted(times_s)
    assert 0 < times_s[0] < 0.1 < times_s[-1]
