"""The shared memory itself: one sparse memfd, mapped by the master and all workers as 64-bit words.

Words are stored and loaded one at a time through a cast view: that compiles to one aligned 8-byte access.
`struct.pack_into` writes byte by byte, and readers see torn values.
"""

import errno
import fcntl
import mmap
import os
import time

from kpf.shm import description
from kpf.shm.layout import (
    DESCRIPTION_AT,
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
# fcntl F_GET_SEALS of what has none
NO_SEALS = {errno.EINVAL}


class RegionError(Exception):
    """The descriptor is no shared memory of kpf, or one that cannot be used."""


class OtherLayoutError(RegionError):
    """It is shared memory of kpf, but another version's: its values can be carried over (`kpf.shm.carry`)."""


def monotonic_ms() -> int:
    """CLOCK_MONOTONIC, cut to whole milliseconds: the same in all processes of the machine."""
    return time.monotonic_ns() // 1_000_000


def sealed_size(descriptor: int) -> int:
    """The bytes of a memfd that nobody can shrink: who looks at what has gone dies by SIGBUS.

    Raises `RegionError` for anything else, OSError.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        if error.errno not in NO_SEALS:
            raise
        raise RegionError("what is said to be shared memory is no memfd") from error
    if not seals & fcntl.F_SEAL_SHRINK:
        raise RegionError("what is said to be shared memory of kpf could shrink while it is in use")
    return os.fstat(descriptor).st_size


def described(descriptor: int) -> tuple[int, bytes]:
    """Version and description in the header of a memory. Raises `RegionError`, OSError."""
    header = os.pread(descriptor, (DESCRIPTION_AT + 1) * WORD, 0)
    if len(header) < (DESCRIPTION_AT + 1) * WORD:
        raise RegionError(f"{len(header)} bytes are no shared memory of kpf")
    words = memoryview(header).cast("Q")
    if words[MAGIC_AT] != MAGIC:
        raise RegionError("what is said to be shared memory of kpf is none")
    if not 0 < (length := words[DESCRIPTION_AT]) <= description.FOREIGN_LIMIT:
        raise RegionError(f"shared memory of kpf, of version {words[VERSION_AT]}, does not say what is where")
    return words[VERSION_AT], os.pread(descriptor, length, (DESCRIPTION_AT + 1) * WORD)


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
        text = description.text_of(description.own())
        assert len(text) <= description.DESCRIPTION_LIMIT
        words[DESCRIPTION_AT] = len(text)
        padded = memoryview(text + bytes(-len(text) % WORD)).cast("Q")
        words[DESCRIPTION_AT + 1 : DESCRIPTION_AT + 1 + len(padded)] = padded
        # the module secrets would take a twentieth of a worker's start
        seeds = memoryview(os.urandom(2 * WORD)).cast("Q")
        words[SEED_AT], words[SEED_AT + 1] = seeds[0] | 1, seeds[1] | 1
        words[MAGIC_AT] = MAGIC
        return region

    @classmethod
    def attach(cls, descriptor: int) -> "Region":
        """What a master has made, which need not be the one that lives.

        Raises `OtherLayoutError`, `RegionError` if it is nothing of kpf's, OSError.
        """
        size, (version, text) = sealed_size(descriptor), described(descriptor)
        layout = Layout()
        if (version, text, size) != (VERSION, description.text_of(description.own()), layout.end * WORD):
            raise OtherLayoutError(f"this shared memory has the layout of another version of kpf ({version})")
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
