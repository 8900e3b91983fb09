"""Load from within the server's process: EndpointSlices change at a given rate, and when each was sent is recorded."""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from tests.apiserver.http import Api
from tests.apiserver.resources import SLICES, Object

# new endpoints get addresses from here on
FIRST_ADDRESS = IPv4Address("10.192.0.0")
# slices, if there are four times as many: the two flips of one are so far apart that nobody takes them for one change
UNREADY = 20
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class Sent(NamedTuple):
    """One change of a slice. `time_s`: when its bytes were handed to a socket, CLOCK_MONOTONIC.

    `name`: "namespace/name" of the slice. `change`: swap or flip. `came`, `went`: addresses ready now, and no longer.
    """

    time_s: float
    name: str
    change: str
    came: list[str]
    went: list[str]


class Driver:
    """One run at a time. `sent`: what was sent so far, by every watch that it was sent to."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._task: asyncio.Task[None] | None = None
        self._changes: dict[int, tuple[str, str, list[str], list[str]]] = {}
        self._addresses = itertools.count(int(FIRST_ADDRESS))
        self.sent: list[Sent] = []
        api.sent = self._record

    def start(self, *, duration_s: float, rate: float, pattern: Sequence[str]) -> None:
        """So long, so many changes a second, of the kinds "swap" and "flip" as the pattern says, again and again.

        A swap replaces one address of the next IPv4 slice. A flip makes all endpoints of the next slice unready, or,
        by turns once enough are, those of the one that has been unready for longest ready again.
        """
        self._changes, self.sent = {}, []
        self._task = asyncio.create_task(self._run(duration_s, rate, pattern))

    @property
    def is_running(self) -> bool:
        """Raises what has ended the run, if anything."""
        if self._task and self._task.done():
            self._task.result()
        return self._task is not None and not self._task.done()

    async def _run(self, duration_s: float, rate: float, pattern: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        changes = self._plan(pattern)
        for number in range(int(duration_s * rate)):
            await asyncio.sleep(start_s + number / rate - loop.time())
            name, change, value, came, went = next(changes)
            # the version that the write is about to get
            self._changes[self._api.store.version + 1] = (name, change, came, went)
            self._api.put({**value, "kind": SLICES.kind, "apiVersion": SLICES.api_version})

    def _plan(self, pattern: Sequence[str]) -> Iterator[tuple[str, str, Object, list[str], list[str]]]:
        objects = self._api.store.newest(SLICES)
        names = sorted(name for name, record in objects.items() if record.value["addressType"] == "IPv4")
        turn = itertools.cycle(names)
        unready: deque[str] = deque()
        enough = max(1, min(UNREADY, len(names) // 4))
        for number, change in enumerate(itertools.cycle(pattern)):
            if change == "swap":
                name = next(turn)
                yield name, change, *self._swap(objects[name].value, number)
            else:
                back = len(unready) == enough
                name = unready.popleft() if back else next(turn)
                yield name, change, *_flip(objects[name].value, ready=back)
                if not back:
                    unready.append(name)

    def _swap(self, value: Object, number: int) -> tuple[Object, list[str], list[str]]:
        endpoints = list(value["endpoints"])
        place = number % len(endpoints)
        went, came = endpoints[place]["addresses"], [str(IPv4Address(next(self._addresses)))]
        endpoints[place] = {**endpoints[place], "addresses": came}
        is_ready = endpoints[place]["conditions"]["ready"]
        return _changed(value, endpoints), *((came, went) if is_ready else ([], []))

    def _record(self, version: int, now_s: float) -> None:
        if found := self._changes.get(version):
            self.sent.append(Sent(now_s, *found))


def _flip(value: Object, *, ready: bool) -> tuple[Object, list[str], list[str]]:
    conditions = {"ready": ready, "serving": ready, "terminating": False}
    endpoints = [{**one, "conditions": conditions} for one in value["endpoints"]]
    addresses = [address for one in endpoints for address in one["addresses"]]
    return _changed(value, endpoints), *((addresses, []) if ready else ([], addresses))


def _changed(value: Object, endpoints: list[dict[str, Any]]) -> Object:
    metadata = value["metadata"]
    annotations = {
        **metadata.get("annotations", {}),
        TRIGGER_TIME: datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    generation = metadata.get("generation", 0) + 1
    return {
        **value,
        "metadata": {**metadata, "annotations": annotations, "generation": generation},
        "endpoints": endpoints,
    }
