"""HTTP of the test API server: who may ask, lists, watches, events; and the faults."""

import asyncio
import gzip
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from tests.apiserver.access import Access
from tests.apiserver.faults import Ending, Fault, Faults, Rule
from tests.apiserver.options import Options, options
from tests.apiserver.requests import Asked, asked_for
from tests.apiserver.resources import BY_PLURAL, EVENTS, Object, Resource
from tests.apiserver.status import ApiError, not_found
from tests.apiserver.store import Page, Store
from tests.apiserver.watches import Watch, Watches, error_line

JSON = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
# as kube-apiserver: smaller answers are not compressed
GZIP_BYTES = 128 * 1024
VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64"}

Sent = Callable[[int, float], None]
"""A change's version, and when (CLOCK_MONOTONIC) its bytes were handed to a socket."""


class Api:
    """Answers requests. `log`, `events`: what it was asked, and given. `sent`: called for every change that is sent."""

    def __init__(self, store: Store, access: Access) -> None:
        self.store, self.access = store, access
        self.faults, self.watches = Faults(), Watches()
        self.streaming_list = True
        self.log: list[Asked] = []
        self.events: list[Object] = []
        self.sent: Sent = lambda _version, _now_s: None
        self._lifted = asyncio.Event()

    def put(self, obj: Object) -> int:
        """Create or replace, and tell the watches; the version that it has now."""
        change = self.store.put(obj)
        self.watches.publish(change)
        return change.version

    def lift(self, fault: Fault | None) -> None:
        """End that kind of misbehaviour, or all; what was held back goes on."""
        self.faults.lift(fault)
        self._lifted.set()
        self._lifted = asyncio.Event()
        for watch in self.watches.of(None):
            watch.wake.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = asked_for(request)
        self.log.append(asked)
        while self.faults.find("silence", asked.resource, asked.verb):
            await self._lifted.wait()
        try:
            if rule := self.faults.take("answer", asked.resource, asked.verb):
                return self._wrong_answer(asked, rule)
            self._admit(request, asked)
            return await self._answer(request, asked)
        except ApiError as error:
            asked.status = error.code
            return refusal(error)

    def _wrong_answer(self, asked: Asked, rule: Rule) -> web.Response:
        asked.status = rule.code
        if rule.body is None:
            return refusal(ApiError(rule.code, f"told to answer {rule.code}", retry_after_s=rule.retry_after_s))
        return web.Response(status=rule.code, text=rule.body)

    def _admit(self, request: web.BaseRequest, asked: Asked) -> None:
        """Raises `ApiError`: 401, 403, 404."""
        user = self.access.user(request)
        forbidden = self.faults.take("forbid", asked.resource, asked.verb)
        if asked.resource and (forbidden or not user):
            raise asked.forbidden(user or "system:anonymous")
        if self.faults.take("absent", asked.resource, asked.verb):
            raise not_found()

    async def _answer(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        asked.status = 200
        if asked.resource == EVENTS.plural:
            return await self._create_event(request, asked)
        if resource := BY_PLURAL.get(asked.resource):
            wanted = options(resource, request.query, streaming_list=self.streaming_list)
            if wanted.watch:
                return await self._watch(request, resource, wanted)
            return await self._list(request, asked, list_body(resource, self.store.page(resource, wanted)))
        if asked.path == "/version":
            return web.json_response(VERSION)
        if asked.path in ("/readyz", "/livez", "/healthz"):
            return web.Response(text="ok")
        raise not_found()

    async def _create_event(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        event = orjson.loads(await request.read())
        asked.status = 201
        self.events.append(event)
        return web.Response(status=201, body=orjson.dumps(event), headers=JSON)

    async def _list(self, request: web.BaseRequest, asked: Asked, body: bytes) -> web.StreamResponse:
        headers = dict(JSON)
        if len(body) > GZIP_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        rule = self.faults.take("cut", asked.resource, "list")
        if rule is None:
            return web.Response(body=body, headers=headers)
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: rule.after_bytes])
        return await _end(request, response, rule.ending)

    async def _watch(self, request: web.BaseRequest, resource: Resource, wanted: Options) -> web.StreamResponse:
        response = web.StreamResponse(headers=JSON)
        try:
            watch = Watch(resource, wanted, self.store)
        except ApiError as error:
            # this one is told within the stream
            if error.code != 410:
                raise
            await response.prepare(request)
            await response.write(error_line(error))
            return response
        short = self.faults.take("short", resource.plural, "watch")
        cut = self.faults.take("cut", resource.plural, "watch")
        async with self._opened(watch, short.after_s if short else wanted.timeout_s):
            await response.prepare(request)
            return await self._stream(request, response, watch, cut)

    @asynccontextmanager
    async def _opened(self, watch: Watch, timeout_s: float) -> AsyncIterator[None]:
        timer = asyncio.get_running_loop().call_later(timeout_s, watch.end, "end") if timeout_s else None
        self.watches.add(watch)
        try:
            yield
        finally:
            self.watches.remove(watch)
            if timer:
                timer.cancel()

    async def _stream(
        self, request: web.BaseRequest, response: web.StreamResponse, watch: Watch, cut: Rule | None
    ) -> web.StreamResponse:
        left = cut.after_bytes if cut else math.inf
        while True:
            await watch.wake.wait()
            watch.wake.clear()
            if self._is_stalled(watch):
                continue
            for data, versions in watch.take():
                if cut and len(data) >= left:
                    await response.write(data[: int(left)])
                    return await _end(request, response, cut.ending)
                left -= len(data)
                now_s = time.monotonic()
                await response.write(data)
                for version in versions:
                    self.sent(version, now_s)
            if watch.ending:
                return await _end(request, response, watch.ending)

    def _is_stalled(self, watch: Watch) -> bool:
        """Then not even its time-out ends a watch."""
        stalled = self.faults.find("stall", watch.resource.plural, "watch")
        return stalled is not None and watch.ending in (None, "end")

    async def keep_bookmarking(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            for watch in self.watches.of(None):
                watch.bookmark()


def refusal(error: ApiError) -> web.Response:
    headers = dict(JSON)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return web.Response(status=error.code, body=orjson.dumps(error.status), headers=headers)


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset."""
    # linger for no time: a reset instead of a FIN
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def list_body(resource: Resource, page: Page) -> bytes:
    """What a list is answered with."""
    metadata: dict[str, object] = {"resourceVersion": str(page.version)}
    if page.token:
        metadata |= {"continue": page.token, "remainingItemCount": page.remaining}
    return b'{"kind":"%sList","apiVersion":"%s","metadata":%s,"items":[%s]}\n' % (
        resource.kind.encode(),
        resource.api_version.encode(),
        orjson.dumps(metadata),
        b",".join(page.items),
    )


async def _end(request: web.BaseRequest, response: web.StreamResponse, ending: Ending) -> web.StreamResponse:
    transport = request.transport
    if ending != "end" and transport is not None:
        if ending == "reset":
            reset(transport)
        else:
            transport.close()
    return response
