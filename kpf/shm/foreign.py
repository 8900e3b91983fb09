"""Another version's shared memory, read as it describes itself. Nothing is written, and nothing mapped.

What its header says is checked: it may be a later version's, or nonsense.
"""

import errno
import os
from collections.abc import Iterator

from kpf.shm import description
from kpf.shm.description import Area, DescriptionError
from kpf.shm.layout import FRONTEND_CAPACITY, MEMBER_CAPACITY, WORD, WORKER_SLOTS
from kpf.shm.region import RegionError, described, sealed_size

# records that are read, and compared, at once
BLOCK, CHUNK = 1024, 64
# lseek SEEK_DATA: there is nothing but holes
NO_DATA = {errno.ENXIO}


class Records:
    """Some records of an area, as they were at one moment; a word that was being written may be torn."""

    def __init__(self, area: Area, content: bytes) -> None:
        self._area = area
        self._words = memoryview(content).cast("Q")
        self._count = len(self._words) // area.stride

    def column(self, name: str) -> list[int]:
        """A field of all records; zeros if that version does not have it."""
        field = self._area.fields.get(name)
        if field is None or not self._count:
            return [0] * self._count
        words = self._words[field.index :: self._area.stride].tolist()
        if field.width == WORD * 8:
            return words
        mask = (1 << field.width) - 1
        return [word >> field.shift & mask for word in words]

    def value(self, record: int, name: str) -> int:
        """A field of one record; 0 if that version does not have it."""
        field = self._area.fields.get(name)
        if field is None:
            return 0
        return self._words[record * self._area.stride + field.index] >> field.shift & ((1 << field.width) - 1)

    def long(self, record: int, name: str) -> bytes:
        """A field of several words."""
        field, start = self._area.fields[name], record * self._area.stride
        return self._words[start + field.index : start + field.index + field.width // 64].tobytes()


class Foreign:
    """`description`: what is where. Raises `RegionError` if it is no memory of kpf's, OSError."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size, (_, text) = sealed_size(descriptor), described(descriptor)
        try:
            self.description = description.read(text, words=size // WORD)
        except DescriptionError as error:
            raise RegionError(str(error)) from error
        used = self.records("header", 0, 1)
        self.workers = self._used(used, "workers", WORKER_SLOTS)
        self.frontends = self._used(used, "frontends", FRONTEND_CAPACITY)
        self.members = self._used(used, "members", MEMBER_CAPACITY)

    def _used(self, header: Records, area: str, limit: int) -> int:
        """How many places are in use; more than this version has would have no place there."""
        used = header.column(f"{area} used")[0]
        if used > min(self.description[area].count, limit):
            raise RegionError(f"{used} places of {area} are said to be in use")
        return used

    def records(self, name: str, first: int, count: int) -> Records:
        """So many records of an area. Raises `RegionError` if there are not so many."""
        area = self.description[name]
        if first < 0 or count < 0 or first + count > area.count:
            raise RegionError(f"there are no {name} {first} to {first + count - 1}")
        return Records(area, self.read((area.start + first * area.stride) * WORD, count * area.stride * WORD))

    def read(self, at: int, size: int) -> bytes:
        """So many bytes; holes stay holes. Raises `RegionError` if there are fewer."""
        content = os.pread(self.descriptor, size, at)
        if len(content) < size:
            raise RegionError("the shared memory is smaller than it says")
        return content

    def written(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where between these bytes something has been written at all: page by page, as stretches of bytes."""
        at = start
        while at < end:
            try:
                first = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno in NO_DATA:
                    return
                raise
            if first >= end:
                return
            at = os.lseek(self.descriptor, first, os.SEEK_HOLE)
            yield first, min(at, end)


class Watched:
    """Records that are looked at again and again. What was zeros until now takes no memory."""

    def __init__(self, old: Foreign, name: str, first: int, count: int) -> None:
        self._old, self._area, self._count = old, old.description[name], count
        self._size = self._area.stride * WORD
        self._at = (self._area.start + first * self._area.stride) * WORD
        self._blocks: dict[int, bytes] = {}

    def changes(self) -> Iterator[tuple[int, Records, Records]]:
        """Number of a record that is not what it was, or not zeros at first; the record now, and as it was.

        Raises `RegionError`.
        """
        for first in range(0, self._count, BLOCK):
            length = min(BLOCK, self._count - first) * self._size
            now = self._old.read(self._at + first * self._size, length)
            before = self._blocks.get(first) or bytes(length)
            if now != before:
                self._blocks[first] = now
                for at in self._different(before, now):
                    changed, was = now[at : at + self._size], before[at : at + self._size]
                    yield first + at // self._size, Records(self._area, changed), Records(self._area, was)

    def _different(self, before: bytes, now: bytes) -> Iterator[int]:
        """Where records are, in bytes."""
        size, step = self._size, CHUNK * self._size
        for first in range(0, len(now), step):
            last = min(first + step, len(now))
            if before[first:last] != now[first:last]:
                yield from (at for at in range(first, last, size) if before[at : at + size] != now[at : at + size])
