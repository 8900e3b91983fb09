"""The test API server where it misbehaves, as a client sees it."""

import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from tests.apiserver import ApiServer
from tests.apiserver.asking import Asker
from tests.apiserver.faults import Ending
from tests.apiserver.objects import node, service

WEB = service("web", "10.96.0.1")
PATIENCE_S = 0.2


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    # the ssl module tells a reset as an end
    with ApiServer(tls=False) as server:
        server.put(WEB)
        yield server


@pytest.fixture
def server(shared: ApiServer) -> Iterator[ApiServer]:
    yield shared
    shared.lift()
    shared.listen()


@pytest.fixture
def asker(server: ApiServer) -> Asker:
    return Asker(server, token=server.token)


@pytest.fixture
def hasty(server: ApiServer) -> Asker:
    return Asker(server, token=server.token, limit_s=PATIENCE_S)


def test_it_refuses_and_keeps_what_is_open(server: ApiServer, asker: Asker) -> None:
    with asker.watch("services") as watching:
        server.refuse()
        with pytest.raises(ConnectionRefusedError):
            asker.list("services")
        server.put(WEB)
        assert watching.names(2) == ["ADDED web", "MODIFIED web"]
    server.listen()
    assert asker.list("services")["kind"] == "ServiceList"


def test_it_dies_and_comes_back_with_what_it_knew(server: ApiServer, asker: Asker) -> None:
    with asker.watch("services") as watching:
        watching.event()
        server.die()
        with pytest.raises(ConnectionResetError):
            watching.line()
        with pytest.raises(ConnectionRefusedError):
            asker.list("services")
    server.listen()
    assert len(asker.list("services")["items"]) == 1


def test_a_frozen_one_takes_connections_and_answers_nobody(server: ApiServer, hasty: Asker, asker: Asker) -> None:
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            hasty.list("services")
    finally:
        server.thaw()
    assert asker.list("services")["kind"] == "ServiceList"


def test_silence_is_for_those_it_is_meant_for(server: ApiServer, hasty: Asker) -> None:
    server.silence("services", "list")
    with pytest.raises(TimeoutError):
        hasty.list("services")
    assert hasty.list("nodes")["kind"] == "NodeList"
    with hasty.watch("services") as watching:
        watching.event()
    server.lift("silence")
    assert hasty.list("services")["kind"] == "ServiceList"


def test_stalled_watches_get_everything_afterwards(server: ApiServer, hasty: Asker) -> None:
    with hasty.watch("services") as old:
        old.event()
        server.stall("services")
        with hasty.watch("services", timeoutSeconds=1) as new, hasty.watch("services") as quiet:
            server.put(WEB)
            assert (old.status, new.status) == (200, 200)
            with pytest.raises(TimeoutError):
                quiet.line()
            server.lift()
            assert old.names(1) == ["MODIFIED web"]
            assert new.names(2) == ["ADDED web", "MODIFIED web"]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_the_next_requests_are_answered_wrongly(server: ApiServer, asker: Asker, code: int) -> None:
    server.answer(code, times=2, resource="services", retry_after_s=7)
    with asker.watch("services") as answer:
        status = answer.json()
    assert (answer.status, answer.response.getheader("Retry-After")) == (code, "7")
    assert (status["code"], status["details"]["retryAfterSeconds"]) == (code, 7)
    assert asker.list("nodes")["kind"] == "NodeList"
    assert asker.list("services")["code"] == code
    assert asker.list("services")["kind"] == "ServiceList"


def test_a_proxy_in_between_answers_something_else(server: ApiServer, asker: Asker) -> None:
    server.answer(200, body="<html>sign in</html>")
    with asker.get("/api/v1/services") as answer:
        assert answer.response.read() == b"<html>sign in</html>"


def test_forbidden_and_removed_resources(server: ApiServer, asker: Asker) -> None:
    since_s = time.monotonic()
    server.forbid("services", "watch")
    server.remove("servicecidrs")
    with asker.watch("services") as answer:
        assert (answer.status, answer.json()["reason"]) == (403, "Forbidden")
    assert asker.list("services")["kind"] == "ServiceList"
    assert asker.list("servicecidrs")["reason"] == "NotFound"
    asked = server.requests(since_s=since_s)
    assert [(one.resource, one.verb, one.status) for one in asked] == [
        ("services", "watch", 403),
        ("services", "list", 200),
        ("servicecidrs", "list", 404),
    ]


@pytest.mark.parametrize(("ending", "error"), [("close", http.client.IncompleteRead), ("reset", ConnectionResetError)])
def test_open_watches_are_cut_within_a_line(
    server: ApiServer, asker: Asker, ending: Ending, error: type[Exception]
) -> None:
    with asker.watch("services") as watching, asker.watch("nodes") as other:
        watching.event()
        assert server.cut_watches("services", ending=ending) == 1
        with pytest.raises(error) as caught:
            watching.response.read()
        if isinstance(caught.value, http.client.IncompleteRead):
            assert caught.value.partial == b'{"type":"MODIFIED","object":{"kind":"'
        server.put(node("node-1"))
        assert other.names(1) == ["ADDED node-1"]


def test_with_tls_a_reset_is_one_too() -> None:
    with ApiServer() as server, Asker(server, token=server.token).watch("services") as watching:
        below = socket.fromfd(watching.response.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        below.settimeout(5.0)
        server.reset()
        with below, pytest.raises(ConnectionResetError):
            # what TLS has sent of its own accord comes first
            list(iter(lambda: below.recv(65536), b""))


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_the_next_answers_are_cut_after_some_bytes(server: ApiServer, asker: Asker, verb: str) -> None:
    server.cut_next(10, resource="services", verb=verb, times=2)
    for _ in range(2):
        with asker.get("/api/v1/services", {"watch": int(verb == "watch")}) as answer:
            with pytest.raises(http.client.IncompleteRead) as caught:
                answer.response.read()
            assert len(caught.value.partial) == 10
    assert asker.list("services")["kind"] == "ServiceList"
    with asker.watch("services") as watching:
        watching.event()


def test_watches_end_in_order_at_once_or_soon(server: ApiServer, asker: Asker) -> None:
    with asker.watch("services") as one, asker.watch("nodes") as other:
        server.wait_for_watches("services", "nodes")
        assert server.end_watches() == 2
        assert one.response.read().endswith(b"}\n")
        other.response.read()
    assert server.watching() == 0
    server.shorten_watches(0.05)
    with asker.watch("services") as watching:
        watching.event()
        assert watching.line() == b""


def test_odd_lines_are_sent_as_they_are(server: ApiServer, asker: Asker) -> None:
    with asker.watch("services") as watching:
        watching.event()
        server.inject("garbage")
        server.inject("x" * 5_000_000, "services")
        server.send_error(500)
        assert watching.line() == b"garbage\n"
        assert len(watching.line()) == 5_000_001
        what, status = watching.event()
        assert (what, status["code"], status["reason"]) == ("ERROR", 500, "InternalError")
        assert watching.line() == b""


def test_it_goes_back_in_time(server: ApiServer, asker: Asker) -> None:
    before, version = server.truth("Service"), server.version()
    server.put(service("late", "10.96.0.2"))
    server.delete("Service", "default", "web")
    with asker.watch("services", resourceVersion=server.version()) as watching:
        server.restore(version)
        with pytest.raises(ConnectionResetError):
            watching.line()
    assert (server.truth("Service"), server.version()) == (before, version)
    assert asker.list("services", resourceVersion=version + 2)["code"] == 504
    assert server.put(WEB) == version + 1
