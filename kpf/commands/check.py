"""`kpf check`: every problem of the configuration, of the manifests, and of what the plan makes of them; and warnings.

Of the configuration alone: whether a reload would refuse it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kpf.commands import OK, USAGE, refuse
from kpf.commands.configuration import problems_of_source, read
from kpf.config import Config, warnings
from kpf.model.snapshot import Problem


class _Found(NamedTuple):
    """What a source has. `left_out`: how many more warnings. `summary`: what was read, "" if nothing was."""

    problems: Sequence[object] = ()
    warnings: Sequence[object] = ()
    left_out: int = 0
    summary: str = ""


def main(flags: Mapping[str, str], usage_errors: Sequence[str], *, config_only: bool, is_strict: bool) -> int:
    """Print them, one a line; OK if there are no problems, or USAGE. No server is asked.

    `config_only`: of the configuration alone. `is_strict`: a warning counts as a problem.
    """
    config, manifests, problems = read(flags, usage_errors)
    if usage_errors:
        return refuse(problems)
    found = _Found() if config_only else _source(config, manifests)
    problems += found.problems
    warned = [*(warnings(config) if config else ()), *found.warnings]
    _print("", problems)
    _print("warning: ", [*warned, *([f"{found.left_out} more warnings"] if found.left_out else [])])
    count = len(warned) + found.left_out
    if not problems:
        told = f", {count} warning{'' if count == 1 else 's'}" if count else ""
        print("no problems" + _what_was_left_out(config, manifests, config_only=config_only) + told)
    if found.summary:
        _print("", [found.summary])
    return USAGE if problems or (is_strict and count) else OK


def _print(before: str, lines: Iterable[object]) -> None:
    """Names of files and objects have whatever their authors wrote: no line break, and what no terminal shows."""
    for one in lines:
        print(before + "".join(map(_printable, str(one))))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _source(config: Config | None, manifests: str) -> _Found:
    if manifests:
        return _of_manifests(manifests, config)
    if config is None:
        return _Found()
    problems = problems_of_source(config, manifests)
    # the configuration of a pod is checked elsewhere, too
    return _Found(problems) if _names_a_server(config) else _Found(warnings=problems)


def _what_was_left_out(config: Config | None, manifests: str, *, config_only: bool) -> str:
    if config_only:
        return " of the configuration"
    if manifests or not config or not _names_a_server(config):
        return ""
    return " (the API server was not asked)"


def _names_a_server(config: Config) -> bool:
    return bool(config.client_connection.kubeconfig or config.master or os.environ.get("KUBERNETES_SERVICE_HOST"))


def _of_manifests(manifests: str, config: Config | None) -> _Found:
    from kpf.lint import look

    try:
        seen = look(manifests, node_name=config.node_name if config else "")
    except OSError as error:
        return _Found([Problem(manifests, "", "", f"cannot be read: {error.strerror}")])
    problems = [*seen.snapshot.problems]
    if config is not None:
        from kpf.commands.render import planned

        problems += planned(config, seen.snapshot).problems
    return _Found(problems, seen.warnings, seen.left_out, seen.summary)
