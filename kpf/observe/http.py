"""HTTP: health on TCP, status on a Unix socket. Serves what the given functions return, and nothing else."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson
from aiohttp import web

from kpf.observe.health import Health, answer

log = logging.getLogger("kpf")

RETRY_S = 5.0

Answer = tuple[int, object]
"""HTTP status, and what becomes the JSON body (text stays text)."""

Document = Callable[[], Answer | Awaitable[Answer]]
"""Makes an answer; a long one in turns with everything else on the loop."""


def health_documents(health: Callable[[], Health]) -> Mapping[str, Document]:
    """`/healthz` and `/livez`."""
    return {
        "/healthz": lambda: answer(health(), datetime.now(UTC), with_node=True),
        "/livez": lambda: answer(health(), datetime.now(UTC), with_node=False),
    }


class Servers:
    """All HTTP servers of the daemon."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._tcp_runners: list[web.AppRunner] = []
        self._retries: set[asyncio.Task[None]] = set()
        self._unix_path: Path | None = None

    async def serve_tcp(self, host: str, port: int, documents: Mapping[str, Document]) -> str:
        """Serve, now or as soon as the address can be had: as kube-proxy does unless `bindAddressHardFail` is set.

        Why not now, "" if it does.
        """
        runner = await self._runner(documents)
        self._tcp_runners.append(runner)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            # asyncio's own text repeats the address
            reason = os.strerror(error.errno) if error.errno else error
            complaint = f"cannot serve http on {host} port {port} yet: {reason}"
            log.error("%s", complaint)
            task = asyncio.create_task(self._retry(runner, host, port))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)
            return complaint
        return ""

    async def serve_unix(self, path: Path, documents: Mapping[str, Document]) -> None:
        """Serve on a socket that only its owner may use; a stale one is replaced, no other file is. Raises OSError."""
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
        self._unix_path = path
        await web.SockSite(await self._runner(documents), listener).start()

    async def _runner(self, documents: Mapping[str, Document]) -> web.AppRunner:
        app = web.Application(client_max_size=1024)
        for path, document in documents.items():
            app.router.add_get(path, _handler(document))
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _retry(self, runner: web.AppRunner, host: str, port: int) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError:
                continue
            else:
                log.info("http is served on %s port %d", host, port)
                return

    async def close_tcp(self) -> None:
        """Stop serving on TCP."""
        for task in self._retries:
            task.cancel()
        for runner in self._tcp_runners:
            await runner.cleanup()
            self._runners.remove(runner)
        self._tcp_runners.clear()

    async def close(self) -> None:
        await self.close_tcp()
        for runner in self._runners:
            await runner.cleanup()
        if self._unix_path:
            self._unix_path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens there: a daemon of another network namespace, say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _handler(document: Document) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        made = document()
        status, body = await made if isinstance(made, Awaitable) else made
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")

    return handle
