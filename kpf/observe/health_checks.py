"""The HTTP servers of `healthCheckNodePort`: they tell load balancers whether this node wants traffic of a Service.

Answers as kube-proxy's `pkg/proxy/healthcheck/service_health.go` (Kubernetes 1.36), but that both IP families tell the
same. One HTTP server has all ports, so a port costs its listening sockets and little else.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from kpf.model.health import HealthCheck
from kpf.model.names import IPAddress
from kpf.model.snapshot import Problem
from kpf.observe.http import RETRY_S, PublicServer, ServerSockets, listen, reason_of, response, runner_of

log = logging.getLogger("kpf")

EVERYWHERE: tuple[IPAddress, ...] = (IPv4Address(0), IPv6Address(0))

# this kernel has no IPv6: then nobody can miss it
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT}


class HealthCheckServers:
    """Made and used inside the event loop. `healthy`: whether the proxy itself takes new connections."""

    def __init__(self, healthy: Callable[[], bool], sockets: ServerSockets) -> None:
        self._healthy, self._sockets = healthy, sockets
        self._runner = runner_of(PublicServer(self._answer))
        self._wanted: Mapping[int, HealthCheck] = {}
        self._hosts: tuple[str, ...] = ()
        self._sites: dict[int, dict[str, web.SockSite]] = {}
        self._failing: dict[int, Problem] = {}
        self._changing = asyncio.Lock()
        self._retrying: asyncio.Task[None] | None = None

    async def update(
        self, wanted: Mapping[int, HealthCheck], addresses: Iterable[IPAddress] = EVERYWHERE
    ) -> tuple[Problem, ...]:
        """Serve these by their ports, at each of the addresses. Ports that stay go on listening and answer anew.

        Ports that cannot be had are logged and returned once; each update, and every `RETRY_S`, tries them again.
        """
        async with self._changing:
            self._wanted, self._hosts = wanted, tuple(dict.fromkeys(map(str, addresses)))
            if self._runner.server is None:
                await self._runner.setup()
            # first: a port may move from one address to all of them
            await self._close_unwanted()
            new = await self._open_missing()
            if self._failing and (self._retrying is None or self._retrying.done()):
                self._retrying = asyncio.create_task(self._retry())
        return new

    async def close(self) -> None:
        """Stop listening, and end what clients there are."""
        # never in the midst of opening a listener
        async with self._changing:
            if self._retrying is not None:
                self._retrying.cancel()
            await self._runner.cleanup()
            self._sites.clear()

    async def _close_unwanted(self) -> None:
        for port, sites in list(self._sites.items()):
            hosts = self._hosts if port in self._wanted else ()
            for host in [one for one in sites if one not in hosts]:
                await sites.pop(host).stop()
            if not sites:
                del self._sites[port]

    async def _open_missing(self) -> tuple[Problem, ...]:
        """What cannot be had and has not been said yet."""
        failing: dict[int, Problem] = {}
        for port, check in self._wanted.items():
            sites = self._sites.setdefault(port, {})
            if len(sites) == len(self._hosts):
                continue
            if refusals := await self._open(port, sites):
                message = f"cannot serve health checks on port {port} yet: {', '.join(refusals)}"
                failing[port] = Problem("", f"Service {check.service}", "spec.healthCheckNodePort", message)
            elif port in self._failing:
                log.info("health checks of Service %s are served on port %d", check.service, port)
        new = tuple(problem for port, problem in failing.items() if self._failing.get(port) != problem)
        for problem in new:
            log.error("%s", problem)
        self._failing = failing
        return new

    async def _open(self, port: int, sites: dict[str, web.SockSite]) -> list[str]:
        """Listen wherever it does not yet; why not, of each address where that fails."""
        refusals = []
        for host in self._hosts:
            if host in sites:
                continue
            try:
                sites[host] = await listen(self._runner, self._sockets.tcp(host, port))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    refusals.append(f"{host}: {reason_of(error)}")
        return refusals

    async def _retry(self) -> None:
        while self._failing:
            await asyncio.sleep(RETRY_S)
            async with self._changing:
                await self._open_missing()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
        check = self._wanted.get(port)
        if check is None:
            # accepted in the last moment of a port
            return response(503, "this health check has just ended")
        healthy = self._healthy()
        return response(
            200 if healthy and check.local_endpoints else 503,
            {
                "service": {"namespace": check.service.namespace, "name": check.service.name},
                "localEndpoints": check.local_endpoints,
                "serviceProxyHealthy": healthy,
            },
            {"X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints)},
        )
