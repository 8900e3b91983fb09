"""All mutants, found in the modules beside this one that have `MUTANTS`."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from tests import mutants
from tests.mutants import Mutant


def catalogue() -> Iterator[Mutant]:
    """In the order of areas, and of each area's file."""
    for module in sorted(one.name for one in pkgutil.iter_modules([str(Path(mutants.__file__).parent)])):
        if not module.startswith("_") and module != "catalogue":
            yield from importlib.import_module(f"tests.mutants.{module}").MUTANTS


def mutated(mutant: Mutant, root: Path) -> str:
    """The text of its file with the defect in it. Raises ValueError if the place is not there just once."""
    text = (root / mutant.file).read_text(encoding="utf-8")
    if (found := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: its place is {found} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)
