"""Affinity entries of another memory, into the tables of a new one, whose hash is another one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpf.shm.affinity import AffinityEntries, AffinityTable, Client
from kpf.shm.foreign import Foreign, Records
from kpf.shm.layout import AFFINITY_ENTRIES, AFFINITY_TABLE, ENTRY_IDENTITY, EVICTIONS, WORD
from kpf.shm.region import Region, RegionError

# entries that are compared at once
CHUNK = 128
# a stamp is the time at which its worker began to look at what was ready, and may be so much older than its store
LATE_MS = 5_000


@dataclass(frozen=True, slots=True)
class _Table:
    """`old`: its index in the old memory; `record`: of its frontend in the new one."""

    old: int
    record: int
    entries: AffinityTable


class AffinityCarrier:
    """Of frontends that it is told of."""

    def __init__(self, old: Foreign, region: Region) -> None:
        self._old, self._words, self._layout = old, region.words, region.layout
        self._entries = AffinityEntries(region)
        self._identities: dict[int, int] = {}
        self._tables: dict[int, _Table] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._since_ms = 0

    def add_member(self, old: int, new: int) -> None:
        """Its identities in both memories."""
        self._identities[old] = new

    def begin(self, slots: Mapping[int, int], timeouts: Sequence[int], tables: Sequence[int]) -> None:
        """By slot in the old memory: the slot in the new one; time-out (ms); 1 + the index of the table.

        Raises `RegionError` if there is no such table.
        """
        for slot, new in slots.items():
            if not timeouts[slot] or not tables[slot]:
                continue
            if tables[slot] > self._old.description["affinity tables"].count:
                raise RegionError(f"frontend slot {slot} has no affinity table {tables[slot]}")
            record = self._layout.frontend(new)
            start = self._layout.affinity_table(self._words[record + AFFINITY_TABLE] - 1)
            self._tables[slot] = _Table(tables[slot] - 1, record, AffinityTable(start, timeouts[slot]))

    def carry(self, slots: Iterable[int], now_ms: int) -> None:
        """What has changed in the tables of these frontends, by their slots in the old memory."""
        for slot in slots:
            if table := self._tables.get(slot):
                self._carry(table, now_ms)
        self._since_ms = now_ms - LATE_MS

    def _carry(self, table: _Table, now_ms: int) -> None:
        found, oldest_ms = [], now_ms - table.entries.timeout_ms
        for client, identity, stamp_ms in self._changed(table):
            if not identity:
                self._drop(table, client, now_ms)
            elif stamp_ms > oldest_ms and identity in self._identities:
                found.append((stamp_ms, client, self._identities[identity]))
        # of those that have no place, the oldest go
        for stamp_ms, client, identity in sorted(found):
            added, evicted = self._entries.store(table.entries, client, identity, now_ms=stamp_ms)
            self._words[table.record + AFFINITY_ENTRIES] += added
            self._words[table.record + EVICTIONS] += evicted

    def _drop(self, table: _Table, client: Client, now_ms: int) -> None:
        """The client's entry has ended."""
        if entry := self._entries.find(table.entries, client, now_ms=now_ms):
            self._words[entry + ENTRY_IDENTITY] = 0
            at = table.record + AFFINITY_ENTRIES
            self._words[at] = max(self._words[at] - 1, 0)

    def _changed(self, table: _Table) -> Iterator[tuple[Client, int, int]]:
        """Client, identity, and when it was last used (ms)."""
        area, since_ms = self._old.description["affinity entries"], self._since_ms
        for content in self._chunks(table.old):
            entries = Records(area, content)
            # an entry that has ended keeps its stamp; one that never was has none
            for at in [at for at, stamp_ms in enumerate(entries.column("stamp")) if stamp_ms]:
                identity, stamp_ms = entries.value(at, "identity"), entries.value(at, "stamp")
                if stamp_ms >= since_ms or not identity:
                    client = Client(entries.value(at, "client high"), entries.value(at, "client low"))
                    yield client, identity, stamp_ms

    def _chunks(self, table: int) -> Iterator[bytes]:
        """Entries that are not what they were when they were looked at last."""
        area, entry = self._old.description["affinity tables"], self._old.description["affinity entries"].stride * WORD
        start, size = (area.start + table * area.stride) * WORD, area.stride * WORD // entry * entry
        step = CHUNK * entry
        due = -1
        for first, end in self._old.written(start, start + size):
            # a chunk may be in two stretches
            begin = max((first - start) // step, due + 1)
            due = max((end - start - 1) // step, due)
            if begin > due:
                continue
            content = self._old.read(start + begin * step, min((due + 1) * step, size) - begin * step)
            for number, at in enumerate(range(0, len(content), step), begin):
                chunk = content[at : at + step]
                if self._seen.get((table, number)) != (seen := hash(chunk)):
                    self._seen[table, number] = seen
                    yield chunk
