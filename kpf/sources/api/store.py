"""What is known of all kinds by the deltas of their reflectors, and the snapshots that come of it. Pure."""

from kpf.model.names import ObjectName
from kpf.model.snapshot import Changes, Snapshot
from kpf.sources.api.deltas import ApiObject, Deleted, Delta, Replaced, Updated
from kpf.sources.decode import Kind
from kpf.sources.indexer import Indexer


class Store:
    """`node_name` is this node's, whose Node object counts."""

    def __init__(self, node_name: str) -> None:
        self._indexer = Indexer(node_name)
        self._versions: dict[Kind, dict[ObjectName, tuple[str, str]]] = {kind: {} for kind in Kind}
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

    def _update(self, kind: Kind, one: ApiObject) -> bool:
        name = one.name
        if name is None:
            return False
        self._versions[kind][name] = (one.uid, one.version)
        return self._indexer.put((kind, name), [one.decoded])

    def _delete(self, kind: Kind, name: ObjectName) -> bool:
        self._versions[kind].pop(name, None)
        return self._indexer.put((kind, name), [])

    @property
    def changes(self) -> Changes:
        """Until now."""
        return self._indexer.changes

    def version(self, kind: Kind, name: ObjectName) -> tuple[str, str]:
        """uid and resourceVersion of an object, empty if it is not known."""
        return self._versions[kind].get(name, ("", ""))

    def snapshot(self) -> Snapshot:
        """Everything that is known now; the same object as before if nothing has changed."""
        if self._last is None:
            self._last = self._indexer.snapshot()
        return self._last
