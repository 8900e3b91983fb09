"""What `kpf status` and `kpf connections` tell."""

from tests.mutants import Mutant

TEXT = "tests/test_status_text.py"
REPORT = "tests/test_report.py"
CONNECTIONS = "tests/test_connections.py"
INVENTORY = "tests/test_worker_inventory.py"

MUTANTS = (
    Mutant(
        "a FIN is told as a byte",
        "kpf/worker/inventory.py",
        "    return int(received) - (state in _ENDED and received > 0)",
        "    return int(received)",
        (f"{INVENTORY}::test_an_end_is_told_and_is_no_byte",),
    ),
    Mutant(
        "who waits for a second dial is told twice",
        "kpf/worker/racing.py",
        " and dial.attempts and dial.attempts[0].backend is backend else None",
        " else None",
        (f"{INVENTORY}::test_who_waits_for_a_dial_is_told_once",),
    ),
    Mutant(
        "a slice begins where the last one has ended, and tells that session again",
        "kpf/worker/inventory.py",
        "                end = descriptor + 1",
        "                end = descriptor",
        (f"{INVENTORY}::test_many_are_told_in_slices_and_each_once",),
    ),
    Mutant(
        "all sessions are told at once",
        "kpf/worker/inventory.py",
        "            if len(found) == MOST:",
        "            if len(found) == MOST * 4:",
        (f"{INVENTORY}::test_many_are_told_in_slices_and_each_once",),
    ),
    Mutant(
        "sessions of other frontends are told",
        "kpf/worker/inventory.py",
        "        if asked.frontends and frontend not in asked.frontends:",
        "        if asked.frontends and not frontend:",
        (f"{INVENTORY}::test_many_are_told_in_slices_and_each_once",),
    ),
    Mutant(
        "an answer has no end",
        "kpf/master/connections.py",
        "        while found.room > 0:",
        "        while True:",
        (f"{CONNECTIONS}::test_an_answer_has_an_end",),
    ),
    Mutant(
        "a worker that does not answer is asked again and again",
        "kpf/master/connections.py",
        "        if process.pid in self._late:",
        "        if not process.pid:",
        (f"{CONNECTIONS}::test_who_does_not_answer_is_named_and_not_asked_again",),
    ),
    Mutant(
        "connections of a frontend that is closed are nobody's",
        "kpf/master/connections.py",
        "        return self._directory.labels(with_retired=True)",
        "        return self._directory.labels()",
        (f"{CONNECTIONS}::test_a_frontend_that_is_closed_still_has_its_name",),
    ),
    Mutant(
        "one family's proxy port is told",
        "kpf/master/report.py",
        '"proxyPorts": [_proxy_port(one) for one in sorted(watched, key=_first_choice)],',
        '"proxyPorts": [_proxy_port(one) for one in sorted(watched, key=_first_choice)[:1]],',
        (f"{REPORT}::test_both_families_proxy_ports_and_affinity_are_told",),
    ),
    Mutant(
        "an endpoint fails since it is tried again",
        "kpf/shm/health.py",
        "    return next_try_ms(health) - (PROBE_MS if health & PROBING else 0) - ejected_ms",
        "    return next_try_ms(health)",
        (f"{REPORT}::test_an_endpoint_has_its_pod_its_end_and_its_failure",),
    ),
    Mutant(
        "what stays in force is not said",
        "kpf/sources/indexer.py",
        "        stays = before is not None and bool(versions) and versions[0].malformed",
        "        stays = False",
        ("tests/test_cache.py::test_a_malformed_version_leaves_the_last_good_one_in_force",),
    ),
    Mutant(
        "a row of an endpoint has no Service",
        "kpf/commands/status_text.py",
        "        name = Cell(name_of(service))",
        '        name = Cell("")',
        (f"{TEXT}::test_each_row_has_its_service",),
    ),
    Mutant(
        "colours are counted as columns",
        "kpf/commands/tables.py",
        "        cells.append(painted(padded, style, paper))",
        "        cells.append(painted(shown, style, paper).ljust(width))",
        (f"{TEXT}::test_states_are_coloured_and_columns_are_not_moved_by_it",),
    ),
    Mutant(
        "a pipe gets colours",
        "kpf/commands/tables.py",
        "    if not out.isatty():",
        "    if out.closed:",
        (f"{TEXT}::test_only_a_terminal_has_colours",),
    ),
    Mutant(
        "counts that have begun anew are negative rates",
        "kpf/commands/status_text.py",
        "    return [max(now[key] - before[key], 0) / elapsed_s for key in keys]",
        "    return [(now[key] - before[key]) / elapsed_s for key in keys]",
        (f"{TEXT}::test_the_busiest_comes_first_with_its_rates",),
    ),
)
