"""Finds members that are ejected, without any lock: for the log, a part of memory at a time."""

from itertools import compress
from typing import NamedTuple

from kpf.shm import health
from kpf.shm.layout import (
    FOR_MASK,
    HEALTH,
    IDENTITY,
    LABEL_BYTES,
    LABEL_LENGTH,
    LABEL_WORDS,
    M_FAILURES,
    MEMBER_REASONS,
    MEMBER_WORDS,
    MEMBERS_USED_AT,
    OWNER,
    Address,
    Reason,
)
from kpf.shm.lookups import address_at
from kpf.shm.observer import Observer
from kpf.shm.region import Region


class Ejection(NamedTuple):
    """`frontend`: the slot of the member's. `began_ms`: when this ejection has, CLOCK_MONOTONIC; None if it is over.

    `failures`: of all dials so far, by reason.
    """

    identity: int
    address: Address
    frontend: int
    began_ms: int | None
    failures: dict[Reason, int]


class Ejections:
    """Looks at a memory."""

    def __init__(self, region: Region) -> None:
        self._region, self._words, self._layout = region, region.words, region.layout
        self._observer = Observer(region)

    @property
    def members(self) -> int:
        """Slots that were ever in use."""
        return self._words[MEMBERS_USED_AT]

    def within(self, start: int, stop: int) -> list[int]:
        """The slots from `start` on, before `stop`, whose members have failed, and not answered since.

        One that is only suspected is none of them.
        """
        layout, words = self._layout, self._words
        said = words[layout.member(start) + HEALTH : layout.member(stop) : MEMBER_WORDS].tolist()
        found = compress(range(start, stop), said)
        return [one for one in found if said[one - start] & FOR_MASK and self.identity(one)]

    def identity(self, slot: int) -> int:
        """Of the member that has this slot, 0 if it has left."""
        return self._words[self._layout.member(slot) + IDENTITY]

    def of(self, slot: int) -> Ejection:
        """What is known of a member that has failed."""
        words, at = self._words, self._layout.member(slot)
        began_ms = health.since_ms(words[at + HEALTH])
        address = address_at(self._region, at)
        return Ejection(words[at + IDENTITY], address, words[at + OWNER], began_ms, self.failures(slot))

    def label(self, frontend: int) -> bytes:
        """Of the frontend that has this slot; empty if it has none, or is gone."""
        at = self._layout.label(frontend)
        length = self._words[at + LABEL_LENGTH]
        return self._words[at + LABEL_BYTES : at + LABEL_WORDS].tobytes()[:length]

    def failures(self, slot: int) -> dict[Reason, int]:
        """Dials of this member that have failed, by reason."""
        return {one: self._observer.member_sum(slot, M_FAILURES + one) for one in MEMBER_REASONS}
