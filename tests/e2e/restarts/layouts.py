"""A kpf of another version: a copy of the package whose shared memory has another layout."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import kpf

_VERSION = re.compile(r"^VERSION = (\d+)$", re.M)
# the words of a frontend's record in another order, and each record twice as large
_CHANGES = (
    (re.compile(r"^LIST, TIMEOUT, (.*) = range\(6\)$", re.M), r"TIMEOUT, LIST, \1 = range(1, 7)"),
    (re.compile(r"^(FRONTEND_WORDS|MEMBER_WORDS|WORKER_WORDS) = (\d+)", re.M), r"\1 = 2 * \2"),
    (re.compile(r"^IDENTITY, ADDRESS, PORT, HEALTH, CONNECT_TIME = 0, 1, 3, 4, 5$", re.M),
     "HEALTH, IDENTITY, ADDRESS, PORT, CONNECT_TIME = 0, 1, 2, 4, 6"),
    (re.compile(r"^ENTRY_CLIENT, ENTRY_IDENTITY, ENTRY_STAMP = 0, 2, 3$", re.M),
     "ENTRY_IDENTITY, ENTRY_STAMP, ENTRY_CLIENT = 0, 1, 2"),
)  # fmt: skip


def of_another_layout(directory: Path, *, step: int = 1) -> Mapping[str, str]:
    """The environment in which `python -m kpf` is that copy, made anew in `directory`; its version is `step` higher.

    Raises AssertionError if the layout does not read as it did when this was written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(Path(kpf.__file__).parent, directory / "kpf", ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / "kpf/shm/layout.py"
    text = path.read_text(encoding="utf-8")
    for pattern, replacement in _CHANGES:
        text, number = pattern.subn(replacement, text)
        assert number, pattern.pattern
    text, number = _VERSION.subn(lambda found: f"VERSION = {int(found[1]) + step}", text)
    assert number == 1
    path.write_text(text, encoding="utf-8")
    # the working directory, which is the checkout, comes before PYTHONPATH otherwise
    return {"PYTHONPATH": os.fspath(directory), "PYTHONSAFEPATH": "1"}
