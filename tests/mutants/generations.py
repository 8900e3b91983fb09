"""Orphans and their successors, generations of workers, sockets that pass from one to another."""

from tests.mutants import Mutant

ORPHANS, LISTENING, CHANNEL = "tests/test_worker_orphans.py", "tests/test_listening.py", "tests/test_channel.py"

MUTANTS = (
    # messages
    Mutant(
        "what a later version adds makes a message none",
        "kpf/net/channel.py",
        "        if kind in _EXTENSIBLE:",
        "        if kind is None:",
        (f"{CHANNEL}::test_what_a_later_version_adds_is_passed_over",),
    ),
    Mutant(
        "a message of another protocol is no message",
        "kpf/net/channel.py",
        'if kind is Ask and given["protocol"] != PROTOCOL:',
        "if False:",
        (f"{CHANNEL}::test_a_message_of_another_protocol_says_so_whatever_else_it_says",),
    ),
    Mutant(
        "a field may hold anything",
        "kpf/net/channel.py",
        '    raise TypeError(f"{value!r:.50} is no {hint}")',
        "    return value",
        (f"{CHANNEL}::test_what_is_no_message_is_fatal",),
    ),
    # orphans
    Mutant(
        "a stranger may take over",
        "kpf/worker/orphan.py",
        "if not credentials.peer_of(connection).is_trusted(self._master_uid):",
        "if False:",
        (f"{ORPHANS}::test_a_stranger_is_not_heard",),
    ),
    Mutant(
        "a silent successor keeps all others away",
        "kpf/worker/orphan.py",
        "if limit_ms is not None and now_ms >= limit_ms:",
        "if False:",
        (f"{ORPHANS}::test_whoever_is_silent_is_dropped_and_the_next_one_is_heard",),
    ),
    Mutant(
        "an orphan hears a second successor while it has one",
        "kpf/worker/orphan.py",
        "        self._listen(False)\n        self._successor = Conversation",
        "        self._successor = Conversation",
        (f"{ORPHANS}::test_the_second_of_two_successors_waits",),
    ),
    Mutant(
        "who leaves lets successors wait",
        "kpf/worker/orphan.py",
        "            self._handover.close()\n",
        "",
        (f"{ORPHANS}::test_who_was_leaving_when_its_master_died_waits_for_nobody",),
    ),
    Mutant(
        "who leaves ends when it would have ended as an orphan",
        "kpf/worker/orphan.py",
        "        self.deadline_ms = now_ms + self._timeout_ms\n        self._listen(False)",
        "        self._listen(False)",
        (f"{ORPHANS}::test_who_leaves_has_the_whole_time_once_more",),
    ),
    Mutant(
        "a pause ends with the successor that has taken over",
        "kpf/worker/orphan.py",
        "self.is_relieved, self._stays_paused = True, self.is_paused",
        "self.is_relieved, self._stays_paused = True, False",
        (f"{ORPHANS}::test_once_taken_a_pause_is_for_good_even_if_the_successor_leaves_at_once",),
    ),
    Mutant(
        "an orphan that is short of descriptors asks without a pause",
        "kpf/worker/orphan.py",
        "        except BlockingIOError:\n            # another orphan has it\n",
        "        except OSError:\n",
        ("tests/test_worker_shortages.py::test_an_orphan_that_is_short_hears_a_successor_later",),
    ),
    Mutant(
        "an orphan hands over in another network namespace",
        "kpf/worker/conversation.py",
        "if message.namespace != network_namespace():",
        "if not network_namespace():",
        (f"{ORPHANS}::test_one_of_another_protocol_or_network_namespace_is_refused",),
    ),
    Mutant(
        "a successor may have everybody pause for ever",
        "kpf/worker/conversation.py",
        "self.is_paused, self.deadline_ms = True, now_ms + PAUSE_LIMIT_MS",
        "self.is_paused = True",
        (f"{ORPHANS}::test_a_successor_has_its_time_but_not_while_nobody_accepts",),
    ),
    Mutant(
        "the number of a closed listener is handed over",
        "kpf/worker/conversation.py",
        "[listener for listener in self._left[:MAX_DESCRIPTORS] if listener in still_open]",
        "self._left[:MAX_DESCRIPTORS]",
        (f"{ORPHANS}::test_a_listener_that_is_closed_meanwhile_is_not_handed_over",),
    ),
    Mutant(
        "a pause is not kept",
        "kpf/worker/acceptor.py",
        "        if self._is_held:\n            return\n",
        "",
        (f"{ORPHANS}::test_a_pause_lasts_until_the_master_takes_it_back_or_is_gone",),
    ),
    Mutant(
        "a worker that pauses leaves late",
        "kpf/worker/acceptor.py",
        "gives_up = self._paused_ms and (late or self._is_held)",
        "gives_up = self._paused_ms and late",
        (f"{ORPHANS}::test_while_paused_nothing_is_accepted_and_what_is_queued_is_the_successors",),
    ),
    # sockets and generations
    Mutant(
        "a group that grows has connections for those who do not accept yet",
        "kpf/master/listening.py",
        "                sockets.steer(group.sockets[0], sorted(self._healthy))\n                grown",
        "                grown",
        (f"{LISTENING}::test_new_sockets_get_no_connection_before_somebody_accepts_there",),
    ),
    Mutant(
        "what has been opened before a group could not grow stays open",
        "kpf/master/listening.py",
        "                self._cut(listener, number)\n            raise",
        "                pass\n            raise",
        (f"{LISTENING}::test_a_group_that_cannot_grow_stays_as_it_was",),
    ),
    Mutant(
        "those who are to leave have connections steered to them",
        "kpf/master/listening.py",
        "self._healthy = healthy & within or within",
        "self._healthy = healthy",
        (f"{LISTENING}::test_surplus_sockets_keep_what_they_have_and_get_no_more",),
    ),
    Mutant(
        "a generation steers before it serves",
        "kpf/master/workers.py",
        "if self._steers and not self._stopping:",
        "if not self._stopping:",
        (f"{LISTENING}::test_only_those_who_serve_steer",),
    ),
    Mutant(
        "a generation steers while it leaves",
        "kpf/master/workers.py",
        "if self._steers and not self._stopping:",
        "if self._steers:",
        (f"{LISTENING}::test_only_those_who_serve_steer",),
    ),
    Mutant(
        "a generation takes over how another one has steered",
        "kpf/master/workers.py",
        "        self._steers = True\n        self._steer()\n",
        "        self._steers = True\n",
        (f"{LISTENING}::test_only_those_who_serve_steer",),
    ),
    Mutant(
        "surplus sockets are closed while connections come",
        "kpf/master/generations.py",
        "seen, since_s = -1, time.monotonic()",
        "seen, since_s = -1, 0.0",
        (f"{LISTENING}::test_surplus_sockets_are_watched_until_nothing_comes_any_more",),
    ),
    Mutant(
        "surplus sockets of a generation that could not start stay open",
        "kpf/master/generations.py",
        "            self._listeners.forget_surplus()\n            raise\n",
        "            raise\n",
        (f"{LISTENING}::test_a_generation_that_cannot_start_leaves_everything_as_it_was",),
    ),
    Mutant(
        "who is relieved goes on talking to a successor that comes too late",
        "kpf/worker/orphan.py",
        "        if self._successor is not None and not self._successor.has_taken:\n",
        "        if self._successor is not None and self._successor.has_taken:\n",
        (f"{ORPHANS}::test_who_is_relieved_by_another_master_hangs_up",),
    ),
)
