"""The shared memory itself: one sparse memfd, mapped by the master and all workers as 64-bit words.

Words are stored and loaded one at a time through a cast view: that compiles to one aligned 8-byte access.
`struct.pack_into` writes byte by byte, and readers see torn values.
"""

import fcntl
import mmap
import os
import secrets
import time

from kpf.shm.layout import (
    HEADER_WORDS,
    MAGIC,
    MAGIC_AT,
    PAGE_WORDS,
    SEED_AT,
    VERSION,
    VERSION_AT,
    WORD,
    Layout,
)

Words = memoryview


class RegionError(Exception):
    """The descriptor is no shared memory of this version of kpf."""


def monotonic_ms() -> int:
    """CLOCK_MONOTONIC, cut to whole milliseconds: the same in all processes of the machine."""
    return time.monotonic_ns() // 1_000_000


class Region:
    """`descriptor` stays open, and so does the duplicate that `mmap` keeps of it: see `kpf.shm.lock`."""

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self.descriptor = descriptor
        self.layout = layout
        self._map = mmap.mmap(descriptor, layout.end * WORD)
        self.words: Words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls) -> "Region":
        """Fresh and empty, for the master. Raises OSError."""
        layout = Layout()
        descriptor = os.memfd_create("kpf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, layout.end * WORD)
        # a worker that shrank it would kill everybody by SIGBUS
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        region = cls(descriptor, layout)
        words = region.words
        words[VERSION_AT] = VERSION
        words[SEED_AT], words[SEED_AT + 1] = secrets.randbits(64) | 1, secrets.randbits(64) | 1
        words[MAGIC_AT] = MAGIC
        return region

    @classmethod
    def attach(cls, descriptor: int) -> "Region":
        """What the master has made. Raises `RegionError`, OSError."""
        size = os.fstat(descriptor).st_size
        if size < HEADER_WORDS * WORD:
            raise RegionError(f"{size} bytes are no shared memory of kpf")
        header = memoryview(os.pread(descriptor, HEADER_WORDS * WORD, 0)).cast("Q")
        layout = Layout()
        if (header[MAGIC_AT], header[VERSION_AT], layout.end * WORD) != (MAGIC, VERSION, size):
            raise RegionError("this shared memory was made by another version of kpf")
        return cls(descriptor, layout)

    def read(self, start: int, words: int) -> Words:
        """A copy of so many words. What was never written stays without memory; a load would give it some.

        A word that somebody is writing may be torn.
        """
        content, wanted, at = bytearray(), words * WORD, start * WORD
        while len(content) < wanted:
            content += os.pread(self.descriptor, wanted - len(content), at + len(content))
        return memoryview(content).cast("Q")

    def discard(self, start: int, words: int) -> None:
        """Give the memory of whole pages back to the system; they read as zero afterwards."""
        assert start % PAGE_WORDS == words % PAGE_WORDS == 0
        self._map.madvise(mmap.MADV_REMOVE, start * WORD, words * WORD)
