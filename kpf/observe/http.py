"""HTTP: health on TCP, status on a Unix socket. Serves what the given functions return, and nothing else."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import orjson
from aiohttp import web

log = logging.getLogger("kpf")

RETRY_S = 5.0

# of one server: whoever asks has said so, and has its answer, long before
CLIENT_TIMEOUT_S = 10.0
# of one server: the descriptors are the daemon's
MAX_CLIENTS = 64
BACKLOG = 16
# of a request: its first line, and each header. A body is read and forgotten
_MAX_LINE = 2048
_SHUTDOWN_S = 0.5

# what strangers send is not worth a line, let alone a stack trace
_SILENT = logging.Logger("kpf.http", logging.CRITICAL + 1)

Answer = tuple[int, object]
"""HTTP status, and what becomes the JSON body (text stays text)."""

Document = Callable[[], Answer | Awaitable[Answer]]
"""Makes an answer; a long one in turns with everything else on the loop."""


Question = Callable[[Mapping[str, str]], Awaitable[Answer]]
"""Makes an answer to the query of a request, in turns with everything else on the loop."""

_NONE: Mapping[str, Question] = MappingProxyType({})


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class PublicServer(web.Server):
    """Serves anybody, at any number of listeners: one request a connection, and no client can take the place of others.

    A connection ends after `CLIENT_TIMEOUT_S`, come what may. One more than `MAX_CLIENTS` ends the oldest: honest
    clients are served within moments, so it is one that does not ask. Made inside the event loop.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            self._handle,
            access_log=None,
            logger=_SILENT,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        self._answer = handler
        self._open: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Called by aiohttp. If it is one too many, the oldest is aborted."""
        super().connection_made(handler, transport)
        limit = asyncio.get_running_loop().call_later(CLIENT_TIMEOUT_S, transport.abort)
        self._open[handler] = transport, limit
        if len(self._open) > MAX_CLIENTS:
            oldest = next(iter(self._open))
            self._forget(oldest).abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Called by aiohttp, once, whoever has ended it."""
        if handler in self._open:
            self._forget(handler)
        super().connection_lost(handler, exc)

    def _forget(self, handler: web.RequestHandler) -> asyncio.Transport:
        transport, limit = self._open.pop(handler)
        limit.cancel()
        return transport

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            made = await self._answer(request)
        except Exception:
            log.exception("a request is not answered by a defect in kpf")
            made = response(500, "this is a defect in kpf")
        made.force_close()
        return made


def runner_of(server: web.Server) -> web.ServerRunner:
    """Has any number of listeners for a server, and ends it with them."""
    return web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)


class ServerSockets:
    """The listening sockets of all servers by name, to be handed over; `inherited`: what a predecessor has handed over.

    They are named by what is asked for, so that who asks for the same gets the very socket.
    """

    def __init__(self, inherited: Mapping[str, socket.socket] | None = None) -> None:
        self._inherited = dict(inherited or {})
        self._given: dict[str, socket.socket] = {}

    def open(self) -> dict[str, socket.socket]:
        """Those that are in use, by name."""
        self._given = {name: one for name, one in self._given.items() if one.fileno() >= 0}
        return dict(self._given)

    def has_unix(self, path: Path) -> bool:
        """A predecessor has handed over the one at this path, and nobody has asked for it yet."""
        return unix_name(path) in self._inherited

    def tcp(self, host: str, port: int) -> socket.socket:
        """At an address, which is text; an IPv6 one leaves IPv4 alone. Raises OSError."""
        name, family = tcp_name(host, port), socket.AF_INET6 if ":" in host else socket.AF_INET
        made = self._inherited.pop(name, None) or socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._given[name] = made
        return made

    def unix(self, path: Path) -> socket.socket:
        """One that only its owner may use; a stale one is replaced, no other file is. Raises OSError."""
        made = self._inherited.pop(unix_name(path), None) or _unix_socket(path)
        self._given[unix_name(path)] = made
        return made

    def close_unused(self) -> None:
        """What a predecessor has handed over and nobody has asked for."""
        for one in self._inherited.values():
            one.close()
        self._inherited.clear()


def tcp_name(host: str, port: int) -> str:
    """Of a listening socket, for `ServerSockets`."""
    return f"tcp {host} {port}"


def unix_name(path: Path) -> str:
    """Of a listening socket, for `ServerSockets`: two containers may each have another file at one path."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return f"unix {path} {found.st_dev} {found.st_ino}"
    return ""


async def listen(runner: web.ServerRunner, listener: socket.socket) -> web.SockSite:
    """Serve there, too."""
    site = web.SockSite(runner, listener, backlog=BACKLOG)
    await site.start()
    return site


def reason_of(error: OSError) -> str:
    """The library's own text repeats the address."""
    return os.strerror(error.errno) if error.errno else str(error)


def response(status: int, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """Text as it is, anything else as JSON."""
    is_text = isinstance(body, str)
    return web.Response(
        status=status,
        body=body.encode() if isinstance(body, str) else orjson.dumps(body),
        content_type="text/plain" if is_text else "application/json",
        charset="utf-8" if is_text else None,
        # the library's own would tell everybody its version
        headers={"Server": "kpf", "X-Content-Type-Options": "nosniff", **(headers or {})},
    )


class Servers:
    """HTTP servers of the daemon that have fixed paths."""

    def __init__(self, sockets: ServerSockets) -> None:
        self._sockets = sockets
        self._runners: list[web.ServerRunner] = []
        self._tcp_runners: list[web.ServerRunner] = []
        self._retries: set[asyncio.Task[None]] = set()
        self._unix_path: Path | None = None

    async def serve_tcp(self, host: str, port: int, served: Mapping[str, Document] | Handler) -> str:
        """Serve, now or as soon as the address can be had: as kube-proxy does unless `bindAddressHardFail` is set.

        Why not now, "" if it does.
        """
        handler = _handler(served) if isinstance(served, Mapping) else served
        runner = await self._runner(PublicServer(handler))
        self._tcp_runners.append(runner)
        try:
            await listen(runner, self._sockets.tcp(host, port))
        except OSError as error:
            failure = f"cannot serve http on {host} port {port} yet: {reason_of(error)}"
            log.error("%s", failure)
            task = asyncio.create_task(self._retry(runner, host, port))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)
            return failure
        return ""

    async def serve_unix(
        self, path: Path, documents: Mapping[str, Document], questions: Mapping[str, Question] = _NONE
    ) -> None:
        """Serve on a socket that only its owner may use. Raises OSError."""
        listener = self._sockets.unix(path)
        self._unix_path = path
        server = web.Server(_handler(documents, questions), access_log=None)
        await listen(await self._runner(server), listener)

    async def _runner(self, server: web.Server) -> web.ServerRunner:
        runner = runner_of(server)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _retry(self, runner: web.ServerRunner, host: str, port: int) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                await listen(runner, self._sockets.tcp(host, port))
            except OSError:
                continue
            else:
                log.info("http is served on %s port %d", host, port)
                return

    async def close_tcp(self) -> None:
        """Stop serving on TCP, and trying to: a reload has named another address. The Unix socket goes on."""
        for task in self._retries:
            task.cancel()
        for runner in self._tcp_runners:
            await runner.cleanup()
            self._runners.remove(runner)
        self._tcp_runners.clear()

    async def close(self, *, handed_over: bool = False) -> None:
        """Stop serving everywhere; the Unix socket's path is taken away, unless a successor has the socket."""
        await self.close_tcp()
        for runner in self._runners:
            await runner.cleanup()
        if self._unix_path and not handed_over:
            self._unix_path.unlink(missing_ok=True)


def _unix_socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket() and not _answers(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        # the kernel's error does not name the path
        raise OSError(error.errno, error.strerror, str(path)) from None
    # between bind and here nobody can connect: it does not listen yet
    path.chmod(0o600)
    return listener


def _answers(path: Path) -> bool:
    """Whether somebody listens there: a daemon of another network namespace, say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _handler(documents: Mapping[str, Document], questions: Mapping[str, Question] = _NONE) -> Handler:
    async def handle(request: web.BaseRequest) -> web.Response:
        if question := questions.get(request.path):
            return response(*await question(request.query))
        document = documents.get(request.path)
        if document is None:
            return response(404, "there is no such document")
        made = document()
        return response(*(await made if isinstance(made, Awaitable) else made))

    return handle
