"""Session affinity: which member a client stays with. Everything here happens under the frontend's lock.

A table has buckets of 8 entries; a client's entry is in the one bucket that its address hashes to. The hash is seeded
at random, so nobody can aim at a bucket. An entry takes effect, and ends, with its identity word.
"""

import socket
from typing import NamedTuple

from kpf.shm.layout import (
    BUCKET_BITS,
    BUCKET_ENTRIES,
    BUCKET_WORDS,
    ENTRY_CLIENT,
    ENTRY_IDENTITY,
    ENTRY_STAMP,
    ENTRY_WORDS,
    IDENTITY,
    SEED_AT,
    SLOT_MASK,
)
from kpf.shm.region import Region

_WORD_MASK = (1 << 64) - 1
_V4_PREFIX = 0xFFFF << 32


class Client(NamedTuple):
    """A client's address, 16 bytes, IPv4 v4-mapped, as two words."""

    high: int
    low: int


class AffinityTable(NamedTuple):
    """Where a frontend's table begins, and how long its entries count after they were used last."""

    start: int
    timeout_ms: int


def client_of(host: str) -> Client:
    """From an address as `accept` gives it; an IPv4 one becomes v4-mapped."""
    if ":" not in host:
        return Client(0, _V4_PREFIX | int.from_bytes(socket.inet_aton(host), "big"))
    packed = socket.inet_pton(socket.AF_INET6, host)
    return Client(int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big"))


class AffinityEntries:
    """The entries of all affinity tables. `entry` is the index of an entry's first word; 0 is none."""

    def __init__(self, region: Region) -> None:
        self._words, self._layout = region.words, region.layout
        self._seeds = self._words[SEED_AT], self._words[SEED_AT + 1]

    def find(self, table: AffinityTable, client: Client, *, now_ms: int) -> int:
        """The client's entry, if it names a member that is there and has not expired; else 0."""
        words, bucket = self._words, self._bucket(table, client)
        high, low = client
        for entry in range(bucket, bucket + BUCKET_WORDS, ENTRY_WORDS):
            if words[entry + 1] == low and words[entry] == high and self.counts(table, entry, now_ms):
                return entry
        return 0

    def counts(self, table: AffinityTable, entry: int, now_ms: int) -> bool:
        """True if the entry is in use, its member is in the list, and it has not expired."""
        identity, stamp_ms = self._words[entry + ENTRY_IDENTITY], self._words[entry + ENTRY_STAMP]
        if identity == 0 or now_ms - stamp_ms >= table.timeout_ms:
            return False
        return self._words[self._layout.member(identity & SLOT_MASK) + IDENTITY] == identity

    def store(self, table: AffinityTable, client: Client, identity: int, *, now_ms: int) -> tuple[bool, bool]:
        """Keep the client at that member. Whether an entry was added, and whether one that counted was evicted."""
        words = self._words
        entry = self._entry_for(table, client, now_ms)
        added = words[entry + ENTRY_IDENTITY] == 0
        same = words[entry] == client.high and words[entry + 1] == client.low
        evicted = not same and self.counts(table, entry, now_ms)
        if not same:
            words[entry + ENTRY_IDENTITY] = 0
            words[entry + ENTRY_CLIENT], words[entry + ENTRY_CLIENT + 1] = client
        words[entry + ENTRY_STAMP] = now_ms
        words[entry + ENTRY_IDENTITY] = identity
        return added, evicted

    def drop(self, table: AffinityTable, client: Client, identity: int) -> bool:
        """End the client's entry if it still names this member."""
        words, bucket = self._words, self._bucket(table, client)
        for entry in range(bucket, bucket + BUCKET_WORDS, ENTRY_WORDS):
            if words[entry : entry + ENTRY_STAMP].tolist() == [*client, identity]:
                words[entry + ENTRY_IDENTITY] = 0
                return True
        return False

    def _entry_for(self, table: AffinityTable, client: Client, now_ms: int) -> int:
        """The client's own entry, else one that does not count any more, else the oldest."""
        bucket = self._bucket(table, client)
        entries = [bucket + ENTRY_WORDS * index for index in range(BUCKET_ENTRIES)]
        words = self._words
        own = [entry for entry in entries if words[entry] == client.high and words[entry + 1] == client.low]
        void = [entry for entry in entries if not self.counts(table, entry, now_ms)]
        if own or void:
            return (own or void)[0]
        return min(entries, key=lambda entry: words[entry + ENTRY_STAMP])

    def _bucket(self, table: AffinityTable, client: Client) -> int:
        # neighbours, as addresses are, need a second round to scatter; the high bits are the good ones
        first, second = self._seeds
        mixed = (client.high * first + client.low * second) & _WORD_MASK
        mixed = (mixed ^ mixed >> 32) * first & _WORD_MASK
        return table.start + (mixed >> (64 - BUCKET_BITS)) * BUCKET_WORDS
