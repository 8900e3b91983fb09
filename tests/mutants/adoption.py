"""What a master leaves behind in shared memory, and what the next one makes of it."""

from tests.mutants import Mutant

ADOPTION = "tests/test_shm_adoption.py"
AT_ANY_STORE = (f"{ADOPTION}::test_killed_at_any_store_a_master_leaves_all_that_the_next_one_needs",)

MUTANTS = (
    Mutant(
        "a frontend is there before its label is",
        "kpf/shm/directory.py",
        "        slot = self._places.take_frontend()\n",
        "        slot = self._places.take_frontend()\n"
        "        self._words[self._layout.frontend(slot) + STATE] = State.LIVE\n",
        AT_ANY_STORE,
    ),
    Mutant(
        "who was served last is forgotten with the master",
        "kpf/shm/directory.py",
        "            self._words[record + ANCHOR_PORT] = last.port\n",
        "            self._words[record + ANCHOR_PORT] = 0\n",
        AT_ANY_STORE,
    ),
    Mutant(
        "a retired frontend is cleaned while it is still retired",
        "kpf/shm/directory.py",
        "            self._words[self._layout.frontend(slot) + STATE] = State.FREED\n",
        "",
        AT_ANY_STORE,
    ),
    Mutant(
        "a frontend's place is free before it is clean",
        "kpf/shm/places.py",
        "            self.tables.free.append(frontend.table)\n",
        "            self.tables.free.append(frontend.table)\n"
        "        self._clear(self._layout.frontend(slot), FRONTEND_WORDS)\n",
        AT_ANY_STORE,
    ),
    Mutant(
        "a member that a dead master has taken out keeps its clients",
        "kpf/shm/directory.py",
        "            self._words[at + IDENTITY] = 0\n            lock.release(self.descriptor, owner)",
        "            lock.release(self.descriptor, owner)",
        (f"{ADOPTION}::test_a_member_that_a_dead_master_had_taken_out_keeps_no_client",),
    ),
    Mutant(
        "identities are spent after they have been given out",
        "kpf/shm/places.py",
        "            words[SERIAL_AT] = serial + len(slots)\n",
        "            pass\n",
        (f"{ADOPTION}::test_identities_are_never_used_again_by_whichever_master",),
    ),
    Mutant(
        "a member that was never in a list is free as it is",
        "kpf/shm/adoption.py",
        "            if record[IDENTITY] or record[CONNECT_TIME]:\n",
        "            if record[CONNECT_TIME]:\n",
        (f"{ADOPTION}::test_a_member_that_a_dead_master_had_taken_out_keeps_no_client",),
    ),
    Mutant(
        "a worker slot is taken for ever once somebody has been there",
        "kpf/shm/worker_slots.py",
        "(heartbeat_ms == 0 or now_ms - heartbeat_ms > STALE_MS)",
        "heartbeat_ms == 0",
        (f"{ADOPTION}::test_a_worker_slot_is_free_when_it_is_given_back_or_nobody_has_been_heard_of_for_a_minute",),
    ),
    Mutant(
        "connections of a worker that has ended stay active",
        "kpf/shm/worker_slots.py",
        "        for slot in slots:\n            forget(self._region, slot)\n",
        "        for slot in slots:\n",
        (f"{ADOPTION}::test_what_a_worker_leaves_behind_is_not_active_any_more",),
    ),
    Mutant(
        "an extent that is reserved leaves its neighbours nowhere",
        "kpf/shm/extents.py",
        "            start += offset & half\n",
        "            start = offset\n",
        (f"{ADOPTION}::test_extents_that_are_reserved_are_those_that_were_taken",),
    ),
)
