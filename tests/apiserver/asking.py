"""A client that speaks to the test API server by hand: raw answers, and the lines of a watch."""

import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from tests.apiserver.control import ApiServer
from tests.apiserver.resources import BY_PLURAL

LIMIT_S = 5.0


class Answer:
    """An answer whose head has come. Raises TimeoutError when nothing comes for 5 s, unless said otherwise."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.status = response.status

    def json(self) -> Any:
        return orjson.loads(self.response.read())

    def line(self) -> bytes:
        """The next line of a watch, b"" at the end."""
        return self.response.readline()

    def event(self) -> tuple[str, Any]:
        event = orjson.loads(self.line())
        return event["type"], event["object"]

    def names(self, number: int) -> list[str]:
        """The next events in short: "ADDED web"."""
        return [
            f"{what} {obj['metadata'].get('name', obj['metadata']['resourceVersion'])}"
            for what, obj in self._events(number)
        ]

    def _events(self, number: int) -> Iterator[tuple[str, Any]]:
        return (self.event() for _ in range(number))


class Asker:
    """Asks with the credentials that it is given; TLS as the server is now."""

    def __init__(
        self,
        server: ApiServer,
        *,
        token: str | None = None,
        client: Path | None = None,
        limit_s: float = LIMIT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._server, self._limit_s = server, limit_s
        self._headers = {**(headers or {}), **({} if token is None else {"Authorization": f"Bearer {token}"})}
        self._tls = ssl.create_default_context(cafile=server.ca_path) if server.ca_path else None
        if self._tls and client:
            self._tls.load_cert_chain(client)

    @contextmanager
    def get(self, path: str, query: Mapping[str, object] | None = None, /) -> Iterator[Answer]:
        with self.send("GET", f"{path}?{urlencode(query or {})}") as answer:
            yield answer

    def list(self, resource: str, /, **query: object) -> Any:
        """The body of a list, whatever its status."""
        with self.get(BY_PLURAL[resource].path, query) as answer:
            return answer.json()

    @contextmanager
    def watch(self, resource: str, /, **query: object) -> Iterator[Answer]:
        with self.get(BY_PLURAL[resource].path, {"watch": "true", **query}) as answer:
            yield answer

    @contextmanager
    def send(self, method: str, target: str, body: bytes | None = None) -> Iterator[Answer]:
        host, port, limit_s = "127.0.0.1", self._server.port, self._limit_s
        connection = (
            http.client.HTTPSConnection(host, port, timeout=limit_s, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(host, port, timeout=limit_s)
        )
        try:
            connection.request(method, target, body, self._headers)
            with connection.getresponse() as response:
                yield Answer(response)
        finally:
            connection.close()
