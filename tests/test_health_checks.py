"""The servers of healthCheckNodePort, at real sockets."""

import asyncio
import contextlib
import errno
import http.client
import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kpf.lab import namespace
from kpf.model.health import HealthCheck
from kpf.model.names import ObjectName
from kpf.observe import health_checks
from kpf.observe import http as served
from kpf.observe.health_checks import HealthCheckServers
from kpf.observe.http import ServerSockets

WEB, SHOP = 30500, 30501
TIMEOUT_S = 5.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def told(self) -> tuple[int, int, bool]:
        body = json.loads(self.body)
        return self.status, body["localEndpoints"], body["serviceProxyHealthy"]


def check(local_endpoints: int, name: str = "web") -> HealthCheck:
    return HealthCheck(ObjectName("default", name), local_endpoints)


async def connect(port: int, host: str = "127.0.0.1") -> Streams:
    return await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT_S)


async def ask_over(streams: Streams, method: str = "GET", target: str = "/", content: bytes = b"") -> Answer:
    reader, writer = streams
    head = f"{method} {target} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        said = io.BytesIO(await asyncio.wait_for(reader.read(), TIMEOUT_S))
    finally:
        writer.close()
        await writer.wait_closed()
    status = int(said.readline().split()[1])
    return Answer(status, http.client.parse_headers(said), said.read())


async def ask(port: int, host: str = "127.0.0.1", method: str = "GET", target: str = "/") -> Answer:
    return await ask_over(await connect(port, host), method, target)


async def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    try:
        _, writer = await connect(port, host)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def has_ended(streams: Streams) -> None:
    """Fails unless the other side ends the connection soon."""
    reader, writer = streams
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


def scene(
    play: Callable[[HealthCheckServers], Coroutine[Any, Any, None]], healthy: Callable[[], bool] = lambda: True
) -> None:
    async def run() -> None:
        servers = HealthCheckServers(healthy, ServerSockets())
        try:
            await asyncio.wait_for(play(servers), 30.0)
        finally:
            await servers.close()

    asyncio.run(run())


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("kpf"), "propagate", True)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, logger="kpf")
    return caplog


@pytest.mark.parametrize(
    ("local_endpoints", "healthy", "status"), [(3, True, 200), (0, True, 503), (3, False, 503), (0, False, 503)]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_it_answers(local_endpoints: int, healthy: bool, status: int, host: str) -> None:
    async def play(servers: HealthCheckServers) -> None:
        assert await servers.update({WEB: check(local_endpoints)}) == ()
        answer = await ask(WEB, host)
        assert answer.status == status
        assert json.loads(answer.body) == {
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": local_endpoints,
            "serviceProxyHealthy": healthy,
        }
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == str(local_endpoints)
        assert answer.headers["Server"] == "kpf"

    scene(play, lambda: healthy)


@pytest.mark.parametrize("target", ["/healthz", "/", "/a/b%20c?d=e", "http://elsewhere/x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PURGE"])
def test_any_path_and_any_method(method: str, target: str) -> None:
    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1)})
        content = b"x" * 3_000_000 if method == "POST" else b""
        answer = await ask_over(await connect(WEB), method, target, content)
        assert answer.status == 200
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "1"
        assert bool(answer.body) == (method != "HEAD")

    scene(play)


def test_the_newest_counts_are_told_and_nobody_is_refused_meanwhile() -> None:
    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(0), SHOP: check(7, "shop")})
        early = await connect(WEB)
        done = asyncio.Event()

        async def ask_on() -> int:
            asked = 0
            while not done.is_set():
                assert (await ask(SHOP)).told == (200, 7, True)
                asked += 1
            return asked

        asking = asyncio.create_task(ask_on())
        for count in range(50):
            others = {port: check(count, "other") for port in range(31000, 31000 + count % 3)}
            await servers.update({WEB: check(count), SHOP: check(7, "shop"), **others})
            assert (await ask(WEB)).told == (200 if count else 503, count, True)
        done.set()
        assert await asking >= 10
        # it was accepted before all of them
        assert (await ask_over(early)).told == (200, 49, True)

    scene(play)


def test_the_health_of_the_proxy_is_asked_each_time() -> None:
    states = iter([True, False, True])

    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(2)})
        assert [(await ask(WEB)).told for _ in range(3)] == [(200, 2, True), (503, 2, False), (200, 2, True)]

    scene(play, lambda: next(states))


def test_ports_come_and_go() -> None:
    async def play(servers: HealthCheckServers) -> None:
        assert await is_refused(WEB)
        await servers.update({WEB: check(1)})
        early = await connect(WEB)
        await ask(WEB)
        await servers.update({SHOP: check(2, "shop")})
        assert [await is_refused(WEB, host) for host in ("127.0.0.1", "::1")] == [True, True]
        assert (await ask(SHOP)).told == (200, 2, True)
        assert (await ask_over(early)).status == 503
        await servers.update({SHOP: check(3, "new")})
        assert json.loads((await ask(SHOP)).body)["service"]["name"] == "new"
        await servers.update({})
        assert await is_refused(SHOP)

    scene(play)


def test_a_taken_port_is_said_once_and_had_as_soon_as_it_is_free(
    monkeypatch: pytest.MonkeyPatch, complaints: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health_checks, "RETRY_S", 0.02)

    async def play(servers: HealthCheckServers) -> None:
        wanted = {WEB: check(1), SHOP: check(2, "shop")}
        with socket.create_server(("127.0.0.1", WEB)):
            (problem,) = await servers.update(wanted)
            assert str(problem) == (
                "Service default/web: spec.healthCheckNodePort: "
                f"cannot serve health checks on port {WEB} yet: 0.0.0.0: Address already in use"
            )
            assert await servers.update(wanted) == ()
            # neither the other family nor the other port waits for it
            assert (await ask(WEB, "::1")).told == (200, 1, True)
            assert (await ask(SHOP)).told == (200, 2, True)
        async with asyncio.timeout(TIMEOUT_S):
            while await is_refused(WEB):
                await asyncio.sleep(0.005)
        assert (await ask(WEB)).told == (200, 1, True)

    scene(play)
    assert [record.levelno for record in complaints.records] == [logging.ERROR, logging.INFO]


def test_an_update_tries_a_taken_port_again_and_a_new_reason_is_said() -> None:
    async def play(servers: HealthCheckServers) -> None:
        one = [ip_address("127.0.0.1")]
        with socket.create_server(("127.0.0.1", WEB)):
            assert len(await servers.update({WEB: check(1)}, one)) == 1
            assert len(await servers.update({WEB: check(1, "other")}, one)) == 1
            (problem,) = await servers.update({WEB: check(1, "other")}, [ip_address("203.0.113.9")])
            assert "203.0.113.9: Cannot assign requested address" in problem.message
            await servers.update({})
            assert len(await servers.update({WEB: check(1)}, one)) == 1
        assert await servers.update({WEB: check(1)}, one) == ()
        assert (await ask(WEB)).told == (200, 1, True)

    scene(play)


def test_it_listens_where_it_is_told_to() -> None:
    async def play(servers: HealthCheckServers) -> None:
        async def refused() -> list[bool]:
            return [await is_refused(WEB, host) for host in ("127.0.0.1", "127.0.0.2", "::1")]

        for addresses, expected in [
            ("127.0.0.2", [True, False, True]),
            ("127.0.0.2 ::1", [True, False, False]),
            ("0.0.0.0 ::", [False, False, False]),
            ("127.0.0.1 127.0.0.1", [False, True, True]),
            ("", [True, True, True]),
        ]:
            assert await servers.update({WEB: check(1)}, map(ip_address, addresses.split())) == ()
            assert await refused() == expected

    scene(play)


def test_a_namespace_with_ipv6_switched_off() -> None:
    async def play(servers: HealthCheckServers) -> None:
        assert await servers.update({WEB: check(1)}) == ()
        assert (await ask(WEB)).told == (200, 1, True)

    with os.fdopen(namespace.create()) as other, namespace.inside(other.fileno()):
        # of the namespace, not of the machine
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        scene(play)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.create_server

    def without(address: tuple[str, int], *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return make(address, family=family, backlog=backlog)

    monkeypatch.setattr(socket, "create_server", without)

    async def play(servers: HealthCheckServers) -> None:
        assert await servers.update({WEB: check(1)}) == ()
        assert (await ask(WEB)).told == (200, 1, True)

    scene(play)


def test_hundreds_cost_their_descriptors_and_give_them_back(figure: Callable[[str], None]) -> None:
    wanted = {port: check(1) for port in range(30000, 30300)}

    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1)})
        await servers.update({})
        before = descriptors()
        started_s = time.perf_counter()
        assert await servers.update(wanted) == ()
        opened_s = time.perf_counter()
        assert descriptors() == before + 600
        assert (await ask(30299, "::1")).told == (200, 1, True)
        again_s = time.perf_counter()
        assert await servers.update(wanted) == ()
        idle_s = time.perf_counter() - again_s
        await servers.update({})
        assert descriptors() == before
        await servers.update(wanted)
        figure(
            f"300 health checks: opened in {(opened_s - started_s) * 1000:.0f} ms, "
            f"an update that changes none {idle_s * 1000:.2f} ms"
        )

    start = descriptors()
    scene(play)
    assert descriptors() == start


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("said", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half", "most"])
def test_a_client_that_does_not_ask_is_sent_away(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CLIENT_TIMEOUT_S", 0.1)

    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1)})
        streams = await connect(WEB)
        streams[1].write(said)
        await has_ended(streams)
        assert (await ask(WEB)).told == (200, 1, True)

    scene(play)


def test_clients_that_do_not_ask_cannot_take_the_place_of_others() -> None:
    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1), SHOP: check(2, "shop")})
        silent = [await connect(port) for port in (WEB, SHOP) * served.MAX_CLIENTS]
        before = descriptors()
        assert (await ask(WEB)).told == (200, 1, True)
        assert (await ask(SHOP, "::1")).told == (200, 2, True)
        for one in silent[: served.MAX_CLIENTS]:
            await has_ended(one)
        assert descriptors() <= before - served.MAX_CLIENTS
        # the newest may still ask
        assert (await ask_over(silent[-1])).told == (200, 2, True)
        for _, writer in silent:
            writer.close()

    start = descriptors()
    scene(play)
    assert descriptors() == start


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    ],
    ids=["TLS", "long path", "long header", "many headers", "bad length"],
)
def test_what_is_no_request_is_answered_at_most_and_not_logged(
    said: bytes, complaints: pytest.LogCaptureFixture
) -> None:
    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1)})
        reader, writer = await connect(WEB)
        writer.write(said)
        try:
            answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        except ConnectionResetError:
            answer = b""
        writer.close()
        assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        assert (await ask(WEB)).told == (200, 1, True)

    scene(play)
    assert complaints.records == []


def test_a_defect_of_ours_is_answered_and_logged(complaints: pytest.LogCaptureFixture) -> None:
    async def play(servers: HealthCheckServers) -> None:
        await servers.update({WEB: check(1)})
        assert (await ask(WEB)).status == 500

    scene(play, lambda: bool(1 // 0))
    (record,) = complaints.records
    assert record.exc_info


def test_closing_ends_listeners_and_clients_and_stops_trying() -> None:
    async def run() -> None:
        servers = HealthCheckServers(lambda: True, ServerSockets())
        with socket.create_server(("127.0.0.1", SHOP)):
            await servers.update({WEB: check(1), SHOP: check(1, "shop")})
            silent = await connect(WEB)
            await ask(WEB)
            await servers.close()
            await has_ended(silent)
            assert await is_refused(WEB)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    start = descriptors()
    asyncio.run(run())
    assert descriptors() == start


def test_closing_what_has_never_listened() -> None:
    asyncio.run(_close_at_once())


async def _close_at_once() -> None:
    await HealthCheckServers(lambda: True, ServerSockets()).close()
