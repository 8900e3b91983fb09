"""Processes that are killed before any one of their stores to shared memory."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from kpf.shm.region import Region, Words


class KilledError(Exception):
    """Instead of the store that a process did not live to make."""


class Mortal:
    """The words of a region, for a process that lives for so many stores; several at once are stored one by one."""

    def __init__(self, words: Words, stores: float) -> None:
        self._words, self.left = words, stores

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int | slice, value: Any) -> None:
        if isinstance(at, slice):
            for index, word in zip(range(*at.indices(len(self._words))), value, strict=True):
                self[index] = word
            return
        self.spend()
        self._words[at] = value

    def spend(self) -> None:
        """Raises `KilledError`."""
        if self.left < 1:
            raise KilledError
        self.left -= 1


class MortalRegion(Region):
    """The same memory as another region, as a process sees it that lives for so many stores: `words.left`."""

    def __init__(self, region: Region, stores: float = math.inf) -> None:
        self.descriptor, self.layout, self._map = region.descriptor, region.layout, region._map
        self.life = Mortal(region.words, stores)
        self.words = self.life  # type: ignore[assignment]

    def discard(self, start: int, words: int) -> None:
        """As one store."""
        self.life.spend()
        super().discard(start, words)


def mortal(region: Region, stores: int) -> Region:
    """The same memory, as a process sees it that is killed before one store more."""
    return MortalRegion(region, stores)


def killed_at_each_store(act: Callable[[int], bool]) -> int:
    """Until it lives to the end. Returns how many stores that takes."""
    for stores in itertools.count():
        if act(stores):
            return stores
    raise AssertionError
