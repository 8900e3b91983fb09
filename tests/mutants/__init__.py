"""Defects put into kpf on purpose, each with the tests that must notice it: `make mutants` (`python -m tests.mutants`).

One file an area, each with its `MUTANTS`; `catalogue` has them all. A mutant stands for a fault that was made once, or
that a test let through once. Its text is exact, so it must be kept up to date with the code: `tests/test_mutants.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file` (from the root of the project) the one place that reads `old` reads `new`: one of `tests` must fail.

    `name` says what is broken, in a few words. `tests` are pytest's node ids.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
