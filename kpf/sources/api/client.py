"""HTTP with the API server, by the `kubernetes` package: connections, credentials, errors in words.

Rules: credentials that have changed, or did not do, are read anew before the next request; answers that are under way
keep the connection they came by. Credentials that cannot be read leave the last ones in force.
"""

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.rest import RESTClientObject

from kpf import __version__
from kpf.sources.api.access import Access, Stamp
from kpf.sources.api.kubeconfig import AccessError
from kpf.sources.api.resources import Request
from kpf.sources.messages import short

log = logging.getLogger("kpf")

CONNECT_S = 10.0
POST_S = 10.0
# a peer that is gone without a word: 10 s idle, then 3 probes, 5 s apart
KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
UNACKNOWLEDGED_MS = 25_000
# credentials that do not do are not read anew more often
RELOAD_S = 10.0
PIECE_BYTES = 64 << 10


class UnreachableError(Exception):
    """There was no answer, or it broke off; the text says why. `distrusted`: perhaps other credentials would do."""

    def __init__(self, reason: str, *, distrusted: bool = False) -> None:
        super().__init__(reason)
        self.distrusted = distrusted


class _Rest(RESTClientObject):  # type: ignore[misc]  # the package has no types
    """With sockets that notice when their peer is gone, and of the environment only its proxies: no ~/.netrc."""

    def __init__(self, configuration: Any) -> None:
        configuration.client_session_kwargs = {"trust_env": False}
        super().__init__(configuration)
        self.proxy: str | None = configuration.proxy or _proxy_of_the_environment(configuration.host)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_make_socket)


def _proxy_of_the_environment(url: str) -> str | None:
    """As HTTPS_PROXY and NO_PROXY say, in either case."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _make_socket(info: Any) -> socket.socket:
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    return made


class _Session:
    """Connections with one set of credentials; closed when it is retired and nobody uses it any more."""

    def __init__(self, api: Any, stamp: Stamp) -> None:
        self.api, self.stamp = api, stamp
        self._users, self._retired = 0, False

    @asynccontextmanager
    async def used(self) -> AsyncIterator[Any]:
        self._users += 1
        try:
            yield self.api
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.api.close()

    async def retire(self) -> None:
        self._retired = True
        if not self._users:
            await self.api.close()


class Answer:
    """The head of an answer, and its body as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def retry_after_s(self) -> float:
        """0 if the server does not ask for patience in seconds."""
        text = self._response.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0

    async def pieces(self) -> AsyncIterator[bytes]:
        """What has come, at most 64 KiB at a time, so that others have their turn. Raises `UnreachableError`."""
        with _in_words():
            async for data in self._response.content.iter_any():
                for start in range(0, len(data), PIECE_BYTES):
                    yield data[start : start + PIECE_BYTES]
                    await asyncio.sleep(0)


class Client:
    """Make and use it inside the event loop."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session: _Session | None = None
        self._distrusted, self._loaded_s = False, float("-inf")
        self._loading = asyncio.Lock()
        self._failure, self._failed_stamp, self._failed_s = "", Stamp(), float("-inf")

    @property
    def server(self) -> str:
        """The address of the API server, "" before the first request."""
        return str(self._session.api.configuration.host) if self._session else ""

    def distrust(self) -> None:
        """The credentials did not do: read them anew before the next request."""
        self._distrusted = True

    async def refresh(self) -> None:
        """Read the credentials anew if they have changed. Raises `UnreachableError` if there are none at all."""
        await self._current()

    @asynccontextmanager
    async def get(self, request: Request) -> AsyncIterator[Answer]:
        """The answer's head, and its body as long as the context is open; no time-out. Raises `UnreachableError`."""
        session = await self._current()
        async with session.used() as api:
            with _in_words():
                response = await self._send(api, "GET", request.path, query=request.query, timeout_s=None)
            try:
                yield Answer(response)
            finally:
                response.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> int:
        """Make an object, within `POST_S`; the status of the answer. Raises `UnreachableError`."""
        session = await self._current()
        async with session.used() as api:
            with _in_words():
                response = await self._send(api, "POST", path, body=body, timeout_s=POST_S)
                async with response:
                    return int(response.status)

    async def _send(
        self,
        api: Any,
        method: str,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        prepared = await api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        # an object, for the package takes a bare number for the limit of the whole answer
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, connect=CONNECT_S)
        made = await api.call_api(*prepared, _request_timeout=timeout)
        response: aiohttp.ClientResponse = made.response
        return response

    async def _current(self) -> _Session:
        async with self._loading:
            stamp, now_s, session = self._access.stamp(), time.monotonic(), self._session
            failed_just_now = stamp == self._failed_stamp and now_s < self._failed_s + RELOAD_S
            is_due = self._distrusted and now_s >= self._loaded_s + RELOAD_S
            if session is not None and (failed_just_now or (session.stamp == stamp and not is_due)):
                return session
            if failed_just_now:
                raise UnreachableError(self._failure)
            try:
                api = await self._connected()
            except (AccessError, OSError) as error:
                # OSError: a file that was replaced just now
                self._failed_stamp, self._failed_s = stamp, now_s
                return self._last(session, str(error))
            self._loaded_s, self._distrusted, self._failure = now_s, False, ""
            self._session = _Session(api, stamp)
            if session is not None:
                log.log(logging.DEBUG if session.stamp == stamp else logging.INFO, "credentials are read anew")
                await session.retire()
            return self._session

    def _last(self, session: _Session | None, failure: str) -> _Session:
        """The credentials of before, if there are any, for there are no others."""
        told, self._failure = self._failure, failure
        if session is None:
            raise UnreachableError(failure)
        if failure != told:
            log.warning("the credentials cannot be read anew, the last ones stay: %s", failure)
        return session

    async def _connected(self) -> Any:
        async with self._access.loaded() as configuration:
            api = ApiClient(configuration)
            api.rest_client = _Rest(configuration)
        api.user_agent = f"kpf/{__version__}"
        return api

    async def close(self) -> None:
        """Cut what is open; the next request would begin anew."""
        if self._session is not None:
            await self._session.api.close()
            self._session = None


@contextmanager
def _in_words() -> Iterator[None]:
    """What aiohttp raises when there is no answer, as `UnreachableError`."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        raise UnreachableError(f"its certificate is not trusted: {reason}", distrusted=True) from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        inner = getattr(error, "os_error", error)
        reason = str(getattr(inner, "reason", None) or inner).replace("_", " ").lower()
        raise UnreachableError(f"no TLS with it: {reason}", distrusted=True) from error
    except aiohttp.ClientConnectorError as error:
        raise UnreachableError(f"cannot connect: {_reason(error.os_error)}") from error
    except TimeoutError as error:
        raise UnreachableError("no connection, or no answer, in time") from error
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
        raise UnreachableError("the connection was cut") from error
    except aiohttp.ClientResponseError as error:
        # its text would have the URL, which is never the same
        raise UnreachableError(f"no answer as it should be: {error.status} {short(error.message)}") from error
    except OSError as error:
        raise UnreachableError(f"the connection broke: {_reason(error)}") from error
    except aiohttp.ClientError as error:
        raise UnreachableError(f"no HTTP as it should be: {short(str(error))}") from error
    except ValueError as error:
        # UnicodeError too: names that no address can be asked for, in a redirect or a proxy's URL
        raise UnreachableError(f"cannot be asked: {short(str(error))}") from error


def _reason(error: OSError) -> str:
    # asyncio's own text names the address, that of getaddrinfo, whose codes are negative, is fine
    code = error.errno or 0
    return os.strerror(code) if code > 0 else error.strerror or str(error)
