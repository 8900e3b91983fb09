"""Whose turn it is. Pure.

Subjects take turns within each case of each round, each time in another order: what changes in the machine over minutes
concerns all alike, and nobody always comes after the same other one. The order is by chance, and the same in every run.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

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
            chance = Random(f"{case} {round_}")
            for subject in chance.sample(its_subjects, len(its_subjects)):
                yield Place(round_, case, subject)
