"""What the test API server knows: objects, versions, a bounded history. Pure.

One counter numbers the changes of all resources, as etcd's revision does. Values are never changed in place: lists of
an older version, watches and a restored store share them. An object is encoded once, whoever is sent it.
"""

import base64
import binascii
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import uuid4

import orjson

from tests.apiserver.options import NOT_OLDER, Options
from tests.apiserver.resources import BY_KIND, WATCHED, Object, Resource
from tests.apiserver.selectors import Selector
from tests.apiserver.status import ApiError, continue_expired, list_expired, version_too_large, version_too_old

# in a continue token: the newest state, whatever it is by then
NEWEST = -1


class Record(NamedTuple):
    """An object without its kind and apiVersion, as a list has it, and its bytes."""

    value: Object
    item: bytes


class Change:
    """One write: what there was, and what there is. The lines of a watch are made when they are first wanted."""

    __slots__ = ("_lines", "key", "new", "old", "resource", "version")

    def __init__(self, resource: Resource, key: str, version: int, old: Record | None, new: Record | None) -> None:
        self.resource, self.key, self.version, self.old, self.new = resource, key, version, old, new
        self._lines: dict[str, bytes] = {}

    def line(self, selector: Selector) -> bytes | None:
        """What a watch with that selector is told, if anything."""
        was = self.old is not None and selector.matches(self.old.value)
        now = self.new is not None and selector.matches(self.new.value)
        if not (was or now):
            return None
        return self._line("MODIFIED" if was and now else "ADDED" if now else "DELETED")

    def _line(self, what: str) -> bytes:
        if what not in self._lines:
            self._lines[what] = event_line(self.resource, what, self._gone() if what == "DELETED" else self.new)
        return self._lines[what]

    def _gone(self) -> Record | None:
        """The object as it last was, under the version of the change that took it away."""
        return self.old and _record(_at_version(self.old.value, self.version))


class Page(NamedTuple):
    """One answer to a list. `token`: where the next page begins, "" for the last; `remaining`: objects after this."""

    items: list[bytes]
    version: int
    token: str
    remaining: int


def event_line(resource: Resource, what: str, record: Record | None) -> bytes:
    """One line of a watch."""
    assert record is not None
    return b'{"type":"%s","object":%s%s}\n' % (what.encode(), resource.head, record.item[1:])


def key_of(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


class Store:
    """`history`: how many changes are remembered; older ones are compacted."""

    def __init__(self, history: int) -> None:
        self.version = 1
        self.compacted = 0
        self._limit = history
        self._objects: dict[Resource, dict[str, Record]] = {resource: {} for resource in WATCHED}
        self._history: deque[Change] = deque()

    def put(self, obj: Object) -> Change:
        """Create or replace. uid and creationTimestamp are kept, or given where there are none."""
        resource = BY_KIND[obj["kind"]]
        key = key_of(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        old = self._objects[resource].get(key)
        kept = old.value["metadata"] if old else {}
        metadata = {
            "uid": kept.get("uid") or str(uuid4()),
            "creationTimestamp": kept.get("creationTimestamp") or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **obj["metadata"],
        }
        value = {"metadata": metadata, **{k: v for k, v in obj.items() if k not in ("kind", "apiVersion", "metadata")}}
        new = _record(_at_version(value, self.version + 1))
        self._objects[resource][key] = new
        return self._changed(resource, key, old, new)

    def delete(self, resource: Resource, key: str) -> Change:
        """Raises KeyError."""
        return self._changed(resource, key, self._objects[resource].pop(key), None)

    def _changed(self, resource: Resource, key: str, old: Record | None, new: Record | None) -> Change:
        self.version += 1
        change = Change(resource, key, self.version, old, new)
        self._history.append(change)
        if len(self._history) > self._limit:
            self.compacted = self._history.popleft().version
        return change

    def expire(self) -> None:
        """Compact all of the history; a write elsewhere has made every version that anybody knows an old one."""
        self.version += 1
        self.compacted = self.version
        self._history.clear()

    def restore(self, version: int) -> None:
        """Go back to that version, and go on from there: the versions after it are given again, to other changes.

        Raises ValueError if it is not known (any more).
        """
        if not self.compacted <= version <= self.version:
            raise ValueError(f"version {version} is not between {self.compacted} and {self.version}")
        while self._history and self._history[-1].version > version:
            _undo(self._objects[self._history[-1].resource], self._history.pop())
        self.version = version

    def newest(self, resource: Resource) -> Mapping[str, Record]:
        return self._objects[resource]

    def sorted_objects(self, resource: Resource) -> Iterator[Record]:
        objects = self._objects[resource]
        return (objects[key] for key in sorted(objects))

    def changes_after(self, resource: Resource, version: int) -> list[Change]:
        """Raises `ApiError` (410)."""
        if version < self.compacted:
            raise version_too_old(version, self.compacted)
        return [change for change in self._history if change.version > version and change.resource is resource]

    def page(self, resource: Resource, wanted: Options) -> Page:
        """Raises `ApiError`: 400 for a token that is none, 410 for a version too old, 504 for one too large."""
        version, start, limit = self._place(wanted)
        objects = self._state_at(resource, version)
        keys = [key for key in sorted(objects) if key > start and wanted.selector.matches(objects[key].value)]
        shown = keys[:limit] if limit else keys
        remaining = len(keys) - len(shown)
        token = _token(version, shown[-1]) if remaining else ""
        return Page([objects[key].item for key in shown], version, token, remaining)

    def check_not_future(self, version: int | None) -> None:
        """Raises `ApiError` (504)."""
        if version is not None and version > self.version:
            raise version_too_large(version, self.version)

    def _place(self, wanted: Options) -> tuple[int, str, int]:
        """The version to show, the key after which to begin, and how many objects at most."""
        if wanted.token:
            if wanted.version is not None:
                raise ApiError(400, "specifying resource version is not allowed when using continue")
            version, start = _place_of(wanted.token)
            if version != NEWEST and not self.compacted <= version <= self.version:
                raise continue_expired(_token(NEWEST, start))
            return (self.version if version == NEWEST else version), start, wanted.limit
        self.check_not_future(wanted.version)
        # from the watch cache, which knows no pages
        if wanted.version == 0:
            return self.version, "", 0
        if wanted.version is None or wanted.match == NOT_OLDER or not (wanted.match or wanted.limit):
            return self.version, "", wanted.limit
        if wanted.version < self.compacted:
            raise list_expired()
        return wanted.version, "", wanted.limit

    def _state_at(self, resource: Resource, version: int) -> Mapping[str, Record]:
        objects = self._objects[resource]
        if version == self.version:
            return objects
        objects = dict(objects)
        for change in reversed(self._history):
            if change.version <= version:
                break
            if change.resource is resource:
                _undo(objects, change)
        return objects


def _record(value: Object) -> Record:
    return Record(value, orjson.dumps(value))


def _at_version(value: Object, version: int) -> Object:
    return {**value, "metadata": {**value["metadata"], "resourceVersion": str(version)}}


def _undo(objects: dict[str, Record], change: Change) -> None:
    if change.old is None:
        del objects[change.key]
    else:
        objects[change.key] = change.old


def _token(version: int, start: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})).decode()


def _place_of(token: str) -> tuple[int, str]:
    try:
        place = orjson.loads(base64.urlsafe_b64decode(token))
        return int(place["rv"]), str(place["start"])
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise ApiError(400, f"continue key is not valid: {error}") from None
