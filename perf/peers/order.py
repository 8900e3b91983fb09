"""Whose turn it is. Pure.

Subjects take turns within each case of each round, and each round begins with another one: what changes in the machine
over minutes concerns all alike, and nobody always comes after the same noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

S = TypeVar("S")

WARM_UP = 0


class Place(NamedTuple):
    """One turn to take; round 0 warms up and does not count."""

    round: int
    case: str
    subject: str


def order(subjects: Mapping[str, Sequence[str]], rounds: int) -> Iterator[Place]:
    """Every case with each of its subjects, once to warm up and `rounds` times to count."""
    for round_ in range(rounds + 1):
        for case, its_subjects in subjects.items():
            for subject in rotated(its_subjects, round_):
                yield Place(round_, case, subject)


def rotated(items: Sequence[S], by: int) -> list[S]:
    """The items in a circle, beginning `by` places later."""
    start = by % len(items)
    return [*items[start:], *items[:start]]
