"""Services, EndpointSlices, this Node and ServiceCIDRs as the API server has them.

Rules: nothing is known before Services and EndpointSlices have been listed once; what is known stays when the server
is gone. What is told is decoded at once, and its bytes forgotten.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from kpf.model.snapshot import Changes, Problem, Snapshot, Watch
from kpf.sources.api.access import Access
from kpf.sources.api.address import FROM_THE_ENVIRONMENT, circular
from kpf.sources.api.client import Client, UnreachableError
from kpf.sources.api.deltas import Delta, LogLine, Replaced
from kpf.sources.api.recorder import EventRecorder
from kpf.sources.api.reflector import Reflector
from kpf.sources.api.resources import Request, resources
from kpf.sources.api.store import Store
from kpf.sources.decode import Kind

log = logging.getLogger("kpf")

# for what kpf could do without: this Node, ServiceCIDRs
PATIENCE_S = 5.0
NEEDED = (Kind.SERVICE, Kind.ENDPOINT_SLICE)


class ApiSource:
    """Make it inside the event loop; `follow` must run for `read` to find anything new."""

    def __init__(self, access: Access, *, node_name: str) -> None:
        self._client = Client(access)
        self._node_name = node_name
        self._store = Store(node_name)
        self._recorder = EventRecorder(self._client, self._store, node_name=node_name)
        self._reflectors = {one.kind: Reflector(one) for one in resources(node_name)}
        self._patient_until_s: float | None = None
        self._troubles: set[str] = set()
        self._said: set[str] = set()
        self._is_guess = not access.kubeconfig and not access.server
        self._changed: Callable[[], None] = lambda: None

    def read(self) -> Snapshot | None:
        """What is known now, None before Services and EndpointSlices have been listed once."""
        if not all(self._reflectors[kind].listed for kind in NEEDED):
            return None
        if not all(one.answered for one in self._reflectors.values()) and self._is_patient():
            return None
        snapshot = self._store.snapshot()
        self._warn_once(circular(self._client.server, snapshot))
        if snapshot.node is None and self._reflectors[Kind.NODE].listed:
            message = "is not known to the API server: is --hostname-override needed?"
            problem = Problem("", f"Node {self._node_name}", "", message)
            return replace(snapshot, problems=(*snapshot.problems, problem))
        return snapshot

    def _is_patient(self) -> bool:
        loop = asyncio.get_running_loop()
        if self._patient_until_s is None:
            self._patient_until_s = loop.time() + PATIENCE_S
            loop.call_at(self._patient_until_s, self._changed)
        return loop.time() < self._patient_until_s

    def _who(self) -> str:
        return f"the API server {self._client.server}".strip()

    def _warn_once(self, warning: str) -> None:
        if warning and warning not in self._said:
            self._said.add(warning)
            log.warning("%s", warning)

    async def reread(self) -> None:
        """Read the credentials anew if they have changed, and say if that fails."""
        try:
            await self._client.refresh()
        except UnreachableError as error:
            log.warning("there are no credentials: %s", error)

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Tell the authors of Services what is new among the problems with them: as Events, best effort."""
        self._recorder.report(problems)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the server does not tell everything at the moment, sorted."""
        return tuple(sorted({one.trouble for one in self._reflectors.values() if one.trouble}))

    @property
    def seen(self) -> Changes:
        """Until now."""
        return self._store.changes

    @property
    def watches(self) -> tuple[Watch, ...]:
        """One for each resource that the server tells, or has to."""
        now_s, asked = asyncio.get_running_loop().time(), self._reflectors.values()
        return tuple(
            Watch(one.resource.name, now_s - one.heard_s, one.begun)
            for one in asked
            if one.listed or not one.resource.optional
        )

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `read` may find something new. Never ends by itself."""
        self._changed = changed
        try:
            async with asyncio.TaskGroup() as group:
                for reflector in self._reflectors.values():
                    group.create_task(self._reflect(reflector))
                group.create_task(self._recorder.run())
        finally:
            await self._client.close()

    async def _reflect(self, reflector: Reflector) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = reflector.next(loop.time())
            if isinstance(asked, Request):
                answered = reflector.answered
                await self._converse(reflector, asked)
                self._say_troubles()
                if answered != reflector.answered:
                    self._changed()
            else:
                await asyncio.sleep(asked - loop.time())

    async def _converse(self, reflector: Reflector, request: Request) -> None:
        """One request and its answer, to the end of it."""
        loop = asyncio.get_running_loop()
        error, silent = "", False
        try:
            async with asyncio.timeout(reflector.silence_s) as limit, self._client.get(request) as answer:
                reflector.begin(answer.status, loop.time(), retry_after_s=answer.retry_after_s)
                self._say_troubles()
                limit.reschedule(loop.time() + reflector.silence_s)
                async for data in answer.pieces():
                    self._take_in(reflector, reflector.feed(data, loop.time()))
                    limit.reschedule(loop.time() + reflector.silence_s)
                    if reflector.hangs_up:
                        break
        except UnreachableError as unreachable:
            error = str(unreachable)
            if unreachable.distrusted:
                self._client.distrust()
        except TimeoutError:
            error, silent = f"nothing came for {reflector.silence_s:.0f} s", True
        self._take_in(reflector, reflector.end(loop.time(), error, silent=silent))
        if reflector.unauthorized:
            self._client.distrust()

    def _take_in(self, reflector: Reflector, deltas: Iterable[Delta]) -> None:
        kind, changed = reflector.resource.kind, False
        for delta in deltas:
            if isinstance(delta, LogLine):
                log.warning("%s: %s", kind, delta.text)
            # also a list of nothing, or of nothing new, may be what was waited for
            changed = self._store.apply(kind, delta) or changed or isinstance(delta, Replaced)
        if changed:
            self._changed()

    def _say_troubles(self) -> None:
        """Each once, until all are over but those that kpf lives with."""
        troubles = set(self.troubles)
        for one in sorted(troubles - self._troubles):
            log.warning("%s does not tell what it has: %s", self._who(), one)
        if troubles and self._is_guess and not all(self._reflectors[kind].listed for kind in NEEDED):
            self._warn_once(FROM_THE_ENVIRONMENT)
        lasting = {one.trouble for one in self._reflectors.values() if one.answered and not one.listed}
        if self._troubles - lasting and not troubles - lasting:
            log.info("%s tells what it has again", self._who())
            self._troubles = set()
        self._troubles |= troubles
