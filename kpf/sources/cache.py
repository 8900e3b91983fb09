"""What several files, the origins, have of each object, and which of it counts. Pure.

Rules: an object that two origins have counts as the first of them (by name) has it, and the other is reported.
"""

from collections.abc import Iterable
from itertools import chain

from kpf.model.snapshot import Changes, Problem, Snapshot
from kpf.sources.decode import Decoded
from kpf.sources.indexer import Indexer, Key


class Cache:
    """`put` and `drop` take what origins have; nothing changes for the outside before `snapshot`.

    `node_name` is this node's: other Nodes are passed over.
    """

    def __init__(self, node_name: str = "") -> None:
        self._indexer = Indexer(node_name)
        self._claims: dict[Key, dict[str, list[Decoded]]] = {}
        self._keys: dict[str, set[Key]] = {}
        self._nameless: dict[str, tuple[Problem, ...]] = {}
        self._dirty: set[Key] = set()
        self._last: Snapshot | None = None

    def put(self, origin: str, objects: Iterable[Decoded]) -> None:
        """These are all objects that the origin has now."""
        known = self._nameless.get(origin, ())
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
        if self._dirty or tuple(nameless) != known:
            self._last = None

    def knows(self, origin: str) -> bool:
        """There is an object that the origin has."""
        return bool(self._keys.get(origin))

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
                versions = [one for _, listed in sorted(self._claims.get(key, {}).items()) for one in listed]
                self._indexer.put(key, versions, self._duplicates(key))
            self._dirty.clear()
            self._last = self._indexer.snapshot(chain.from_iterable(self._nameless.values()))
        return self._last

    @property
    def changes(self) -> Changes:
        """Until the last snapshot."""
        return self._indexer.changes

    def _duplicates(self, key: Key) -> list[Problem]:
        holders = [origin for origin, listed in sorted(self._claims.get(key, {}).items()) for _ in listed]
        kind, name = key
        return [
            Problem(origin, f"{kind} {name}", "metadata.name", f"is in {holders[0]} already: this one is left out")
            for origin in holders[1:]
        ]
