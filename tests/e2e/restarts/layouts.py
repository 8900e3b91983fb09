"""A kpf of another version: a copy of the package whose shared memory has another layout."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import kpf
from tests.other_layout import altered


def of_another_layout(directory: Path) -> Mapping[str, str]:
    """The environment in which `python -m kpf` is that copy, made anew in `directory`.

    Raises AssertionError if the layout does not read as it did when this was written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(Path(kpf.__file__).parent, directory / "kpf", ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / "kpf/shm/layout.py"
    path.write_text(altered(path.read_text(encoding="utf-8")), encoding="utf-8")
    # the working directory, which is the checkout, comes before PYTHONPATH otherwise
    return {"PYTHONPATH": os.fspath(directory), "PYTHONSAFEPATH": "1"}
