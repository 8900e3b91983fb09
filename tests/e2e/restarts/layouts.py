"""A kpf of another version: a copy of the package whose shared memory has another layout."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import kpf

_VERSION = re.compile(r"^VERSION = (\d+)$", re.M)
# words in another order, and larger records
_CHANGES = (
    (r"^LIST, TIMEOUT, (AFFINITY_TABLE, .*)$", r"TIMEOUT, LIST, \1"),
    (r"^(FRONTEND_WORDS|MEMBER_WORDS|WORKER_WORDS|FRONTEND_COUNTERS|MEMBER_COUNTERS) = (\d+)", r"\1 = 2 * \2"),
    (r"^IDENTITY, (ADDRESS, PORT), HEALTH, CONNECT_TIME, (.*)$", r"HEALTH, \1, CONNECT_TIME, IDENTITY, \2"),
    (r"^ENTRY_CLIENT, ENTRY_IDENTITY, ENTRY_STAMP = 0, 2, 3$", "ENTRY_IDENTITY, ENTRY_STAMP, ENTRY_CLIENT = 0, 1, 2"),
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
        text, number = re.subn(pattern, replacement, text, flags=re.M)
        assert number, pattern
    text, number = _VERSION.subn(lambda found: f"VERSION = {int(found[1]) + step}", text)
    assert number == 1
    path.write_text(text, encoding="utf-8")
    # the working directory, which is the checkout, comes before PYTHONPATH otherwise
    return {"PYTHONPATH": os.fspath(directory), "PYTHONSAFEPATH": "1"}
