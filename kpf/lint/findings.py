"""What `kpf check` says of a directory of manifests beside its problems."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kpf.lint.directory import Entries, entries_of
from kpf.lint.notes import Notes
from kpf.model.snapshot import Problem, Snapshot
from kpf.sources.decode import API_VERSIONS
from kpf.sources.manifests import ManifestSource

MAX_NAMED = 10


class Findings(NamedTuple):
    """What a daemon would make of the directory, warnings in the order of the files, and what was read, in a line.

    `left_out`: how many more warnings there are.
    """

    snapshot: Snapshot
    warnings: list[Problem]
    left_out: int
    summary: str


def look(directory: str, *, node_name: str = "") -> Findings:
    """Read it as a daemon would, once. Raises OSError if it cannot be read."""
    notes = Notes()
    snapshot = ManifestSource(directory, node_name=node_name, decoder=notes.decode).read()
    entries = entries_of(directory)
    notes.warn(entries.warnings)
    notes.conclude()
    # stable: those of one object stay in the order of its fields
    warnings = sorted(notes.warnings, key=lambda one: one.origin)
    return Findings(snapshot, warnings, notes.left_out, _summary(entries, notes))


def _summary(entries: Entries, notes: Notes) -> str:
    read = ", ".join(_counts(notes)) or "nothing that kpf reads"
    text = f"{entries.files} file{'' if entries.files == 1 else 's'}: {read}"
    passed_over = [*_kinds(notes.passed_over), *entries.passed_over]
    if passed_over:
        more = len(passed_over) - MAX_NAMED
        text += f"; ignored: {', '.join(passed_over[:MAX_NAMED])}" + (f" and {more} more" if more > 0 else "")
    return text


def _counts(notes: Notes) -> Iterator[str]:
    for kind in API_VERSIONS:
        count = notes.counts[kind]
        features = ", ".join(f"{one} {name}" for name, one in sorted(notes.features.items(), reverse=True))
        if count:
            told = f"{count} {kind}{'' if count == 1 else 's'}"
            yield f"{told} ({features})" if features and kind == "Service" else told


def _kinds(passed_over: Mapping[str, int]) -> Iterator[str]:
    for kind, count in sorted(passed_over.items()):
        yield kind if count == 1 else f"{kind} ({count})"
