"""The catalogue of mutants is up to date; `make mutants` runs it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import Mutant
from tests.mutants.catalogue import catalogue, mutated

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", list(catalogue()), ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_place_and_its_tests(mutant: Mutant) -> None:
    broken = mutated(mutant, ROOT)
    assert mutant.old != mutant.new
    if mutant.file.endswith(".py"):
        ast.parse(broken)
    for test in mutant.tests:
        path, *names = test.split("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert all(name.partition("[")[0] in text for name in names if name != "runTest"), test


def test_a_mutant_breaks_what_it_says_and_not_a_name(tmp_path: Path) -> None:
    """One that raises NameError would be killed by whatever test."""
    for number, mutant in enumerate(one for one in catalogue() if one.file.endswith(".py")):
        (tmp_path / f"mutant_{number}.py").write_text(mutated(mutant, ROOT), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ruff")), "check", "--isolated", "--no-cache", "--select", "F821"]
    checked = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_no_two_have_the_same_name() -> None:
    names = [mutant.name for mutant in catalogue()]
    assert len(names) == len(set(names))
