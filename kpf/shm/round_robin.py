"""The round-robin cursor of a member list: who is next. Everything here happens under the frontend's lock.

A list of more than 64 members has a note behind it for each 64 of them: until when all of these are ejected. So a pick
among a thousand dead members looks at a few words, and is still the pick that looking at all of them would give.
"""

from collections.abc import Collection

from kpf.shm.health import is_ejected
from kpf.shm.layout import (
    COUNT_SHIFT,
    HEALTH,
    IDENTITY,
    INDEX_MASK,
    KEEP_LIST,
    LIST,
    MEMBER_WORDS,
    NOTED_MEMBERS,
    OFFSET_MASK,
    OFFSET_SHIFT,
    UNTIL_SHIFT,
    notes_of,
)
from kpf.shm.region import Region


class RoundRobin:
    """The cursors of all frontends. `at`: a frontend's record; `tried`: identities to pass over."""

    def __init__(self, region: Region) -> None:
        self._words = region.words
        self._members, self._arena = region.layout.members, region.layout.arena
        self._hedges = 0

    def take(self, at: int, tried: Collection[int], now_ms: int) -> int:
        """The record of the next member, 0 if there is none left. If all are ejected, none is."""
        words, (start, count, first) = self._words, self._list(at)
        index = self._pick(start, count, first, tried, now_ms)
        if index < 0:
            return 0
        words[at + LIST] = words[at + LIST] & KEEP_LIST | index + 1
        return self._record(start + index)

    def hedge(self, at: int, tried: Collection[int], now_ms: int) -> int:
        """The record of another member, and the cursor stays where it is. Scattered, so that none is dialled by all."""
        start, count, first = self._list(at)
        if not count:
            return 0
        self._hedges += 1
        index = self._pick(start, count, (first + self._hedges) % count, tried, now_ms)
        return self._record(start + index) if index >= 0 else 0

    def any_usable(self, at: int, tried: Collection[int], now_ms: int) -> bool:
        """True if there is a member that is not ejected."""
        start, count, first = self._list(at)
        return self._usable(start, count, first, tried, now_ms) >= 0

    def forget(self, at: int) -> None:
        """One of the members is no longer ejected, or not for as long as the notes say."""
        start, count, _ = self._list(at)
        for note in range(start + count, start + count + notes_of(count)):
            self._words[note] = 0

    def _list(self, at: int) -> tuple[int, int, int]:
        """Where the list begins, its length, and the index of the next in turn."""
        word = self._words[at + LIST]
        count = word >> COUNT_SHIFT & INDEX_MASK
        return self._arena + (word >> OFFSET_SHIFT & OFFSET_MASK), count, (word & INDEX_MASK) % (count or 1)

    def _record(self, at: int) -> int:
        return self._members + self._words[at] * MEMBER_WORDS

    def _pick(self, start: int, count: int, first: int, tried: Collection[int], now_ms: int) -> int:
        """The index of the first member that is not ejected, else of the first one; -1 if all have been tried."""
        index = self._usable(start, count, first, tried, now_ms)
        if index >= 0:
            return index
        for step in range(min(len(tried) + 1, count)):
            index = (first + step) % count
            if self._words[self._record(start + index) + IDENTITY] not in tried:
                return index
        return -1

    def _usable(self, start: int, count: int, first: int, tried: Collection[int], now_ms: int) -> int:
        """The index of the first member that has not been tried and is not ejected, -1 if there is none."""
        words, notes = self._words, notes_of(count)
        index, left = first, count
        while left:
            end = min(count, index - index % NOTED_MEMBERS + NOTED_MEMBERS, index + left)
            note = start + count + index // NOTED_MEMBERS if notes else 0
            if not note or words[note] <= now_ms:
                found, until_ms = self._look(start, index, end, tried, now_ms)
                if found >= 0:
                    return found
                if note and index % NOTED_MEMBERS == 0 and end in (count, index + NOTED_MEMBERS):
                    words[note] = until_ms
            left -= end - index
            index = end % count
        return -1

    def _look(self, start: int, index: int, end: int, tried: Collection[int], now_ms: int) -> tuple[int, int]:
        """The index of the first that may be used, -1 if there is none; and until when all are ejected, 0: not all."""
        words, soonest_ms = self._words, 0
        for place in range(index, end):
            record = self._members + words[start + place] * MEMBER_WORDS
            health = words[record + HEALTH]
            if is_ejected(health, now_ms):
                until_ms = health >> UNTIL_SHIFT
                soonest_ms = until_ms if place == index else min(soonest_ms, until_ms)
            elif words[record + IDENTITY] not in tried:
                return place, 0
            else:
                soonest_ms = 0
        return -1, soonest_ms
