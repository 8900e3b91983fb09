"""A worker's relay, pipes, accept side and life; the channel; the daemon's lock."""

from tests.mutants import Mutant

RELAY, LIFE, PIPES = "tests/test_worker_relay.py", "tests/test_worker_life.py", "tests/test_worker_pipes.py"
SHORTAGES, LOCK = "tests/test_worker_shortages.py", "tests/test_daemon_lock.py"

MUTANTS = (
    # descriptors
    Mutant(
        "no descriptors in reserve for a message of the master's",
        "kpf/worker/acceptor.py",
        "OWN_DESCRIPTORS + MESSAGE_DESCRIPTORS + 2 * pipes",
        "OWN_DESCRIPTORS + 2 * pipes",
        (f"{SHORTAGES}::test_a_full_worker_takes_as_many_listeners_as_a_message_has",),
    ),
    Mutant(
        "a worker at its limit does not see that the limit has fallen",
        "kpf/worker/acceptor.py",
        "is_full = sessions.active + sessions.extra // 2 >= self.limit",
        "is_full = sessions.active + sessions.extra // 2 == self.limit",
        (f"{SHORTAGES}::test_a_worker_above_its_new_limit_accepts_nobody_until_it_is_below",),
    ),
    Mutant(
        "descriptors that found no room are fatal",
        "kpf/net/channel.py",
        "raise NoRoomError(message.generation)",
        'raise ChannelError("a message was cut off")',
        (f"{SHORTAGES}::test_listeners_that_there_is_no_room_for_are_asked_for_again",),
    ),
    Mutant(
        "those that found room, of a message that did not, leak",
        "kpf/net/channel.py",
        "                os.close(descriptor)\n        raise",
        "                pass\n        raise",
        ("tests/test_channel.py",),
    ),
    Mutant(
        "a worker that lacks listeners is not steered around",
        "kpf/worker/acceptor.py",
        "self._paused_ms or self._unwatched or self._lacks_listeners",
        "self._paused_ms or self._unwatched",
        (f"{SHORTAGES}::test_a_worker_that_lacks_listeners_is_steered_around_and_serves_what_it_has",),
    ),
    Mutant(
        "a full worker closes nothing",
        "kpf/worker/acceptor.py",
        "gives_up = self._paused_ms and",
        "gives_up = False and",
        (f"{SHORTAGES}::test_a_full_worker_closes_a_listener_all_the_same",),
    ),
    Mutant(
        "the master does not tell again",
        "kpf/master/process.py",
        "                self._queue.appendleft(self._in_flight)\n",
        "",
        (f"{SHORTAGES}::test_the_master_tells_a_worker_again_that_had_no_room",),
    ),
    # urgent data
    Mutant(
        "a splice that stops at a mark is believed to be dry",
        "kpf/worker/relay.py",
        "            if not half.state & URGENT:\n",
        "            if True:\n",
        (f"{RELAY}::test_a_bulk_stream_with_urgent_data_arrives_whole",),
    ),
    Mutant(
        "a splice that says 0 is believed",
        "kpf/worker/relay.py",
        "            half.state &= ~(URGENT | SPLICING)\n            return True",
        "            half.end = half.end or SEEN\n            return True",
        (f"{RELAY}::test_an_end_behind_a_mark_that_epoll_has_not_told_of_yet_is_none",),
    ),
    Mutant(
        "a mark that comes with the answer to a dial is forgotten",
        "kpf/worker/relay.py",
        "            if half.state & (DIALLING | DEAD) or not events & EPOLLPRI:\n                return\n",
        "            return\n",
        (f"{RELAY}::test_a_mark_that_comes_with_the_answer_to_a_dial_stops_nothing",),
    ),
    Mutant(
        "urgent data once, and the hot path never again",
        "kpf/worker/relay.py",
        "            half.state &= ~URGENT\n            return False",
        "            return False",
        (f"{RELAY}::test_bytes_behind_urgent_data_arrive",),
    ),
    # pipes
    Mutant(
        "a system that gave no pipe is never asked again",
        "kpf/worker/pipes.py",
        '        """The end of a round: close the pipes that nobody has needed since the last time."""\n'
        "        self._is_refused = False\n",
        '        """The end of a round: close the pipes that nobody has needed since the last time."""\n',
        (f"{PIPES}::test_a_system_that_gives_no_pipe_is_asked_again_a_round_later",),
    ),
    Mutant(
        "pipes of those who do not read stay where they are",
        "kpf/worker/sweeper.py",
        "            self._lender.look()\n",
        "",
        (f"{PIPES}::test_the_pipe_of_a_reader_that_does_not_read_comes_back_and_no_byte_is_lost",),
    ),
    Mutant(
        "whoever has a pipe for long loses it, reading or not",
        "kpf/worker/lender.py",
        "piped <= self._before.get(half, 0) < piped + KEEPS_PIPE",
        "piped <= self._before.get(half, 0)",
        (f"{PIPES}::test_a_reader_that_reads_keeps_its_pipe",),
    ),
    Mutant(
        "no bound for what is in memory for slow readers",
        "kpf/worker/lender.py",
        "if is_stuck and kept + piped <= MEMORY_LIMIT:",
        "if is_stuck:",
        (f"{PIPES}::test_what_is_kept_in_memory_for_slow_readers_is_bounded",),
    ),
    # an errno at one socket
    Mutant(
        "a listener that was shut down ends the worker",
        "kpf/worker/acceptor.py",
        "DEAF = {errno.EINVAL, errno.EACCES}",
        "DEAF = {errno.EACCES}",
        (f"{SHORTAGES}::test_a_listener_that_somebody_has_shut_down_costs_nobody_else_anything",),
    ),
    Mutant(
        "a listener that was shut down is watched on: a busy loop",
        "kpf/worker/acceptor.py",
        "                    self._unwatch(listener.descriptor)\n                    self._deaf",
        "                    self._deaf",
        (f"{SHORTAGES}::test_a_listener_that_somebody_has_shut_down_costs_nobody_else_anything",),
    ),
    Mutant(
        "no room in epoll ends the worker",
        "kpf/worker/sessions.py",
        "NO_WATCHES = {errno.ENOSPC, errno.ENOMEM}",
        "NO_WATCHES = {errno.ENOMEM}",
        (SHORTAGES,),
    ),
    Mutant(
        "who never gets room in epoll waits for ever",
        "kpf/worker/sessions.py",
        "                    late.append(half)\n",
        "                    pass\n",
        (f"{SHORTAGES}::test_a_connection_that_epoll_never_has_room_for_is_reset",),
    ),
    Mutant(
        "a listener without room in epoll is not tried again",
        "kpf/worker/acceptor.py",
        "        elif self._unwatched:\n            self._watch_again()\n",
        "",
        (f"{SHORTAGES}::test_a_listener_that_epoll_has_no_room_for_is_steered_around_and_tried_again",),
    ),
    Mutant(
        "a shortage ends an orphan",
        "kpf/worker/orphan.py",
        "            with contextlib.suppress(OSError):\n                self._socket = self._connected(name)",
        "            with contextlib.suppress(ConnectionError):\n                self._socket = self._connected(name)",
        (f"{SHORTAGES}::test_an_orphan_that_is_short_looks_again_later",),
    ),
    Mutant(
        "an answer that cannot be given now is lost",
        "kpf/worker/orders.py",
        "                if error.errno in NOT_NOW:\n                    return\n",
        "                del error\n",
        (f"{SHORTAGES}::test_answers_that_cannot_be_given_now_are_given_later_in_their_order",),
    ),
    Mutant(
        "a master that dies with something unread ends its worker",
        "kpf/worker/orders.py",
        "                if error.errno in NOT_NOW:\n                    return\n",
        "                if error.errno in NOT_NOW:\n                    return\n                raise\n",
        (f"{SHORTAGES}::test_a_master_that_dies_with_something_unread_is_gone_and_no_error",),
    ),
    # strangers
    Mutant(
        "a stranger keeps the daemon out",
        "kpf/net/credentials.py",
        "return self.uid == ROOT or (self.uid == own_uid and self.uid != OVERFLOW_ID)",
        "return True",
        (f"{LOCK}::test_a_stranger_does_not_keep_the_daemon_out_and_is_named",),
    ),
    Mutant(
        "whoever has no id here may be anybody",
        "kpf/net/credentials.py",
        "(self.uid == own_uid and self.uid != OVERFLOW_ID)",
        "self.uid == own_uid",
        (f"{LOCK}::test_root_and_our_own_user_are_no_strangers_but_nobody_in_particular_is",),
    ),
    Mutant(
        "a daemon that has a name does not look at the others",
        "kpf/master/lock.py",
        "                    if other != name:\n",
        "                    if False:\n",
        (f"{LOCK}::test_two_daemons_exclude_each_other_whatever_a_stranger_does",),
    ),
    Mutant(
        "a daemon that does not listen yet is a stranger",
        "kpf/master/lock.py",
        "if holder is not None or time.monotonic() > deadline_s:",
        "if True:",
        (f"{LOCK}::test_a_daemon_that_is_just_about_to_listen_is_waited_for",),
    ),
    Mutant(
        "a stranger relieves an orphan",
        "kpf/worker/orphan.py",
        "if credentials.peer_of(sock).is_trusted(self._master_uid):",
        "if True:",
        (f"{LIFE}::test_a_stranger_relieves_nobody_and_the_true_master_is_found_beside_it",),
    ),
    # turns, signals, privileges, memory
    Mutant(
        "a direction has as many rounds in a turn as it is called for",
        "kpf/worker/relay.py",
        "            half.state |= RESTING\n",
        "",
        (f"{RELAY}::test_a_direction_has_its_rounds_once_a_turn",),
    ),
    Mutant(
        "signals are ignored only after the imports",
        "kpf/worker/__main__.py",
        "signals.ignore()\n\nfrom kpf import stderr  # noqa: E402 (imports take a tenth of a second)\n"
        "from kpf.worker.worker import main  # noqa: E402\n",
        "from kpf import stderr\nfrom kpf.worker.worker import main\n\nsignals.ignore()\n",
        (f"{LIFE}::test_signals_are_ignored_before_anything_is_imported_that_takes_its_time",),
    ),
    Mutant(
        "a newborn has no signals blocked",
        "kpf/master/process.py",
        "    with signals.blocked():\n",
        "    if True:\n",
        ("tests/test_master_workers.py::test_a_newborn_is_not_ended_by_what_goes_to_the_process_group",),
    ),
    Mutant(
        "SIGUSR1 ends a worker",
        "kpf/worker/signals.py",
        "signal.SIGUSR1, ",
        "",
        (f"{LIFE}::test_signals_that_go_to_a_process_group_end_no_worker",),
    ),
    Mutant(
        "capabilities are kept where there is no other id",
        "kpf/worker/privileges.py",
        "if _libc.capset(header, bytes(24)) != 0:",
        "if False:",
        (f"{LIFE}::test_no_capability_is_left_where_there_is_no_other_id_to_become",),
    ),
    Mutant(
        "the master goes first when memory runs out",
        "kpf/worker/worker.py",
        "    _die_before_the_master()\n    kept",
        "    kept",
        (f"{LIFE}::test_when_memory_runs_out_a_worker_goes_before_its_master",),
    ),
)
