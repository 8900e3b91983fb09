"""The server's own process: it does what the test tells it through a connection, and ends with it.

It is told how many changes to remember. Then messages are JSON: `[command, arguments]`, answered by `[value, null]` or
`[null, error]`.
"""

import asyncio
import faulthandler
import inspect
import signal
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

import orjson
from aiohttp import web

from tests.apiserver.access import Access
from tests.apiserver.driver import Driver
from tests.apiserver.faults import Ending, Fault, Rule
from tests.apiserver.http import Api, reset
from tests.apiserver.requests import Asked
from tests.apiserver.resources import BY_KIND, Object
from tests.apiserver.status import ApiError
from tests.apiserver.store import Store, key_of
from tests.apiserver.watches import error_line

BACKLOG = 1024
# asks the process for a traceback, on stderr
DUMP_SIGNAL = signal.SIGUSR1
# begins like an event, and is cut off
TORN_LINE = b'{"type":"MODIFIED","object":{"kind":"'


class Commands:
    """What a test can tell the server; every public method is a command."""

    def __init__(self, history: int) -> None:
        self._access = Access()
        self._store = Store(history)
        self._api = Api(self._store, self._access)
        self._driver = Driver(self._api)
        self._http = web.Server(self._api.handle, access_log=None, handler_cancellation=True)
        self._listener: asyncio.Server | None = None
        self._bookmarking: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, certificate: str | None) -> None:
        """Also with another certificate than before; connections that are open stay as they are."""
        self.refuse()
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        tls = self._access.tls(certificate) if certificate else None
        self._listener = await asyncio.get_running_loop().create_server(
            self._http, sock=listener, ssl=tls, backlog=BACKLOG
        )

    def refuse(self) -> None:
        if self._listener:
            self._listener.close()
        self._listener = None

    def reset(self) -> int:
        transports = [one.transport for one in self._http.connections if one.transport is not None]
        for transport in transports:
            reset(transport)
        return len(transports)

    def trust(self, ca_path: str, issuer: str) -> None:
        self._access.trust(ca_path, issuer)

    def tokens(self, tokens: list[str]) -> None:
        self._access.tokens = frozenset(tokens)

    def settings(self, streaming_list: bool | None, bookmark_interval_s: float | None) -> None:
        if streaming_list is not None:
            self._api.streaming_list = streaming_list
        if bookmark_interval_s is not None:
            if self._bookmarking:
                self._bookmarking.cancel()
            self._bookmarking = asyncio.create_task(self._api.keep_bookmarking(bookmark_interval_s))

    def put(self, objects: list[Object]) -> int:
        for obj in objects:
            self._api.put(obj)
        return self._store.version

    def delete(self, kind: str, namespace: str, name: str) -> int:
        change = self._store.delete(BY_KIND[kind], key_of(namespace, name))
        self._api.watches.publish(change)
        return change.version

    def truth(self, kind: str) -> list[Object]:
        found = BY_KIND[kind]
        head = {"kind": found.kind, "apiVersion": found.api_version}
        return [{**head, **record.value} for record in self._store.sorted_objects(found)]

    def version(self) -> int:
        return self._store.version

    def fault(self, rule: dict[str, Any]) -> None:
        self._api.faults.add(Rule(**rule))

    def lift(self, fault: Fault | None) -> None:
        self._api.lift(fault)

    def end(self, named: str | None, ending: Ending, torn: bool) -> int:
        watches = self._api.watches.of(named)
        for watch in watches:
            if torn:
                watch.tell(TORN_LINE)
            watch.end(ending)
        return len(watches)

    def inject(self, named: str | None, text: str) -> int:
        watches = self._api.watches.of(named)
        for watch in watches:
            watch.tell(text.encode() + b"\n")
        return len(watches)

    def error(self, named: str | None, code: int, message: str) -> int:
        watches = self._api.watches.of(named)
        for watch in watches:
            watch.tell(error_line(ApiError(code, message)))
            watch.end("end")
        return len(watches)

    def bookmark(self, named: str | None) -> int:
        watches = self._api.watches.of(named)
        for watch in watches:
            watch.bookmark()
        return len(watches)

    def watching(self, named: str | None) -> int:
        return len(self._api.watches.of(named))

    def expire(self) -> None:
        self._store.expire()

    def restore(self, version: int) -> None:
        self._store.restore(version)
        self.reset()

    def requests(self) -> list[Asked]:
        return self._api.log

    def events(self) -> list[Object]:
        return self._api.events

    def drive(self, duration_s: float, rate: float, pattern: list[str]) -> None:
        self._driver.start(duration_s=duration_s, rate=rate, pattern=pattern)

    def is_driving(self) -> bool:
        return self._driver.is_running

    def sent(self) -> list[tuple[object, ...]]:
        return [tuple(one) for one in self._driver.sent]

    def cpu_s(self) -> float:
        return time.process_time()


async def _obey(connection: Connection, history: int) -> None:
    """Until the other end is closed."""
    commands = Commands(history)
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(connection.fileno(), readable.set)
    while True:
        await readable.wait()
        readable.clear()
        try:
            while connection.poll():
                command, arguments = orjson.loads(connection.recv_bytes())
                connection.send_bytes(orjson.dumps(await _answer(commands, command, arguments)))
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return


async def _answer(commands: Commands, command: str, arguments: dict[str, Any]) -> tuple[object, str | None]:
    try:
        value = getattr(commands, command)(**arguments)
        return (await value if inspect.isawaitable(value) else value), None
    except (OSError, KeyError, ValueError, TypeError) as error:
        return None, f"{type(error).__name__}: {error}"


def serve(connection: Connection) -> None:
    """As long as the other end is open."""
    faulthandler.register(DUMP_SIGNAL)
    asyncio.run(_obey(connection, connection.recv()))
