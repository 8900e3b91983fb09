"""Operation: the log, files that are watched, the conversation with the kernel, start and stop."""

from tests.mutants import Mutant

UNREAD = "tests/e2e/test_unread_log.py"
STDERR = "tests/test_stderr.py"
SHORTAGE = "tests/test_watch_shortage.py"
NETLINK = "tests/test_netlink_socket.py"
BUSY = "tests/e2e/test_busy_kernel.py"

MUTANTS = (
    Mutant(
        "the daemon itself writes to standard error",
        "kpf/cli.py",
        "    stderr.install()\n",
        "",
        (f"{UNREAD}::test_a_log_that_nobody_reads_holds_up_nothing",),
    ),
    Mutant(
        "a worker waits for somebody to read its last words",
        "kpf/worker/__main__.py",
        "    stderr.install()\n",
        "    pass\n",
        (f"{STDERR}::test_a_worker_that_dies_says_why_and_does_not_wait_for_a_reader",),
    ),
    Mutant(
        "the log grows without a bound",
        "kpf/stderr.py",
        "if self._dropped or self._queued_bytes >= QUEUE_BYTES or",
        "if self._dropped or",
        (f"{STDERR}::test_what_nobody_reads_is_dropped_and_counted_and_the_order_stays",),
    ),
    Mutant(
        "nobody is told what was dropped",
        "kpf/stderr.py",
        "self._changed.wait_for(lambda: self._queue or self._dropped)",
        "self._changed.wait_for(lambda: self._queue)",
        (f"{UNREAD}::test_once_it_is_read_it_says_what_is_missing",),
    ),
    Mutant(
        "lines overtake those that were dropped before them",
        "kpf/stderr.py",
        "if self._dropped or self._queued_bytes >= QUEUE_BYTES or",
        "if self._queued_bytes >= QUEUE_BYTES or",
        (f"{STDERR}::test_what_is_kept_does_not_overtake_what_was_dropped",),
    ),
    Mutant(
        "a reader that is gone ends the thread that writes",
        "kpf/stderr.py",
        "        except OSError:\n            return False\n",
        "        except BrokenPipeError:\n            return False\n",
        (f"{STDERR}::test_a_full_disk_is_told_once_there_is_room",),
    ),
    Mutant(
        "without an inotify instance the daemon ends",
        "kpf/sources/watch.py",
        "            if error.errno not in _SHORTAGES:\n                raise\n",
        "            raise\n",
        (f"{SHORTAGE}::test_a_daemon_starts_without_any_inotify_instance",),
    ),
    Mutant(
        "it never goes back to inotify",
        "kpf/sources/watch.py",
        "        yield\n        await asyncio.sleep(LOOK_S)\n",
        "        while True:\n            yield\n            await asyncio.sleep(LOOK_S)\n",
        (f"{SHORTAGE}::test_a_daemon_starts_without_any_inotify_instance",),
    ),
    Mutant(
        "descriptors that have run out are taken for inotify's limit",
        "kpf/sources/watch.py",
        "reason = _NO_DESCRIPTOR if _has_no_descriptors() else _SHORTAGES[error.errno]",
        "reason = _SHORTAGES[error.errno]",
        (f"{SHORTAGE}::test_without_inotify_it_is_looked_again_and_again",),
    ),
    Mutant(
        "a try without descriptors leaks one",
        "kpf/sources/watch.py",
        "    if _has_no_descriptors():\n",
        "    if False:\n",
        (f"{SHORTAGE}::test_without_inotify_it_is_looked_again_and_again",),
    ),
    Mutant(
        "the loop itself closes inotify",
        "kpf/sources/watch.py",
        "        beside_the_loop(inotify.close)\n",
        "        inotify.close()\n",
        (f"{SHORTAGE}::test_nobody_waits_until_the_kernel_lets_go_of_inotify",),
    ),
    Mutant(
        "sequence numbers are compared with more than 32 bits",
        "kpf/netlink/socket.py",
        "index = frame.sequence - first & SEQUENCE_MASK",
        "index = frame.sequence - first if frame.sequence >= first else count",
        (f"{NETLINK}::test_numbers_begin_anew_after_32_bits",),
    ),
    Mutant(
        "an interrupted dump is taken for a whole one",
        "kpf/netlink/socket.py",
        "if ended and is_interrupted:",
        "if False:",
        (f"{NETLINK}::test_an_interrupted_dump_is_done_again",),
    ),
    Mutant(
        "an interrupted dump is given up at once",
        "kpf/netlink/socket.py",
        "for _ in range(MAX_DUMPS - 1):",
        "for _ in range(0):",
        (f"{NETLINK}::test_an_interrupted_dump_is_done_again",),
    ),
    Mutant(
        "the errno at a dump's end is ignored",
        "kpf/netlink/socket.py",
        "answer = acknowledgement(frame) if frame.kind == NLMSG_ERROR else dump_end(frame)",
        'answer = acknowledgement(frame) if frame.kind == NLMSG_ERROR else Refusal(frame.sequence, 0, "")',
        (f"{NETLINK}::test_a_dump_that_fails_midway_is_an_error",),
    ),
    Mutant(
        "lost notifications are swallowed",
        "kpf/netlink/socket.py",
        "                on_data(None)\n",
        "                return\n",
        ("tests/test_netlink_addresses.py::test_lost_notifications_are_told",),
    ),
    Mutant(
        "notifications that were lost touched nothing",
        "kpf/nft/monitor.py",
        "if (data is None or self._is_touched(data)) and",
        "if data is not None and self._is_touched(data) and",
        ("tests/test_nft_table.py::test_what_is_lost_may_have_been_a_touch",),
    ),
    Mutant(
        "addresses of which the news was lost are not read",
        "kpf/netlink/addresses.py",
        "netlink.watch(lambda _: changed.set())",
        "netlink.watch(lambda data: changed.set() if data else None)",
        ("tests/test_netlink_addresses.py::test_a_change_that_was_lost_is_looked_for",),
    ),
    Mutant(
        "the loop itself sends to the kernel",
        "kpf/netlink/socket.py",
        "        beside_the_loop(send)\n",
        "        send()\n",
        (f"{BUSY}::test_while_it_runs",),
    ),
    Mutant(
        "the loop itself closes sockets of netlink",
        "kpf/netlink/socket.py",
        "        beside_the_loop(self._socket.close)\n",
        "        self._socket.close()\n",
        (f"{NETLINK}::test_the_end_does_not_wait_for_the_kernel",),
    ),
    Mutant(
        "a conversation begins within one that was given up",
        "kpf/netlink/socket.py",
        "        if self._sending is not None:\n",
        "        if False:\n",
        (f"{NETLINK}::test_a_kernel_that_is_busy_holds_up_nobody_else_and_what_is_given_up_ends_first",),
    ),
    Mutant(
        "nobody is told that the kernel is waited for",
        "kpf/waiting.py",
        'impatience = loop.call_later(PATIENCE_S, log.warning, "waiting for %s", what)',
        'impatience = loop.call_later(PATIENCE_S, log.debug, "waiting for %s", what)',
        (f"{BUSY}::test_while_it_runs",),
    ),
    Mutant(
        "the end waits for the kernel",
        "kpf/master/ending.py",
        "        async with asyncio.timeout(TRANSACTION_S):\n            await one\n",
        "        async with asyncio.timeout(None):\n            await one\n",
        (f"{BUSY}::test_when_it_is_to_stop",),
    ),
    Mutant(
        "the end waits for addresses",
        "kpf/master/ending.py",
        "        async with asyncio.timeout(TRANSACTION_S):\n            await addresses\n",
        "        async with asyncio.timeout(None):\n            await addresses\n",
        ("tests/test_ending.py::test_addresses_that_are_not_let_go_of_are_not_waited_for",),
    ),
    Mutant(
        "the end waits for threads",
        "kpf/master/ending.py",
        "    os._exit(status)\n",
        "    sys.exit(status)\n",
        ("tests/test_ending.py::test_a_thread_of_the_executor_is_not_waited_for",),
    ),
    Mutant(
        "a signal is not obeyed before the start is over",
        "kpf/master/intents.py",
        "await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)\n",
        "await asyncio.wait([task])\n",
        ("tests/e2e/test_busy_kernel.py::test_a_signal_is_obeyed_before_the_workers_are_ready",),
    ),
)
