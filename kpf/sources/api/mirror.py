"""What the API server has told of all kinds, and the snapshots that come of it. Pure.

Rules: an object whose newest version is malformed stays as it last was, for as long as it is there.
"""

from operator import attrgetter

from kpf.model.names import ObjectName
from kpf.model.snapshot import Problem, Snapshot
from kpf.sources.api.events import Drop, Event, Put, Replace
from kpf.sources.api.resources import Known
from kpf.sources.decode import Kind
from kpf.sources.index import Index


class Mirror:
    """`node_name` is this node's, whose Node object counts."""

    def __init__(self, node_name: str) -> None:
        self._index = Index(node_name)
        self._versions: dict[Kind, dict[ObjectName, tuple[str, str]]] = {kind: {} for kind in Kind}
        self._problems: dict[tuple[Kind, ObjectName], tuple[Problem, ...]] = {}
        self._last: Snapshot | None = None

    def tell(self, kind: Kind, event: Event) -> bool:
        """Take in what has happened; True if the next snapshot is another one."""
        changed = False
        if isinstance(event, Put):
            changed = self._put(kind, event.object)
        elif isinstance(event, Drop):
            changed = self._drop(kind, event.name)
        elif isinstance(event, Replace):
            names = {one.name for one in event.objects}
            for name in [name for name in self._versions[kind] if name not in names]:
                changed |= self._drop(kind, name)
            for one in event.objects:
                changed |= self._put(kind, one)
        if changed:
            self._last = None
        return changed

    def _put(self, kind: Kind, one: Known) -> bool:
        name = one.name
        if name is None:
            return False
        self._versions[kind][name] = (one.uid, one.version)
        changed = self._complain(kind, name, one.decoded.problems)
        if one.decoded.malformed and self._index.get((kind, name)) is not None:
            return changed
        return self._index.put((kind, name), one.decoded.value) or changed

    def _drop(self, kind: Kind, name: ObjectName) -> bool:
        self._versions[kind].pop(name, None)
        changed = self._complain(kind, name, ())
        return self._index.put((kind, name), None) or changed

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
            self._last = self._index.snapshot(tuple(sorted(problems, key=attrgetter("object"))))
        return self._last
