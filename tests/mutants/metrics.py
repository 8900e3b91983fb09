"""Metrics: what is counted, told, left out, and how long a scrape holds up others."""

from tests.mutants import Mutant

TEXT, SERVER, GATHERED = "tests/test_metrics.py", "tests/test_metrics_server.py", "tests/test_metrics_gathered.py"
MONITORING, TIMES, DIAL = "tests/test_monitoring.py", "tests/test_shm_times.py", "tests/test_worker_dial.py"

MUTANTS = (
    Mutant(
        "a time at a bound is in the bucket below it",
        "kpf/shm/layout.py",
        "tuple(F_DIALS + min((bits + 1) // 2, len(DIAL_BOUNDS_MS)) for bits in range(65))",
        "tuple(F_DIALS + min(bits // 2, len(DIAL_BOUNDS_MS)) for bits in range(65))",
        (f"{TIMES}::test_a_time_is_in_the_bucket_of_the_first_bound_above_it",),
    ),
    Mutant(
        "a connection is counted as if it had begun when its backend answered",
        "kpf/worker/connector.py",
        "        words[choice.total] += 1\n",
        "        words[choice.total] += 1\n        client.began_ms += took_ms\n",
        (f"{DIAL}::test_how_long_a_dial_takes_and_a_connection_lasts_is_counted",),
    ),
    Mutant(
        "a histogram is not carried over to another layout",
        "kpf/shm/description.py",
        '        **_buckets("lasted", layout.F_LASTED, layout.DURATION_BOUNDS_MS),\n',
        "",
        ("tests/test_shm_carry.py",),
    ),
    Mutant(
        "what a frontend has counted is lost when it ends",
        "kpf/master/metrics.py",
        "            frontends.append(ended)\n",
        "            pass\n",
        (f"{GATHERED}::test_counts_do_not_go_back_when_a_frontend_ends",),
    ),
    Mutant(
        "the event loop is held while Services are looked at",
        "kpf/master/metrics.py",
        "                due = 0\n                await asyncio.sleep(0)\n",
        "                due = 0\n",
        (f"{GATHERED}::test_others_have_their_turns_while_services_are_looked_at",),
    ),
    Mutant(
        "the event loop is held while a scrape is rendered",
        "kpf/observe/metrics_server.py",
        "                    made.append(piece)\n                await asyncio.sleep(0)\n",
        "                    made.append(piece)\n",
        (f"{SERVER}::test_others_have_their_turns_while_a_scrape_is_rendered",),
    ),
    Mutant(
        "each one who asks has a scrape rendered",
        "kpf/observe/metrics_server.py",
        "        if task is None:\n",
        "        if True:\n",
        (f"{SERVER}::test_those_who_ask_meanwhile_get_the_same_bytes",),
    ),
    Mutant(
        "who leaves takes the scrape from the others",
        "kpf/observe/metrics_server.py",
        "return await asyncio.shield(task)",
        "return await task",
        (f"{SERVER}::test_those_who_ask_meanwhile_get_the_same_bytes",),
    ),
    Mutant(
        "a stranger may have a scrape by any method",
        "kpf/observe/metrics_server.py",
        "if request.method not in METHODS:",
        "if False:",
        (f"{SERVER}::test_nothing_but_get_and_head_is_answered",),
    ),
    Mutant(
        "a client that leaves is taken for a defect",
        "kpf/observe/metrics_server.py",
        "with suppress(ConnectionError):",
        "with suppress(KeyError):",
        (f"{SERVER}::test_strangers_are_let_go_and_others_are_served",),
    ),
    Mutant(
        "less important series have the room that others lack",
        "kpf/observe/service_metrics.py",
        "if left_out or used + size > limit:",
        "if used + size > limit:",
        (f"{TEXT}::test_what_matters_most_has_room_first",),
    ),
    Mutant(
        "a family's help is said for each part of it",
        "kpf/observe/exposition.py",
        "yield _without_comments(text) if is_begun else text",
        "yield text",
        (f"{TEXT}::test_it_is_the_same_text_in_however_many_pieces",),
    ),
    Mutant(
        "an overflow is counted at each look",
        "kpf/master/queues.py",
        "(count - self._seen.get(one, 0)) % _WORD",
        "count",
        (f"{GATHERED}::test_queues_are_what_the_kernel_says",),
    ),
    Mutant(
        "a change that has failed at first is counted twice",
        "kpf/master/programming.py",
        "                self._told[service] = now\n",
        "                pass\n",
        (f"{GATHERED}::test_from_a_change_to_its_being_in_force",),
    ),
    Mutant(
        "a Service without any endpoint counts as one without a local one",
        "kpf/plan/no_local.py",
        " and frontend.when_empty is Verdict.DROP and not frontend.endpoints",
        " and not frontend.endpoints",
        (f"{GATHERED}::test_services_without_a_local_endpoint",),
    ),
    Mutant(
        "an alert that never fires",
        "examples/monitoring/rules.yml",
        "expr: increase(kpf_listen_overflows_total[10m]) > 0",
        "expr: increase(kpf_listen_overflows_total[30s]) > 0",
        (f"{MONITORING}::test_each_alert_fires_and_none_where_nothing_is_wrong",),
    ),
)
