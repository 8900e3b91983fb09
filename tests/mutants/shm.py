"""Shared memory: turns, members, affinity."""

from tests.mutants import Mutant

MUTANTS = (
    Mutant(
        "a next try may pick a member that was tried",
        "kpf/shm/balancer.py",
        "            if words[record + IDENTITY] not in tried:\n                yield index, record",
        "            yield index, record",
        ("tests/test_shm_balancer.py",),
    ),
)
