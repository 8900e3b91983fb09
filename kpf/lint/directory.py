"""What is in a directory of manifests and is not read."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from kpf.model.snapshot import Problem
from kpf.sources.manifests import MAX_FILES, SUFFIXES, is_manifest
from kpf.suggestions import nearest

# "*.ymal" is 0.8 like "*.yaml", "*.xml" 0.75 like "*.yml"
ALIKE = 0.8


class Entries(NamedTuple):
    """How many files are read, who is passed over, by name, and what of that is odd."""

    files: int
    passed_over: list[str]
    warnings: list[Problem]


def entries_of(directory: str) -> Entries:
    """Names that begin with a dot are not even passed over. Raises OSError."""
    with os.scandir(directory) as scanned:
        listed = sorted((one.name, one.is_dir()) for one in scanned if not one.name.startswith("."))
    read = [name for name, is_directory in listed if is_manifest(name) and not is_directory]
    passed_over = [name + "/" * is_directory for name, is_directory in listed if is_directory or not is_manifest(name)]
    warnings = [*_odd(passed_over)]
    if not read:
        warnings.insert(0, Problem(directory, "", "", f"has no manifests: files whose names end in {_ENDS}"))
    return Entries(min(len(read), MAX_FILES), passed_over, warnings)


_ENDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _odd(passed_over: list[str]) -> Iterator[Problem]:
    for name in passed_over:
        if name.endswith("/"):
            yield Problem(name, "", "", "is not read: files are, that are directly in the directory")
        elif (suffix := os.path.splitext(name)[1])[1:].isalpha() and nearest(suffix, SUFFIXES, ALIKE):
            yield Problem(name, "", "", f"is not read: names of manifests end in {_ENDS}")
