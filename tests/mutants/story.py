"""What the table, the log and lists of processes say of Services, endpoints and workers."""

from tests.mutants import Mutant

TABLE = "tests/test_nft_table.py"
LOG = "tests/test_cli.py"

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
        "kpf/nft/encode.py",
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
)
