"""The server at metricsBindAddress: what it answers, whoever asks, and that one scrape is rendered for all who ask."""

import asyncio
import gzip
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import psutil
import pytest
from aiohttp import ClientError, ClientSession

from kpf.observe import http, metrics_server
from kpf.observe.families import Family, gauge, gauges
from kpf.observe.http import Servers, ServerSockets
from kpf.observe.metrics_server import Form, Scrapes, form_of, metrics_handler

T = TypeVar("T")

PLAIN = Form(is_open_metrics=False, is_gzip=False)
PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


class Gathering:
    """Counts, and takes until `go_on` is set; `series` of each scrape, each with so many bytes more."""

    def __init__(self, series: int = 1, more: int = 0) -> None:
        self.count, self.series, self.more, self.go_on = 0, series, "a" * more, asyncio.Event()
        self.go_on.set()

    async def families(self) -> Iterable[Family]:
        self.count += 1
        await self.go_on.wait()
        return [
            gauge("scrape", "Which one.", self.count),
            gauges("many", "So many.", (({"number": f"{number}{self.more}"}, 1) for number in range(self.series))),
        ]


async def text(scrapes: Scrapes, form: Form = PLAIN) -> bytes:
    return b"".join(await scrapes.pieces(form))


async def served(gathering: Gathering, play: Callable[[int], Awaitable[T]]) -> T:
    servers = Servers(ServerSockets())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    assert await servers.serve_tcp("127.0.0.1", port, metrics_handler(Scrapes(gathering.families))) == ""
    try:
        async with asyncio.timeout(60):
            return await play(port)
    finally:
        await servers.close()


async def ask(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    """Status, type and body, as it came."""
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        ClientSession(auto_decompress=False, skip_auto_headers=("Accept", "Accept-Encoding")) as session,
        session.request(method, url, headers=headers) as answer,
    ):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        return answer.status, answer.headers["Content-Type"], await answer.read()


def test_it_answers_as_kube_proxy_does() -> None:
    async def play(port: int) -> None:
        assert await ask(port, "/healthz") == (200, "text/plain; charset=utf-8", b"ok")
        assert await ask(port, "/proxyMode") == (200, "text/plain; charset=utf-8", b"userspace")
        for path in ("/", "/livez", "/metrics/", "//metrics", "/metrics%00"):
            assert (await ask(port, path))[0] == 404
        status, kind, body = await ask(port)
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert body.startswith(b"# HELP scrape Which one.\n# TYPE scrape gauge\nscrape 1.0\n")

    asyncio.run(served(Gathering(), play))


def test_open_metrics_and_gzip_are_for_those_who_ask() -> None:
    async def play(port: int) -> None:
        _, kind, body = await ask(port, Accept=PROMETHEUS)
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert body.endswith(b"\n# EOF\n")
        _, _, packed = await ask(port, **{"Accept": PROMETHEUS, "Accept-Encoding": "deflate, gzip"})
        assert gzip.decompress(packed).replace(b"scrape 2.0", b"scrape 1.0") == body

    asyncio.run(served(Gathering(1000), play))
    assert form_of("", "") == PLAIN
    assert form_of("text/plain", "identity;q=1, *;q=0") == PLAIN


def test_those_who_ask_meanwhile_get_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        gathering = Gathering()
        scrapes = Scrapes(gathering.families)
        gathering.go_on.clear()
        asking = [asyncio.create_task(scrapes.pieces(PLAIN)) for _ in range(20)]
        other = asyncio.create_task(text(scrapes, PLAIN._replace(is_gzip=True)))
        while not gathering.count:
            await asyncio.sleep(0)
        # who leaves takes nothing from the others
        asking.pop(0).cancel()
        await asyncio.sleep(0)
        # the other form has to wait for its turn
        assert gathering.count == 1
        gathering.go_on.set()
        for limit in ("KEPT_TIMES", "KEPT_LIMIT_S"):
            monkeypatch.setattr(metrics_server, limit, 1e9)
        assert len({id(pieces) for pieces in await asyncio.gather(*asking)}) == 1
        assert b"scrape 2.0" in gzip.decompress(await other)
        # and those who ask soon after
        assert b"scrape 1.0" in await text(scrapes)

    asyncio.run(play())


@pytest.mark.parametrize("limit", ["KEPT_TIMES", "KEPT_LIMIT_S"])
def test_a_scrape_is_not_kept_for_long(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, limit, 0)

    async def play() -> None:
        scrapes = Scrapes(Gathering().families)
        assert b"scrape 1.0" in await text(scrapes)
        await asyncio.sleep(0.01)
        assert b"scrape 2.0" in await text(scrapes)

    asyncio.run(play())


def test_others_have_their_turns_while_a_scrape_is_rendered() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def play() -> None:
        scrapes = Scrapes(Gathering(20_000).families)
        # imports take turns, too
        await text(scrapes, PLAIN._replace(is_gzip=True))
        busy = asyncio.create_task(others())
        await text(scrapes)
        busy.cancel()

    asyncio.run(play())
    assert turns >= 20_000 // 100


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_nothing_but_get_and_head_is_answered(method: str) -> None:
    gathering = Gathering()
    assert asyncio.run(served(gathering, lambda port: ask(port, method=method)))[0] == 405
    assert gathering.count == 0


def test_who_asks_for_the_head_costs_no_scrape() -> None:
    gathering = Gathering()
    status, kind, body = asyncio.run(served(gathering, lambda port: ask(port, method="HEAD")))
    assert (status, kind, body) == (200, "text/plain; version=0.0.4; charset=utf-8", b"")
    assert gathering.count == 0


STRANGERS = {
    "nothing": b"",
    "half a request": b"GET /metrics HTTP/1.1\r\nHost:",
    "no HTTP": bytes(range(256)) * 16,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a large header": b"GET /metrics HTTP/1.1\r\nHost: kpf\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /metrics HTTP/1.1\r\nHost: kpf\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    "a body": b"POST /metrics HTTP/1.1\r\nHost: kpf\r\nContent-Length: 1000000000\r\n\r\n" + b"a" * 1_000_000,
    "one who does not read": b"GET /metrics HTTP/1.1\r\nHost: kpf\r\n\r\n",
    "one who asks again and again": b"GET /metrics HTTP/1.1\r\nHost: kpf\r\n\r\n" * 1000,
}


async def served_all_the_same(port: int) -> None:
    """On a slow machine the time that a connection has may be over before its answer."""
    while True:
        with suppress(ClientError):
            assert (await ask(port, "/healthz"))[2] == b"ok"
            return


def accepted(port: int) -> int:
    """Connections that the server has not let go."""
    return sum(one.laddr.port == port and bool(one.raddr) for one in psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS.keys())
def test_strangers_are_let_go_and_others_are_served(
    said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "CLIENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(logging.getLogger("kpf"), "propagate", True)

    async def play(port: int) -> None:
        with socket.socket() as strange:
            # what is said to it does not fit
            strange.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            strange.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(strange, ("127.0.0.1", port))
            talking = asyncio.create_task(loop.sock_sendall(strange, said))
            # accepted after it
            await served_all_the_same(port)
            while accepted(port):
                await asyncio.sleep(0.01)
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
        await served_all_the_same(port)

    # 10 MB: more than the kernel keeps for one who does not read
    asyncio.run(served(Gathering(2_000, 5_000), play))
    assert [record.getMessage() for record in caplog.records] == []
