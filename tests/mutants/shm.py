"""Shared memory: round robin, members, affinity."""

from tests.mutants import Mutant

BALANCER = "tests/test_shm_balancer.py"

MUTANTS = (
    Mutant(
        "a next try may pick a member that was tried",
        "kpf/shm/round_robin.py",
        "            elif words[record + IDENTITY] not in tried:",
        "            elif True:",
        (BALANCER,),
    ),
    Mutant(
        "an affinity entry that was not counted makes the count negative",
        "kpf/shm/balancer.py",
        "words[at + AFFINITY_ENTRIES] = max(words[at + AFFINITY_ENTRIES] - 1, 0)",
        "words[at + AFFINITY_ENTRIES] -= 1",
        (f"{BALANCER}::test_a_pin_that_was_not_counted_does_not_make_the_count_negative",),
    ),
    Mutant(
        "an affinity entry's identity is written before its client",
        "kpf/shm/affinity.py",
        "            words[entry + ENTRY_IDENTITY] = 0\n"
        "            words[entry + ENTRY_CLIENT], words[entry + ENTRY_CLIENT + 1] = client\n",
        "            words[entry + ENTRY_IDENTITY] = identity\n"
        "            words[entry + ENTRY_CLIENT], words[entry + ENTRY_CLIENT + 1] = client\n",
        (f"{BALANCER}::test_a_pin_that_was_half_stored_is_nobodys",),
    ),
    Mutant(
        "an affinity entry that is used is not lengthened",
        "kpf/shm/balancer.py",
        "        words[entry + ENTRY_STAMP] = now_ms\n        return record",
        "        return record",
        (f"{BALANCER}::test_a_pin_that_is_used_is_lengthened",),
    ),
    Mutant(
        "an affinity entry for a member that has left counts as good",
        "kpf/shm/affinity.py",
        "return self._words[self._layout.member(identity & SLOT_MASK) + IDENTITY] == identity",
        "return True",
        (
            f"{BALANCER}::test_a_pin_to_a_member_that_has_left_is_void",
            f"{BALANCER}::test_a_pin_is_void_when_another_member_has_the_place_of_the_one_that_left",
        ),
    ),
    Mutant(
        "a list takes effect before it is written",
        "kpf/shm/directory.py",
        "        for index, member in enumerate(slots, start):\n            words[index] = member\n",
        "        words[at] = offset << OFFSET_SHIFT | len(new) << COUNT_SHIFT | cursor\n"
        "        for index, member in enumerate(slots, start):\n            words[index] = member\n",
        (f"{BALANCER}::test_a_list_that_was_half_written_is_nobodys",),
    ),
)
