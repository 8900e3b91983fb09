"""What is known of all kinds by the deltas of their reflectors, and the snapshots that come of it. Pure.

Rules: an object whose newest version is malformed stays as it last was, for as long as it is there.
"""

from operator import attrgetter

from kpf.model.names import ObjectName
from kpf.model.snapshot import Problem, Snapshot
from kpf.sources.api.deltas import Deleted, Delta, Known, Replaced, Updated
from kpf.sources.decode import Kind
from kpf.sources.indexer import Indexer


class Store:
    """`node_name` is this node's, whose Node object counts."""

    def __init__(self, node_name: str) -> None:
        self._indexer = Indexer(node_name)
        self._versions: dict[Kind, dict[ObjectName, tuple[str, str]]] = {kind: {} for kind in Kind}
        self._problems: dict[tuple[Kind, ObjectName], tuple[Problem, ...]] = {}
        self._last: Snapshot | None = None

    def apply(self, kind: Kind, delta: Delta) -> bool:
        """Take in what has happened; True if the next snapshot is another one."""
        changed = False
        if isinstance(delta, Updated):
            changed = self._update(kind, delta.object)
        elif isinstance(delta, Deleted):
            changed = self._delete(kind, delta.name)
        elif isinstance(delta, Replaced):
            names = {one.name for one in delta.objects}
            for name in [name for name in self._versions[kind] if name not in names]:
                changed |= self._delete(kind, name)
            for one in delta.objects:
                changed |= self._update(kind, one)
        if changed:
            self._last = None
        return changed

    def _update(self, kind: Kind, one: Known) -> bool:
        name = one.name
        if name is None:
            return False
        self._versions[kind][name] = (one.uid, one.version)
        changed = self._complain(kind, name, one.decoded.problems)
        if one.decoded.malformed and self._indexer.get((kind, name)) is not None:
            return changed
        return self._indexer.put((kind, name), one.decoded.value) or changed

    def _delete(self, kind: Kind, name: ObjectName) -> bool:
        self._versions[kind].pop(name, None)
        changed = self._complain(kind, name, ())
        return self._indexer.put((kind, name), None) or changed

    def _complain(self, kind: Kind, name: ObjectName, problems: tuple[Problem, ...]) -> bool:
        before = self._problems.pop((kind, name), ())
        if problems:
            self._problems[kind, name] = problems
        return problems != before

    def version(self, kind: Kind, name: ObjectName) -> tuple[str, str]:
        """uid and resourceVersion of an object, empty if it is not known."""
        return self._versions[kind].get(name, ("", ""))

    def snapshot(self) -> Snapshot:
        """Everything that is known now; the same object as before if nothing has changed."""
        if self._last is None:
            problems = [problem for found in self._problems.values() for problem in found]
            # stable: the problems of one object stay in the order of its fields
            self._last = self._indexer.snapshot(tuple(sorted(problems, key=attrgetter("object"))))
        return self._last
