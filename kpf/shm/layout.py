"""Where everything is in the shared memory, in words of 8 bytes. Pure arithmetic, no memory is touched here.

Who writes what:
- A frontend's record, its member list, the records of its members and its affinity table are read and written under the
  frontend's lock only (`kpf.shm.lock`). A change takes effect by one aligned store of one word; what was written
  before it is garbage until then, so a holder that is killed at any instant leaves a consistent state.
- A worker's own record and its counters have one writer, that worker, and need no lock.
- The master alone gives out slots, extents and affinity tables. Its books about them are in its own memory, and can be
  made again from what is here (`kpf.shm.adoption`), wherever it was when it was killed.

Times are CLOCK_MONOTONIC milliseconds. Addresses are 16 bytes, IPv4 v4-mapped.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

WORD = 8
MAGIC = 0x6B70662D73686D21
# goes up with every change of what is below; magic, version and description stay where they are for ever
VERSION = 3

WORKER_SLOTS = 512
FRONTEND_CAPACITY = 1 << 16
MEMBER_CAPACITY = 1 << 18
ARENA_WORDS = 1 << 22

# The header.
MAGIC_AT, VERSION_AT = 0, 1
WORKERS_USED_AT, FRONTENDS_USED_AT, MEMBERS_USED_AT = 2, 3, 4  # slots from here on were never in use
SEED_AT = 5  # two odd random words for the hash of affinity tables
SERIAL_AT = 7  # of the last identity that was given out, so that none is again, by whichever master
DESCRIPTION_AT = 16  # how many bytes, and these: `kpf.shm.description`
HEADER_WORDS = 512

# A worker's record, on cache lines of its own. The heartbeat (ms) says whether the slot is taken; who takes one, or
# gives it back (0), writes it for a worker that is not there. The last one is the master's: a worker that is leaving is
# to end now (1).
HEARTBEAT, PAUSED, ACTIVE, TOTAL, PAUSES, GENERATION, PID, MUST_END = range(8)
WORKER_WORDS = 64

# A frontend's record: the list word, the affinity timeout (ms, 0: none), 1 + the index of its affinity table, entries
# in use there, entries evicted from it. While the timeout is 0, no worker looks at the table. And, without the lock:
# whether connections may come back by another node (1), so that it has but a share of each worker's sessions.
# The anchor, an address and a port, is valid while the list word is ANCHORED. The state is the last word, so that what
# clears the record in order ends with it.
LIST, TIMEOUT, AFFINITY_TABLE, AFFINITY_ENTRIES, EVICTIONS, MAY_LOOP, ANCHOR, ANCHOR_PORT = 0, 1, 2, 3, 4, 5, 6, 8
FRONTEND_WORDS = 16
STATE = FRONTEND_WORDS - 1

# A frontend's label: how many bytes, and these. What they say is the master's affair.
LABEL_LENGTH, LABEL_BYTES = 0, 1
LABEL_WORDS = 64
LABEL_LIMIT = (LABEL_WORDS - LABEL_BYTES) * WORD

# The list word: all that makes up the cursor, so that one store commits list and cursor together.
# Cursor: 0 = nobody was served, else 1 + the index of the last one served; next is cursor % count. ANCHORED: the last
# one served is not in the list any more, but is the anchor; cursor is the index of the next one.
INDEX_MASK = (1 << 20) - 1
COUNT_SHIFT = 20
OFFSET_SHIFT = 40
OFFSET_MASK = (1 << 22) - 1
ANCHORED = 1 << 63
KEEP_LIST = (1 << 62) - (1 << 20)  # offset and count

# A list is the slots of its members, and where it is longer than this, a note for each so many of them: until when
# (ms) all of these are ejected for sure.
NOTED_MEMBERS = 64

# A member's record. Identity: 64 bit, serial << 24 | slot, never used again; 0 once it has left the list. Connect time:
# how long its answers take (ms); 0: not longer than a dial waits anyway. Owner: the frontend's slot.
IDENTITY, ADDRESS, PORT, HEALTH, CONNECT_TIME, OWNER = 0, 1, 3, 4, 5, 6
MEMBER_WORDS = 8
SLOT_MASK = (1 << 24) - 1
SERIAL_SHIFT = 24

# The health word: ejected until (ms) << 16 | one connection is probing it << 15 | ejected for (ms). 0: healthy.
# Probed without having been ejected: it was silent while another one answered, and its dial is still waited for.
UNTIL_SHIFT = 16
PROBING = 1 << 15
FOR_MASK = PROBING - 1

# An affinity table: buckets of entries; client address, identity (the entry counts when it is there), when it was last
# used. 32,768 clients of one frontend on one node: 128 full nodes' worth of pods; 1 MiB at most, touched page by page.
ENTRY_CLIENT, ENTRY_IDENTITY, ENTRY_STAMP = 0, 2, 3
ENTRY_WORDS = 4
BUCKET_ENTRIES = 8
BUCKET_WORDS = BUCKET_ENTRIES * ENTRY_WORDS
BUCKET_BITS = 12
AFFINITY_TABLE_WORDS = BUCKET_WORDS << BUCKET_BITS
AFFINITY_TABLES = 1 << 12

PAGE_WORDS = 512


class State(IntEnum):
    """Of a frontend. RETIRED: its sessions may go on. FREED: nobody refers to it, its place is being cleaned."""

    FREE = 0
    LIVE = 1
    RETIRED = 2
    FREED = 3


class Reason(IntEnum):
    """Why a dial, or in the end a connection, has failed. PORTS: no local port left towards the endpoint."""

    REFUSED = 0
    UNREACHABLE = 1
    TIMEOUT = 2
    PORTS = 3
    RESOURCES = 4
    NO_ENDPOINT = 5


# Counters of one worker for one frontend. Those in TOTAL and not in ENDED are active.
F_TOTAL, F_ENDED, F_BYTES_IN, F_BYTES_OUT, F_RETRIES, F_HITS = range(6)
F_FAILED = 6  # by Reason
# Beside them, how long clients have waited for a backend's answer, and how long connections have lasted from the moment
# that they were accepted: milliseconds in all, and how many took less than each bound, and not less than the one
# before it; the last bucket has those that took longer than any.
DIAL_BOUNDS_MS = tuple(4**power for power in range(9))
DURATION_BOUNDS_MS = tuple(4**power for power in range(13))
F_DIALS_MS = 12
F_DIALS = 13
F_LASTED_MS = 23
F_LASTED = 24
FRONTEND_COUNTERS = 40

# Counters of one worker for one member. The last Reason never belongs to a member.
M_TOTAL, M_ACTIVE = range(2)
M_FAILURES = 2  # by Reason
MEMBER_REASONS = tuple(reason for reason in Reason if reason is not Reason.NO_ENDPOINT)
MEMBER_COUNTERS = 8


# by the bits of a number of milliseconds: which word counts it
F_DIALS_BY_BITS = tuple(F_DIALS + min((bits + 1) // 2, len(DIAL_BOUNDS_MS)) for bits in range(65))
F_LASTED_BY_BITS = tuple(F_LASTED + min((bits + 1) // 2, len(DURATION_BOUNDS_MS)) for bits in range(65))


def notes_of(count: int) -> int:
    """How many notes a list of so many members has."""
    return 0 if count <= NOTED_MEMBERS else -(-count // NOTED_MEMBERS)


class Address(NamedTuple):
    """Where a member is reached: 16 bytes (IPv4 v4-mapped), and a port. Sorts as numbers within a family."""

    packed: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Index of the first word of each area. Areas begin on pages."""

    worker_records: int = field(init=False)
    frontends: int = field(init=False)
    labels: int = field(init=False)
    members: int = field(init=False)
    arena: int = field(init=False)
    frontend_counters: int = field(init=False)
    member_counters: int = field(init=False)
    affinity_tables: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        at = HEADER_WORDS
        for area, words in (
            ("worker_records", WORKER_SLOTS * WORKER_WORDS),
            ("frontends", FRONTEND_CAPACITY * FRONTEND_WORDS),
            ("labels", FRONTEND_CAPACITY * LABEL_WORDS),
            ("members", MEMBER_CAPACITY * MEMBER_WORDS),
            ("arena", ARENA_WORDS),
            ("frontend_counters", WORKER_SLOTS * FRONTEND_CAPACITY * FRONTEND_COUNTERS),
            ("member_counters", WORKER_SLOTS * MEMBER_CAPACITY * MEMBER_COUNTERS),
            ("affinity_tables", AFFINITY_TABLES * AFFINITY_TABLE_WORDS),
        ):
            object.__setattr__(self, area, at)
            at += -(-words // PAGE_WORDS) * PAGE_WORDS
        object.__setattr__(self, "end", at)

    def worker(self, worker: int) -> int:
        """The record of a worker, slot 0..511: the index of its first word, as with all of these."""
        return self.worker_records + worker * WORKER_WORDS

    def frontend(self, slot: int) -> int:
        """The record of a frontend, slot 0..65,535."""
        return self.frontends + slot * FRONTEND_WORDS

    def label(self, slot: int) -> int:
        """The label of a frontend, slot 0..65,535."""
        return self.labels + slot * LABEL_WORDS

    def member(self, slot: int) -> int:
        """The record of a member, slot 0..262,143."""
        return self.members + slot * MEMBER_WORDS

    def frontend_counter(self, worker: int, slot: int) -> int:
        """A worker's own counters for a frontend: `FRONTEND_COUNTERS` words, by `F_TOTAL` and the others."""
        return self.frontend_counters + (worker * FRONTEND_CAPACITY + slot) * FRONTEND_COUNTERS

    def member_counter(self, worker: int, slot: int) -> int:
        """A worker's own counters for a member: `MEMBER_COUNTERS` words, by `M_TOTAL` and the others."""
        return self.member_counters + (worker * MEMBER_CAPACITY + slot) * MEMBER_COUNTERS

    def affinity_table(self, index: int) -> int:
        """An affinity table, 0..4,095: its first bucket."""
        return self.affinity_tables + index * AFFINITY_TABLE_WORDS
