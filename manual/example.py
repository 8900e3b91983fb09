"""The configuration that is installed: every field with what it is for, commented out, but for those that it takes."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from kpf.config.reader import API_VERSION, KIND
from manual.fields import Field, groups

WIDTH = 118
HEAD = (
    "/etc/kpf/kpf.yaml: the configuration of kpf. Every field is optional but the first two and a source of Services; "
    "what is commented out shows the default, or an example where there is none. `kpf check --config FILE` finds every "
    "mistake in it. After a change: systemctl reload kpf. Fields marked (restart) are read at start only. "
    "(`python -m manual` makes this file, of what manual/settings.py says.)"
)
# what the unit needs to start
SET = ("manifests",)


def configuration() -> str:
    """The text of the file."""
    lines = [*_comment(HEAD), f"apiVersion: {API_VERSION}", f"kind: {KIND}"]
    for title, fields in groups():
        lines += ["", f"# ---- {title}"]
        for outer, parts in groupby(fields, lambda field: field.name.rpartition(".")[0]):
            lines += _part(outer, [*parts])
    return "\n".join(lines) + "\n"


def _part(outer: str, fields: Sequence[Field]) -> Iterator[str]:
    if not outer:
        for field in fields:
            yield from ("", *_comment(_told(field)), _line(field.name, field, is_set=field.name in SET))
        return
    yield ""
    for field in fields:
        yield from _comment(f"{field.name}: {_told(field)}")
    yield f"# {outer}:"
    for field in fields:
        yield f"#   {field.name.rpartition('.')[2]}: {field.example}"


def _told(field: Field) -> str:
    """What it is for, its values where the text does not name them, and a default that is no value."""
    text = field.text
    if field.values and not all(value in text for value in field.values):
        text += f" One of {', '.join(field.values)}."
    if field.default not in ("none", field.example):
        text += f" Default: {field.default}."
    return text + " (restart)" * field.needs_restart


def _line(name: str, field: Field, *, is_set: bool) -> str:
    return f"{'' if is_set else '# '}{name}: {field.example}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, WIDTH - 2, break_on_hyphens=False)]
