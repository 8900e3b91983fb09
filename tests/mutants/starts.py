"""What makes a start of kpf, or of a worker, slower."""

from tests.mutants import Mutant

STARTS = "tests/test_starts.py"

MUTANTS = (
    Mutant(
        "garbage is looked for while modules are imported",
        "kpf/__main__.py",
        "    gc.set_threshold(*COLLECT_AFTER)\n",
        "",
        (f"{STARTS}::test_hardly_any_garbage_is_looked_for_while_modules_are_imported",),
    ),
    Mutant(
        "each start imports what only an explanation needs",
        "kpf/master/own_state.py",
        "from kpf.master import report\n",
        "from kpf.master import explaining, report\n",
        (f"{STARTS}::test_nothing_is_imported_that_a_start_has_no_use_for",),
    ),
    Mutant(
        "each worker imports OpenSSL's hashes for what the kernel gives",
        "kpf/shm/region.py",
        "import os\nimport time\n",
        "import os\nimport secrets\nimport time\n",
        (f"{STARTS}::test_nothing_is_imported_that_a_start_has_no_use_for",),
    ),
)
