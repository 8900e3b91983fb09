"""What is known of each object, and the snapshots that come of it. Pure.

Rules: an object that two origins have counts as the first of them (by name) has it, and the other is reported; one
whose newest version is malformed stays as it last was, as long as any origin has it. A value that does not change
keeps its identity over snapshots, and so do the slices of a service as a whole.
"""

from collections.abc import Iterable
from operator import attrgetter

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import ObjectName
from kpf.model.service import Service
from kpf.model.snapshot import Node, Problem, Snapshot
from kpf.sources.decode import Decoded, Kind, Value

_Key = tuple[Kind, ObjectName]


class Cache:
    """`put` and `drop` take what origins have; nothing changes for the outside before `snapshot`.

    `node_name` is this node's: other Nodes are passed over.
    """

    def __init__(self, node_name: str = "") -> None:
        self._node_key = (Kind.NODE, ObjectName("", node_name))
        self._claims: dict[_Key, dict[str, list[Decoded]]] = {}
        self._keys: dict[str, set[_Key]] = {}
        self._in_force: dict[_Key, Value] = {}
        self._services: dict[ObjectName, Service] = {}
        self._slices: dict[ObjectName, dict[ObjectName, EndpointSlice]] = {}
        self._slice_tuples: dict[ObjectName, tuple[EndpointSlice, ...]] = {}
        self._problems: dict[_Key, tuple[Problem, ...]] = {}
        self._nameless: dict[str, tuple[Problem, ...]] = {}
        self._dirty: set[_Key] = set()
        self._last: Snapshot | None = None

    def put(self, origin: str, objects: Iterable[Decoded]) -> None:
        """These are all objects that the origin has now."""
        complaints = self._nameless.get(origin, ())
        before = self._forget(origin)
        now: dict[_Key, list[Decoded]] = {}
        nameless: list[Problem] = []
        for one in objects:
            if one.kind is None or one.name is None:
                nameless += one.problems
            else:
                now.setdefault((one.kind, one.name), []).append(one)
        for key, versions in now.items():
            self._claims.setdefault(key, {})[origin] = versions
            old = before.pop(key, [])
            if len(old) != len(versions) or any(one is not other for one, other in zip(old, versions, strict=True)):
                self._dirty.add(key)
        self._dirty.update(before)
        self._keys[origin] = set(now)
        if nameless:
            self._nameless[origin] = tuple(nameless)
        if self._dirty or tuple(nameless) != complaints:
            self._last = None

    def drop(self, origin: str) -> None:
        """The origin is gone, and what it had with it."""
        self._dirty.update(self._forget(origin))
        self._last = None

    def _forget(self, origin: str) -> dict[_Key, list[Decoded]]:
        self._nameless.pop(origin, None)
        before = {}
        for key in self._keys.pop(origin, ()):
            claims = self._claims[key]
            before[key] = claims.pop(origin)
            if not claims:
                del self._claims[key]
        return before

    def snapshot(self) -> Snapshot:
        """Everything that is known now; the same object as before if nothing has changed."""
        if self._last is None:
            services: set[ObjectName] = set()
            for key in self._dirty:
                services |= self._settle(key)
            self._dirty.clear()
            for name in services:
                self._gather(name)
            node = self._in_force.get(self._node_key)
            self._last = Snapshot(
                services=dict(self._services),
                slices=dict(self._slice_tuples),
                node=node if isinstance(node, Node) else None,
                problems=self._all_problems(),
            )
        return self._last

    def _all_problems(self) -> tuple[Problem, ...]:
        found = [problem for problems in self._nameless.values() for problem in problems]
        for problems in self._problems.values():
            found += problems
        # stable: the problems of one object stay in the order of its fields
        return tuple(sorted(found, key=attrgetter("origin", "object")))

    def _settle(self, key: _Key) -> set[ObjectName]:
        """Decide which version of an object counts; the services whose slices may have changed by it."""
        versions = [one for _, listed in sorted(self._claims.get(key, {}).items()) for one in listed]
        before = self._in_force.get(key)
        now = _choose(versions, before)
        if now == before:
            now = before
        problems = (*(problem for one in versions for problem in one.problems), *self._duplicates(key))
        if problems:
            self._problems[key] = problems
        else:
            self._problems.pop(key, None)
        if now is before:
            return set()
        if now is None:
            del self._in_force[key]
        else:
            self._in_force[key] = now
        return self._index(key, before, now)

    def _index(self, key: _Key, before: Value | None, now: Value | None) -> set[ObjectName]:
        kind, name = key
        if isinstance(now, Service):
            self._services[name] = now
        elif kind is Kind.SERVICE:
            del self._services[name]
        touched = set()
        if isinstance(before, EndpointSlice):
            del self._slices[before.service][name]
            touched.add(before.service)
        if isinstance(now, EndpointSlice):
            self._slices.setdefault(now.service, {})[name] = now
            touched.add(now.service)
        return touched

    def _gather(self, service: ObjectName) -> None:
        slices = self._slices[service]
        if slices:
            self._slice_tuples[service] = tuple(sorted(slices.values(), key=attrgetter("name")))
        else:
            del self._slices[service]
            self._slice_tuples.pop(service, None)

    def _duplicates(self, key: _Key) -> list[Problem]:
        holders = [origin for origin, listed in sorted(self._claims.get(key, {}).items()) for _ in listed]
        kind, name = key
        return [
            Problem(origin, f"{kind} {name}", "metadata.name", f"is in {holders[0]} already: this one is left out")
            for origin in holders[1:]
        ]


def _choose(versions: list[Decoded], in_force: Value | None) -> Value | None:
    """The first version, if it is sound; else what is in force; else the first sound one."""
    if not versions:
        return None
    if versions[0].problems and in_force is not None:
        return in_force
    return next((one.value for one in versions if not one.problems), None)
