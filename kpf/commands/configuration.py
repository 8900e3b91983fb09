"""The configuration that a command is given: read, and checked together with what was typed."""

import os
from collections.abc import Mapping, Sequence

from kpf.commands import refuse
from kpf.config import Config, ConfigError, load
from kpf.model.snapshot import Problem


def read(flags: Mapping[str, str], usage_errors: Sequence[str]) -> tuple[Config | None, str, list[object]]:
    """The configuration or None, the directory of manifests that it names all the same, and every mistake.

    `flags`: those that were typed, by name; `usage_errors`: what is wrong with them as they stand.
    """
    try:
        config = load(flags)
    except ConfigError as error:
        return None, error.manifests, [*usage_errors, *error.problems]
    return config, config.manifests, list(usage_errors)


def configuration(flags: Mapping[str, str], usage_errors: Sequence[str]) -> Config | None:
    """The configuration with a source that can be read, or None after every mistake has been said."""
    config, manifests, found = read(flags, usage_errors)
    found += problems_of_source(config, manifests)
    if found:
        refuse(found)
        return None
    return config


def problems_of_source(config: Config | None, manifests: str) -> list[Problem]:
    """Why the source can never be read."""
    if manifests:
        try:
            with os.scandir(manifests):
                return []
        except OSError as error:
            return [Problem(f"manifests: {manifests}", "", "", f"cannot be read: {error.strerror}")]
    if config is None:
        return []

    from kpf.master.source import source_problems

    return source_problems(config)
