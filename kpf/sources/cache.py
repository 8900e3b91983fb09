"""What several files, the origins, have of each object, and which of it counts. Pure.

Rules: an object that two origins have counts as the first of them (by name) has it, and the other is reported; one
whose newest version is malformed stays as it last was, as long as any origin has it.
"""

from collections.abc import Iterable
from operator import attrgetter

from kpf.model.snapshot import Problem, Snapshot
from kpf.sources.decode import Decoded, Value
from kpf.sources.indexer import Indexer, Key


class Cache:
    """`put` and `drop` take what origins have; nothing changes for the outside before `snapshot`.

    `node_name` is this node's: other Nodes are passed over.
    """

    def __init__(self, node_name: str = "") -> None:
        self._indexer = Indexer(node_name)
        self._claims: dict[Key, dict[str, list[Decoded]]] = {}
        self._keys: dict[str, set[Key]] = {}
        self._problems: dict[Key, tuple[Problem, ...]] = {}
        self._nameless: dict[str, tuple[Problem, ...]] = {}
        self._dirty: set[Key] = set()
        self._last: Snapshot | None = None

    def put(self, origin: str, objects: Iterable[Decoded]) -> None:
        """These are all objects that the origin has now."""
        complaints = self._nameless.get(origin, ())
        before = self._forget(origin)
        now: dict[Key, list[Decoded]] = {}
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

    def _forget(self, origin: str) -> dict[Key, list[Decoded]]:
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
            for key in self._dirty:
                self._settle(key)
            self._dirty.clear()
            self._last = self._indexer.snapshot(self._all_problems())
        return self._last

    def _all_problems(self) -> tuple[Problem, ...]:
        found = [problem for problems in self._nameless.values() for problem in problems]
        for problems in self._problems.values():
            found += problems
        # stable: the problems of one object stay in the order of its fields
        return tuple(sorted(found, key=attrgetter("origin", "object")))

    def _settle(self, key: Key) -> None:
        """Decide which version of an object counts."""
        versions = [one for _, listed in sorted(self._claims.get(key, {}).items()) for one in listed]
        self._indexer.put(key, _choose(versions, self._indexer.get(key)))
        problems = (*(problem for one in versions for problem in one.problems), *self._duplicates(key))
        if problems:
            self._problems[key] = problems
        else:
            self._problems.pop(key, None)

    def _duplicates(self, key: Key) -> list[Problem]:
        holders = [origin for origin, listed in sorted(self._claims.get(key, {}).items()) for _ in listed]
        kind, name = key
        return [
            Problem(origin, f"{kind} {name}", "metadata.name", f"is in {holders[0]} already: this one is left out")
            for origin in holders[1:]
        ]


def _choose(versions: list[Decoded], in_force: Value | None) -> Value | None:
    """The first version, if it can be used; else what is in force; else the first that can be used."""
    if not versions:
        return None
    if versions[0].malformed and in_force is not None:
        return in_force
    return next((one.value for one in versions if not one.malformed), None)
