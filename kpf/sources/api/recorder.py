"""Tells the authors of Services what is wrong with them, as Events: best effort, in the background, one at a time."""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kpf.model.snapshot import Problem
from kpf.sources.api.client import Client, UnreachableError
from kpf.sources.api.correlator import EventCorrelator, event
from kpf.sources.api.store import Store

log = logging.getLogger("kpf")

# between two Events
PACE_S = 0.2
# answers after which the next Event would fare no better; a namespace that is being deleted answers 403 or 404
NO_USE = frozenset({401, 429, 500, 502, 503, 504})
# a server that is busy, or gone: what waits meanwhile is forgotten bit by bit
PAUSE_S = 60.0


class EventRecorder:
    """Make it inside the event loop; `run` must run for anything to be sent."""

    def __init__(self, client: Client, store: Store, *, node_name: str) -> None:
        self._client, self._store, self._node_name = client, store, node_name
        self._correlator = EventCorrelator(time.monotonic)
        self._added = asyncio.Event()

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Problems that are new; they are sent before long, or never."""
        self._correlator.add(problems)
        self._added.set()

    async def run(self) -> None:
        """Send what is reported, one Event after the other. Never ends by itself."""
        while True:
            await self._added.wait()
            self._added.clear()
            while (pending := self._correlator.take()) is not None:
                made = event(
                    pending,
                    self._store.version(pending.kind, pending.name),
                    node_name=self._node_name,
                    now=datetime.now(UTC),
                )
                await asyncio.sleep(PACE_S if await self._send(made["metadata"]["namespace"], made) else PAUSE_S)

    async def _send(self, namespace: str, made: Mapping[str, Any]) -> bool:
        """False if it is no use to go on at once."""
        try:
            status = await self._client.post(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", made)
        except UnreachableError as error:
            log.debug("an Event was not sent: %s", error)
            return False
        if status >= 400:
            log.debug("an Event was answered with %d", status)
        return status not in NO_USE
