"""What the table, the log and lists of processes say of Services, endpoints and workers."""

from tests.mutants import Mutant

TABLE = "tests/test_nft_table.py"
LOG = "tests/test_cli.py"
STORY = "tests/test_story.py"
RECONCILE = "tests/test_reconcile.py"

MUTANTS = (
    Mutant(
        "a portal's next owner has the comment of the one before",
        "kpf/nft/batch.py",
        "    renamed = _renamed(old, new)",
        "    renamed = set[Portal | NodePort]()",
        (f"{TABLE}::test_who_gets_a_portal_of_the_same_kind_is_said_too",),
    ),
    Mutant(
        "a comment is longer than nft takes",
        "kpf/nft/elements.py",
        "COMMENT_LIMIT = 128",
        "COMMENT_LIMIT = 200",
        (f"{TABLE}::test_nft_says_whose_portal_it_is_and_takes_that_back_as_it_is",),
    ),
    Mutant(
        "what a line names is for people alone",
        "kpf/observe/log.py",
        "            fields |= named.keys",
        "            pass",
        (f"{LOG}::test_the_log[json]",),
    ),
    Mutant(
        "workers are called after the interpreter",
        "kpf/worker/worker.py",
        '    call_process(f"kpf: worker {message.slot}")\n',
        "",
        ("tests/e2e/test_workers.py::test_a_process_is_called_what_log_and_status_call_it",),
    ),
    Mutant(
        "a storm is told line by line",
        "kpf/observe/story.py",
        "        if known.untold or known.lines < 1:",
        "        if known.untold:",
        (f"{STORY}::test_a_storm_is_so_many_lines_and_one_that_says_how_many_more",),
    ),
    Mutant(
        "lines of a kind never come again",
        "kpf/observe/story.py",
        "(now_s - known.seen_s) / REFILL_S",
        "0.0",
        (f"{STORY}::test_a_trickle_is_told_line_by_line",),
    ),
    Mutant(
        "an endpoint in two lists is told of twice",
        "kpf/master/endpoint_watch.py",
        "        if outage is None:",
        "        if True:",
        (f"{STORY}::test_an_endpoint_goes_down_and_comes_back",),
    ),
    Mutant(
        "an endpoint answers again that has left",
        "kpf/master/endpoint_watch.py",
        '        kind, what = (BACK, "answers again, after %s") if is_same else (',
        '        kind, what = (BACK, "answers again, after %s") if True else (',
        (f"{STORY}::test_an_endpoint_that_leaves_does_not_answer_again",),
    ),
    Mutant(
        "silence that is heard out is an outage",
        "kpf/shm/ejections.py",
        "if said[one - start] & FOR_MASK and",
        "if said[one - start] and",
        (f"{STORY}::test_a_silence_that_is_heard_out_is_no_news",),
    ),
    Mutant(
        "only the first part of memory is looked at",
        "kpf/master/endpoint_watch.py",
        "        start = self._at if self._at < members else 0",
        "        start = 0",
        (f"{STORY}::test_it_looks_at_a_part_at_a_time_and_at_all",),
    ),
    Mutant(
        "each change of endpoints is news",
        "kpf/master/changes.py",
        "    if bool(endpoints) != bool(_endpoints(name, before)):",
        "    if endpoints != _endpoints(name, before):",
        (f"{STORY}::test_one_line_a_change_of_a_service",),
    ),
    Mutant(
        "what has not been told is lost",
        "kpf/observe/story.py",
        "                log.log(known.level, kind, known.untold)",
        "                pass",
        (f"{STORY}::test_a_storm_is_so_many_lines_and_one_that_says_how_many_more",),
    ),
    Mutant(
        "what there is at the start is told one by one",
        "kpf/master/reconcile.py",
        "self._told: DesiredState | None = None",
        "self._told: DesiredState | None = DesiredState()",
        (f"{RECONCILE}::test_what_becomes_of_services_is_told_once_it_is_in_force",),
    ),
    Mutant(
        "the end of a problem is not told",
        "kpf/master/reconcile.py",
        "        for problem in sorted(before - now):",
        "        for problem in ():",
        (f"{RECONCILE}::test_what_becomes_of_services_is_told_once_it_is_in_force",),
    ),
)
