"""Counters of another memory, summed over its workers: how much more they are than when they were looked at last."""

from collections.abc import Iterator

from kpf.shm import description
from kpf.shm.foreign import Foreign, Watched


class CounterCarrier:
    """`what`: "frontends" or "members"; `used`: how many places of these there have been."""

    def __init__(self, old: Foreign, what: str, used: int) -> None:
        name = f"{what.removesuffix('s')} counters"
        ours, theirs = description.own()[name].fields, old.description[name].fields
        self._fields = [(field.index, counter) for counter, field in ours.items() if counter in theirs]
        row = old.description[what].count
        self._workers = [Watched(old, name, worker * row, used) for worker in range(old.workers)]

    def changes(self) -> Iterator[tuple[int, int, int]]:
        """The place of what is counted, this version's index of the counter, and by how much it has changed."""
        for watched in self._workers:
            for place, now, before in watched.changes():
                for index, counter in self._fields:
                    if change := now.value(0, counter) - before.value(0, counter):
                        yield place, index, change
