"""What a start of kpf, and of a worker, goes without: it is the gap of a restart, and what most of a test run is."""

import subprocess
import sys

import pytest

# what it costs depends on the machine; whether it is paid does not
NEEDLESS = {
    "kpf.cli, kpf.commands.run, kpf.master.master": {
        "kpf.explain",
        "kubernetes",
        "prometheus_client",
        "psutil",
        "pyroute2",
        "rich",
    },
    "kpf.worker.worker": {"asyncio", "hashlib", "logging", "pydantic", "random", "secrets"},
}
START = """
import gc, sys
from kpf.__main__ import main
sys.argv[1:] = ["--version"]
try:
    main()
except SystemExit:
    import kpf.commands.run, kpf.master.master
    print(sum(one["collections"] for one in gc.get_stats()))
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("modules", NEEDLESS, ids=["kpf", "worker"])
def test_nothing_is_imported_that_a_start_has_no_use_for(modules: str) -> None:
    imported = run(f"import sys, {modules}; print(*sys.modules)")
    assert len(imported) > 50
    assert {*imported} & NEEDLESS[modules] == set()


def test_hardly_any_garbage_is_looked_for_while_modules_are_imported() -> None:
    *_, collections = run(START)
    # 150 are usual
    assert int(collections) < 50
