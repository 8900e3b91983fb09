"""`python -m tests.mutants [WORD ...]`: those mutants whose name or file has one of the words; all without any.

Works in a copy of the project. Prints a line a mutant; exit status 1 if one of them survived, or if the tests fail
without any of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.mutants import Mutant
from tests.mutants.catalogue import catalogue, mutated

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 300.0
# pytest's exit status: https://docs.pytest.org/en/stable/reference/exit-codes.html
PASSED, FAILED = 0, 1


def main(words: Sequence[str]) -> int:
    chosen = [one for one in catalogue() if not words or any(word in f"{one.name} {one.file}" for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy = Path(directory) / "kpf"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
        status, output = run(copy, sorted({test for one in chosen for test in one.tests}))
        if status != PASSED:
            print(output, "the tests must pass before a mutant can fail them", sep="\n")
            return 1
        survivors = [one for one in chosen if not is_killed(one, copy)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed")
    return 1 if survivors else 0


def is_killed(mutant: Mutant, copy: Path) -> bool:
    """Put it in, run its tests, take it out."""
    path = copy / mutant.file
    whole, broken = path.read_text(encoding="utf-8"), mutated(mutant, copy)
    path.write_text(broken, encoding="utf-8")
    began_s = time.monotonic()
    try:
        status, output = run(copy, mutant.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    killed = status == FAILED
    verdict = "killed" if killed else "SURVIVED" if status == PASSED else f"status {status}"
    print(f"{verdict:9} {time.monotonic() - began_s:5.1f} s  {mutant.file}: {mutant.name}", flush=True)
    if not killed and status != PASSED:
        print(output)
    return killed


def run(copy: Path, tests: Iterable[str]) -> tuple[int, str]:
    """pytest's exit status and output, where kpf is the copy, also for the processes that tests start."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", *tests]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        return -1, f"not over after {error.timeout:g} s"
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
