"""Serves `/metrics`, `/healthz` and `/proxyMode`, as kube-proxy does at its `metricsBindAddress`.

However many ask, and however slowly they read: one scrape is rendered at a time, in turns with everything else on the
loop, and those who ask meanwhile, or soon after, get the same bytes.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from aiohttp import web

from kpf.observe.families import Family
from kpf.observe.http import Handler, response
from kpf.waiting import imported

# of the time that it took to render a scrape: for so long it is given to others, but not when it has become old
KEPT_TIMES, KEPT_LIMIT_S = 3, 5.0
METHODS = ("GET", "HEAD")
PIECE_BYTES = 64 << 10
# zlib's: fastest, and with a header as gzip has it
_LEVEL, _GZIP = 1, 31

_OPEN_METRICS = "application/openmetrics-text"
_TYPES = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8",
}


Pieces = Sequence[bytes]
"""The bytes of a scrape, never in one piece: to copy megabytes takes milliseconds."""


class Form(NamedTuple):
    """What a client takes."""

    is_open_metrics: bool
    is_gzip: bool


def form_of(accept: str, accept_encoding: str) -> Form:
    """By the headers of these names. What is not asked for by name is plain."""
    codings = [coding.strip().lower() for coding in accept_encoding.split(",")]
    return Form(_OPEN_METRICS in accept.lower(), "gzip" in codings)


class Scrapes:
    """`gather` makes the families, in turns with everything else."""

    def __init__(self, gather: Callable[[], Awaitable[Iterable[Family]]]) -> None:
        self._gather = gather
        self._turn = asyncio.Lock()
        self._under_way: dict[Form, asyncio.Task[Pieces]] = {}
        self._kept: dict[Form, Pieces] = {}

    async def pieces(self, form: Form) -> Pieces:
        """A new scrape, or one that somebody else has just asked for."""
        if form in self._kept:
            return self._kept[form]
        task = self._under_way.get(form)
        if task is None:
            task = self._under_way[form] = asyncio.create_task(self._make(form))
            task.add_done_callback(lambda _: self._under_way.pop(form))
        # who asks may leave; the others wait for the same
        return await asyncio.shield(task)

    async def _make(self, form: Form) -> Pieces:
        async with self._turn:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            # 40 ms that a node without Prometheus need not wait for
            await imported("kpf.observe.exposition")
            from kpf.observe.exposition import exposition

            text = exposition(await self._gather(), is_open_metrics=form.is_open_metrics)
            made = []
            for piece in _joined(_compressed(text) if form.is_gzip else text):
                if piece:
                    made.append(piece)
                await asyncio.sleep(0)
            self._kept[form] = made
            loop.call_later(min(KEPT_TIMES * (loop.time() - began_s), KEPT_LIMIT_S), self._kept.pop, form, None)
            return made


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of `PIECE_BYTES` at least, but for the last; b"" while there is not so much."""
    waiting, size = list[bytes](), 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size < PIECE_BYTES:
            yield b""
        else:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packing = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield packing.compress(piece)
    yield packing.flush()


def metrics_handler(scrapes: Scrapes) -> Handler:
    """Answers GET and HEAD at the three paths."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in METHODS:
            return response(405, "only GET and HEAD are answered", {"Allow": ", ".join(METHODS)})
        match request.path:
            case "/metrics":
                form = form_of(request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", ""))
                return await _send(request, form, scrapes)
            case "/healthz":
                return response(200, "ok")
            case "/proxyMode":
                return response(200, "userspace")
        return response(404, "there is no such document")

    return handle


async def _send(request: web.BaseRequest, form: Form, scrapes: Scrapes) -> web.StreamResponse:
    """A piece at a time: what a slow client has not read yet is nowhere twice."""
    answer = web.StreamResponse(
        headers={"Server": "kpf", "X-Content-Type-Options": "nosniff", "Vary": "Accept, Accept-Encoding"}
    )
    answer.headers["Content-Type"] = _TYPES[form.is_open_metrics]
    answer.force_close()
    if form.is_gzip:
        answer.headers["Content-Encoding"] = "gzip"
    pieces: Pieces = () if request.method == "HEAD" else await scrapes.pieces(form)
    if request.method != "HEAD":
        answer.headers["Content-Length"] = str(sum(map(len, pieces)))
    # whoever has left, or was made to, gets no more
    with suppress(ConnectionError):
        await answer.prepare(request)
        for piece in pieces:
            await answer.write(piece)
    return answer
