"""The master's processes, effects and reconcile loop."""

from tests.mutants import Mutant

HANDOVER, WORKERS, RECONCILE, LIFECYCLE = (
    "tests/test_master_handover.py::",
    "tests/test_master_workers.py::",
    "tests/test_reconcile.py::",
    "tests/e2e/test_lifecycle.py::",
)

MUTANTS = (
    Mutant(
        "a listener is closed although a worker that is to be told of it has not answered",
        "kpf/master/workers.py",
        "            await asyncio.wait(answers)\n",
        "            await asyncio.wait(answers, timeout=ACKNOWLEDGE_S)\n",
        (
            HANDOVER + "test_a_newborn_that_wakes_late_takes_no_listener_for_another",
            HANDOVER + "test_the_death_of_a_late_worker_is_an_answer",
        ),
    ),
    Mutant(
        "a message is queued with the numbers of its descriptors",
        "kpf/master/process.py",
        "        outgoing = _Outgoing(message, files, self._loop.create_future())",
        "        outgoing = _Outgoing(\n"
        "            message, [f if isinstance(f, int) else f.fileno() for f in files], self._loop.create_future()\n"
        "        )",
        (WORKERS + "test_a_number_that_is_used_again_is_never_sent",),
    ),
    Mutant(
        "a worker dies of a shortage of the master's",
        "kpf/master/process.py",
        "            if error.errno in SHORTAGES:",
        "            if error.errno == 0:",
        (WORKERS + "test_a_shortage_delays_what_is_said_and_kills_nobody",),
    ),
    Mutant(
        "a worker may say again and again that it is ready",
        "kpf/master/process.py",
        "            case Ready(_, uid, privileges) if not self._is_ready:",
        "            case Ready(_, uid, privileges):",
        (WORKERS + "test_a_worker_that_talks_nonsense_is_killed",),
    ),
    Mutant(
        "nobody looks after workers that finish what they have",
        "kpf/master/workers.py",
        "        try:\n            await self._until(lambda: not self._processes)\n        finally:\n",
        "        supervising.cancel()\n        try:\n            await self._until(lambda: not self._processes)\n"
        "        finally:\n",
        (WORKERS + "test_one_that_is_stuck_while_all_finish_what_they_have_is_killed",),
    ),
    Mutant(
        "slots are retired without an answer",
        "kpf/master/effects.py",
        "        await self._workers.withdraw(self._listeners.withdraw(listeners))",
        "        asyncio.ensure_future(self._workers.withdraw(self._listeners.withdraw(listeners)))",
        (RECONCILE + "test_a_slot_is_used_again_only_when_all_workers_have_answered",),
    ),
    Mutant(
        "newborns are told of withdrawn listeners",
        "kpf/master/listening.py",
        "        self._announced.difference_update(listeners)\n        return",
        "        return",
        (HANDOVER + "test_a_newborn_is_told_of_what_is_announced_and_of_nothing_that_is_withdrawn",),
    ),
    Mutant(
        "the rules of a failed transaction are believed, and no full sync follows",
        "kpf/nft/table.py",
        "            self.state = Unknown()\n        try:",
        "            self.state = Known(new) if new is not None else Unknown()\n        try:",
        (RECONCILE + "test_after_a_failure_everything_is_written_anew[transaction]",),
    ),
    Mutant(
        "a table that somebody else has touched is ours again once it has been changed",
        "kpf/nft/table.py",
        "        if anew or not isinstance(before, Foreign):",
        "        if True:",
        ("tests/test_nft_known.py::test_a_foreign_table_is_ours_only_once_it_has_been_made_anew",),
    ),
    Mutant(
        "a table that somebody else has touched is ours although it could not be made anew",
        "kpf/nft/table.py",
        "                self.state = before\n",
        "                pass\n",
        ("tests/test_nft_known.py::test_a_foreign_table_is_ours_only_once_it_has_been_made_anew",),
    ),
    Mutant(
        "who touches the table during a transaction is forgotten",
        "kpf/nft/table.py",
        "        if new is not None and not isinstance(self.state, Foreign):",
        "        if new is not None:",
        (
            "tests/test_nft_known.py::test_nothing_is_believed_that_is_not_so",
            "tests/test_nft_replace.py::test_who_touches_the_table_while_it_is_made_anew_is_not_forgotten",
        ),
    ),
    Mutant(
        "what makes no difference to the table is not known to be in it",
        "kpf/nft/kernel.py",
        "        with self.table.transaction(new):\n            if messages:\n                await",
        "        if messages:\n            with self.table.transaction(new):\n                await",
        ("tests/test_nft_contract.py::test_the_writer_knows_what_it_has_written",),
    ),
    Mutant(
        "a full sync that is wanted during another sync is none",
        "kpf/master/reconcile.py",
        "                if is_full_due:\n                    self._effects.doubt_rules()",
        "                assert is_full_due is not None",
        (RECONCILE + "test_a_full_sync_that_is_wanted_during_another_sync_comes_after_it[False]",),
    ),
    Mutant(
        "refused rules are written again whenever something is requested",
        "kpf/master/reconcile.py",
        "        if step.new == self._refused and self._schedule.is_backing_off:",
        "        if time.monotonic() < 0:",
        (RECONCILE + "test_a_transaction_that_fails_is_tried_again_at_growing_intervals_whatever_is_requested",),
    ),
    Mutant(
        "after a failure other rules are tried at every request",
        "kpf/master/schedule.py",
        "        self._interval_s = min(self._back_off_s, RETRY_ASKED_S)",
        "        self._interval_s = MIN_INTERVAL_S",
        (
            RECONCILE + "test_what_may_be_the_remedy_is_tried_soon_and_not_too_often",
            RECONCILE + "test_a_source_that_cannot_be_read_is_asked_again_at_intervals",
        ),
    ),
    Mutant(
        "after a failure the remedy waits for the whole back-off",
        "kpf/master/schedule.py",
        "        self._interval_s = min(self._back_off_s, RETRY_ASKED_S)",
        "        self._interval_s = self._back_off_s",
        (RECONCILE + "test_what_may_be_the_remedy_is_tried_soon_and_not_too_often",),
    ),
    Mutant(
        "endpoints wait for the rules that are refused",
        "kpf/master/reconcile.py",
        "                for step in transition(self._effects.now, self._effects.rules, self.desired):",
        "                if self.desired.rules == self._refused and self._schedule.is_backing_off:\n"
        "                    raise _HeldBackError\n"
        "                for step in transition(self._effects.now, self._effects.rules, self.desired):",
        (RECONCILE + "test_endpoints_follow_while_the_rules_are_refused",),
    ),
    Mutant(
        "signals end the daemon until its event loop has handlers",
        "kpf/__main__.py",
        "        signals.hold()",
        "        pass",
        (
            LIFECYCLE + "test_reloads_that_are_asked_for_from_the_start_to_the_end_are_harmless",
            LIFECYCLE + "test_a_stop_that_comes_while_it_starts_is_obeyed",
        ),
    ),
    Mutant(
        "SIGUSR1 ends the daemon",
        "kpf/master/signal_queue.py",
        "            loop.add_signal_handler(number, lambda: None)",
        "            pass",
        (LIFECYCLE + "test_signals_that_mean_nothing_are_harmless",),
    ),
    Mutant(
        "signals that are held are never heard",
        "kpf/signals.py",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, ())",
        (LIFECYCLE + "test_reloads_that_are_asked_for_from_the_start_to_the_end_are_harmless",),
    ),
    Mutant(
        "reloads pile up",
        "kpf/master/signal_queue.py",
        "        elif not self._queue.empty():",
        "        elif self._queue.qsize() < 0:",
        ("tests/test_signal_queue.py::test_reloads_do_not_pile_up",),
    ),
    Mutant(
        "a stop waits until the start is over",
        "kpf/master/signal_queue.py",
        "await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)",
        "await asyncio.wait([task])",
        ("tests/test_signal_queue.py", LIFECYCLE + "test_a_stop_does_not_wait_for_workers_that_are_never_ready"),
    ),
)
