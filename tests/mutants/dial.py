"""Dialling: what is dialled when, what its silence means, what one turn of the loop may cost."""

from tests.mutants import Mutant

DIAL, SLOW = "tests/test_worker_dial.py", "tests/test_worker_slow.py"
BALANCER = "tests/test_shm_balancer.py"

MUTANTS = (
    # a thousand members that refuse
    Mutant(
        "retries of one connection have no bound",
        "kpf/worker/retry.py",
        "return self._retries < RETRIES and self._ejected < RETRIES_EJECTED",
        "return True",
        (f"{DIAL}::test_retries_are_bounded", f"{DIAL}::test_more_members_that_refuse_than_a_stack_is_deep"),
    ),
    Mutant(
        "retries among members that are ejected have no bound of their own",
        "kpf/worker/retry.py",
        "        self._ejected += is_ejected\n",
        "",
        (f"{DIAL}::test_retries_are_bounded",),
    ),
    Mutant(
        "a turn of the loop makes as many dials as it likes",
        "kpf/worker/racing.py",
        "            self._budget -= 1\n            choice = self._next(dial)",
        "            choice = self._next(dial)",
        (f"{DIAL}::test_a_turn_of_the_loop_makes_so_many_dials_and_no_more",),
    ),
    Mutant(
        "a pick looks at every member that is ejected",
        "kpf/shm/round_robin.py",
        "            if not note or words[note] <= now_ms:",
        "            if True:",
        (f"{BALANCER}::test_a_pick_among_a_thousand_that_are_shut_out_reads_few_words",),
    ),
    Mutant(
        "a note of who is ejected outlives an answer",
        "kpf/shm/balancer.py",
        "                    self._round_robin.forget(self._layout.frontend(frontend))\n",
        "",
        (f"{BALANCER}::test_notes_of_a_long_list_change_no_pick",),
    ),
    Mutant(
        "a note of who is ejected lasts for as long as the last one is",
        "kpf/shm/round_robin.py",
        "min(soonest_ms, until_ms)",
        "max(soonest_ms, until_ms)",
        (f"{BALANCER}::test_notes_of_a_long_list_change_no_pick",),
    ),
    Mutant(
        "a list begins with the notes of the one that had its place",
        "kpf/shm/directory.py",
        "            words[index] = 0\n        words[at] = offset",
        "            pass\n        words[at] = offset",
        (f"{BALANCER}::test_a_new_list_has_no_notes_of_the_one_that_had_its_place",),
    ),
    # slow is not dead
    Mutant(
        "a dial that is silent is given up for the next one",
        "kpf/worker/racing.py",
        "            if len(dial.attempts) == PARALLEL:",
        "            if dial.attempts:",
        (f"{SLOW}::test_two_far_endpoints_keep_affinity",),
    ),
    Mutant(
        "a dial is given up after four seconds",
        "kpf/worker/retry.py",
        "GIVE_UP_MS = 60_000",
        "GIVE_UP_MS = 4_000",
        (f"{DIAL}::test_an_endpoint_that_is_silent_is_given_up_after_a_minute",),
    ),
    Mutant(
        "a slow answer teaches nothing",
        "kpf/shm/balancer.py",
        "                words[record + CONNECT_TIME] = health.learned(words[record + CONNECT_TIME], took_ms)\n",
        "",
        (f"{BALANCER}::test_a_slow_answer_teaches_all_workers_what_is_normal",),
    ),
    Mutant(
        "a dial that has lost teaches nothing",
        "kpf/worker/losing.py",
        "if len(self._by_descriptor) >= LOSING_DIALS:",
        "if True:",
        (f"{SLOW}::test_near_and_far_share_evenly",),
    ),
    Mutant(
        "a SYN that was lost is taken for what is normal",
        "kpf/worker/attempt.py",
        "return min(took_ms, -(-int(rtt_us) // 1000))",
        "return took_ms",
        (f"{SLOW}::test_a_syn_that_was_lost_is_no_failure_and_not_what_is_normal",),
    ),
    Mutant(
        "who is dialled beside takes the turn",
        "kpf/shm/round_robin.py",
        "        return self._record(start + index) if index >= 0 else 0\n",
        "        return self.take(at, tried, now_ms)\n",
        (f"{BALANCER}::test_who_is_dialled_beside_moves_neither_turn_nor_pin",),
    ),
    Mutant(
        "a hedged dial gets the client's affinity entry",
        "kpf/worker/racing.py",
        "            choice = self._balancer.pick_hedge(frontend, retry.tried, now_ms)",
        "            choice = self._balancer.pick(frontend, dial.host, retry.tried, now_ms)",
        (f"{SLOW}::test_who_is_kept_at_a_far_one_stays_when_a_near_one_answers_first",),
    ),
    Mutant(
        "silence beside an answer shuts nobody out",
        "kpf/worker/losing.py",
        "                self._balancer.failed(losing.frontend, choice.identity, losing.host, now_ms)\n",
        "",
        (f"{SLOW}::test_a_black_hole_among_three",),
    ),
    Mutant(
        "silence without any answer ejects",
        "kpf/worker/racing.py",
        "        for attempt in dial.attempts:\n            self._words[attempt.choice.failures",
        "        for attempt in dial.attempts:\n"
        "            identity = attempt.choice.identity\n"
        "            self._balancer.failed(dial.listener.frontend, identity, dial.host, self._clock.now_ms)\n"
        "            self._words[attempt.choice.failures",
        (f"{DIAL}::test_an_endpoint_that_is_silent_is_given_up_after_a_minute",),
    ),
    Mutant(
        "a suspected member's clients are given to others",
        "kpf/shm/balancer.py",
        "is_out = health.is_ejected(word, now_ms) and not health.is_suspected(word)",
        "is_out = health.is_ejected(word, now_ms)",
        (f"{BALANCER}::test_turns_pass_over_a_suspected_member_and_its_clients_do_not",),
    ),
    Mutant(
        "a client whose pod was silent is not kept at the one that answered",
        "kpf/worker/losing.py",
        "                self._balancer.adopt(losing.frontend, losing.winner, losing.host, now_ms)\n",
        "",
        (f"{DIAL}::test_a_pin_moves_to_the_one_that_answered_once_silence_is_proven",),
    ),
    Mutant(
        "a slot's next member has the usual time of the one before",
        "kpf/shm/places.py",
        "            self._words[at] = 0\n        self.members.free",
        "            pass\n        self.members.free",
        (f"{BALANCER}::test_an_endpoint_that_comes_again_is_not_taken_for_the_slow_one_before",),
    ),
    Mutant(
        "dials beside others are no load on a worker",
        "kpf/worker/acceptor.py",
        "is_full = sessions.active + sessions.extra // 2 >= self.limit",
        "is_full = sessions.active >= self.limit",
        (f"{DIAL}::test_dials_beside_others_count_against_the_limit_of_sessions",),
    ),
    Mutant(
        "a client that leaves while it waits is not noticed",
        "kpf/worker/racing.py",
        "            self._watch_client(dial)\n",
        "",
        (f"{DIAL}::test_a_client_that_resets_while_it_waits_is_let_go",),
    ),
    Mutant(
        "a client that has sent its request and its end is taken for gone",
        "kpf/worker/racing.py",
        "            return not client.recv(1, DONTWAIT | _PEEK)",
        "            return True",
        (f"{DIAL}::test_a_client_that_has_sent_its_request_and_its_end_is_served",),
    ),
    Mutant(
        "a dial that has lost is counted as active for ever",
        "kpf/worker/losing.py",
        "        words[choice.active] -= 1\n        discard(self._sessions, attempt.backend)\n",
        "        discard(self._sessions, attempt.backend)\n",
        (f"{DIAL}::test_dials_of_one_client_at_once_are_bounded_and_all_are_counted",),
    ),
    Mutant(
        "dials beside others are not counted as descriptors",
        "kpf/worker/racing.py",
        "        self._sessions.extra += bool(dial.attempts)\n",
        "",
        (f"{DIAL}::test_dials_of_one_client_at_once_are_bounded_and_all_are_counted",),
    ),
)
