"""What a master leaves behind in shared memory, and what the next one makes of it, of another version too."""

from tests.mutants import Mutant

ADOPTION, CARRY = "tests/test_shm_adoption.py", "tests/test_shm_carry.py"
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
    # another layout
    Mutant(
        "a memory that can shrink is taken",
        "kpf/shm/region.py",
        "    if not seals & fcntl.F_SEAL_SHRINK:\n",
        "    if not seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW):\n",
        (f"{CARRY}::test_what_is_no_memory_of_ours_is_refused",),
    ),
    Mutant(
        "an area may lead out of the memory",
        "kpf/shm/description.py",
        "    if start + stride * count > words:\n",
        "    if start > words:\n",
        (f"{CARRY}::test_what_is_no_memory_of_ours_is_refused",),
    ),
    Mutant(
        "a field may lead out of its record",
        "kpf/shm/description.py",
        "if not fits or field.index < 0 or field.index",
        "if not fits or field.index < 0 or 0 * field.index",
        (f"{CARRY}::test_whatever_a_header_says_is_carried_over_or_refused",),
    ),
    Mutant(
        "an anchor is not carried over",
        "kpf/shm/carry.py",
        '            words[at + ANCHOR_PORT] = record.value(0, "anchor port")\n            word |= ANCHORED\n',
        '            words[at + ANCHOR_PORT] = record.value(0, "anchor port")\n',
        (f"{CARRY}::test_all_there_is_of_a_frontend_is_carried_over",),
    ),
    Mutant(
        "only entries that are new are carried in a later pass, not those that have ended",
        "kpf/shm/carry_affinity.py",
        "                if stamp_ms >= since_ms or not identity:\n",
        "                if stamp_ms >= since_ms and identity:\n",
        (f"{CARRY}::test_a_home_that_is_lost_between_the_passes_is_lost",),
    ),
    Mutant(
        "tables of frontends that were busy in the pass before are not looked at again",
        "kpf/shm/carry.py",
        "        self._affinity.carry(touched | self._touched, now_ms)\n",
        "        self._affinity.carry(touched or self._touched, now_ms)\n"
        "        touched, self._touched = set(), touched\n",
        (f"{CARRY}::test_a_client_that_gets_a_home_after_its_connection_was_counted",),
    ),
    Mutant(
        "what is counted of a member that has left goes to who has its slot now",
        "kpf/shm/carry.py",
        "            if member and words[layout.member(member.slot) + IDENTITY] == member.identity:\n",
        "            if member:\n",
        (f"{CARRY}::test_a_member_that_has_left_is_not_mistaken_for_who_has_its_place_now",),
    ),
    Mutant(
        "connections of workers of the old memory stay active when these have ended",
        "kpf/shm/carry.py",
        "        self.directory.give_worker_slots((self._stand_in,))\n",
        "",
        (f"{CARRY}::test_connections_that_are_still_open_count_once_until_they_end",),
    ),
)
