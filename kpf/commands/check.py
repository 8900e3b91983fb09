"""`kpf check`: every problem of the configuration, of the manifests, and of what the plan makes of them.

Of the configuration alone: whether a reload would refuse it.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from kpf.commands import OK, USAGE, refuse
from kpf.commands.configuration import problems_of_source, read
from kpf.config import Config, warnings
from kpf.model.snapshot import Problem


def main(flags: Mapping[str, str], usage_errors: Sequence[str], *, config_only: bool) -> int:
    """Print them, one a line; OK if there are none, or USAGE. No server is asked. `config_only`: of it alone."""
    config, manifests, found = read(flags, usage_errors)
    if usage_errors:
        return refuse(found)
    if not config_only:
        found += _source_problems(config, manifests)
    for problem in found:
        print(problem)
    for warning in warnings(config) if config else ():
        print(f"kpf: {warning}", file=sys.stderr)
    if not found:
        print("no problems" + _what_was_left_out(config, manifests, config_only=config_only))
    return USAGE if found else OK


def _source_problems(config: Config | None, manifests: str) -> Sequence[Problem]:
    if manifests:
        return _manifest_problems(manifests, config)
    return problems_of_source(config, manifests) if config and _names_a_server(config) else ()


def _what_was_left_out(config: Config | None, manifests: str, *, config_only: bool) -> str:
    if config_only:
        return " of the configuration"
    if manifests or not config or not _names_a_server(config):
        return ""
    return " (the API server was not asked)"


def _names_a_server(config: Config) -> bool:
    return bool(config.client_connection.kubeconfig or config.master or os.environ.get("KUBERNETES_SERVICE_HOST"))


def _manifest_problems(manifests: str, config: Config | None) -> list[Problem]:
    from kpf.sources.manifests import ManifestSource

    try:
        snapshot = ManifestSource(manifests, node_name=config.node_name if config else "").read()
    except OSError as error:
        return [Problem(manifests, "", "", f"cannot be read: {error.strerror}")]
    if config is None:
        return list(snapshot.problems)

    from kpf.commands.render import planned

    return [*snapshot.problems, *planned(config, snapshot).problems]
