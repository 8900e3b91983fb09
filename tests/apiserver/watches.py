"""The watches that are open: what each is still to be sent, and how it ends."""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from tests.apiserver.faults import Ending
from tests.apiserver.options import Options
from tests.apiserver.resources import Object, Resource
from tests.apiserver.status import ApiError
from tests.apiserver.store import Change, Record, Store, event_line

WRITE_BYTES = 256 * 1024
INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class Line(NamedTuple):
    """`version`: of the change that it tells, 0 for none."""

    data: bytes
    version: int = 0


class Watch:
    """One open watch. Raises `ApiError` when it cannot begin: 410, 504."""

    def __init__(self, resource: Resource, wanted: Options, store: Store) -> None:
        self.resource, self._wanted, self._store = resource, wanted, store
        self.wake = asyncio.Event()
        self.ending: Ending | None = None
        self._queue: deque[Line] = deque(self._beginning())
        if self._queue:
            self.wake.set()

    def _beginning(self) -> Iterator[Line]:
        wanted, store = self._wanted, self._store
        self._after = store.version
        if wanted.initial:
            store.check_not_future(wanted.version)
            for record in store.sorted_objects(self.resource):
                if wanted.selector.matches(record.value):
                    yield Line(event_line(self.resource, "ADDED", record))
            if wanted.marked:
                yield Line(_bookmark(self.resource, store.version, INITIAL_EVENTS_END))
        elif wanted.version:
            # what comes before a version of the future is never told
            self._after = max(wanted.version, store.version)
            for change in store.changes_after(self.resource, wanted.version):
                if line := change.line(wanted.selector):
                    yield Line(line, change.version)

    def offer(self, change: Change) -> None:
        if change.resource is self.resource and change.version > self._after:
            line = change.line(self._wanted.selector)
            if line:
                self.tell(line, change.version)

    def bookmark(self) -> None:
        """Tell the newest version, if the client wants to know."""
        if self._wanted.bookmarks and self._store.version >= self._after:
            self.tell(_bookmark(self.resource, self._store.version))

    def tell(self, line: bytes, version: int = 0) -> None:
        self._queue.append(Line(line, version))
        self.wake.set()

    def end(self, ending: Ending) -> None:
        """When everything so far is sent."""
        self.ending = ending
        self.wake.set()

    def take(self) -> Iterator[tuple[bytes, list[int]]]:
        """What there is to send: lines, as many as make one write, and the versions of the changes that they tell."""
        while self._queue:
            data, versions, length = [], [], 0
            while self._queue and length < WRITE_BYTES:
                line = self._queue.popleft()
                data.append(line.data)
                length += len(line.data)
                if line.version:
                    versions.append(line.version)
            yield b"".join(data), versions


class Watches:
    """All that are open."""

    def __init__(self) -> None:
        self._open: set[Watch] = set()

    def add(self, watch: Watch) -> None:
        self._open.add(watch)

    def remove(self, watch: Watch) -> None:
        self._open.discard(watch)

    def publish(self, change: Change) -> None:
        for watch in self._open:
            watch.offer(change)

    def of(self, resource: str | None) -> list[Watch]:
        """Those of a resource (plural), or all."""
        return [watch for watch in self._open if resource in (None, watch.resource.plural)]


def error_line(error: ApiError) -> bytes:
    return b'{"type":"ERROR","object":%s}\n' % orjson.dumps(error.status)


def _bookmark(resource: Resource, version: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata: Object = {"resourceVersion": str(version)}
    if annotations:
        metadata["annotations"] = annotations
    value = {"metadata": metadata, **(resource.empty or {})}
    return event_line(resource, "BOOKMARK", Record(value, orjson.dumps(value)))
