"""`kpf check`: every problem of the configuration, of the manifests, and of what the plan makes of them."""

import os
import sys
from collections.abc import Mapping, Sequence

from kpf.commands import OK, USAGE, refuse
from kpf.commands.configuration import problems_of_source, read
from kpf.config import Config, warnings
from kpf.model.snapshot import Problem


def main(flags: Mapping[str, str], usage_errors: Sequence[str]) -> int:
    """Print them, one a line; OK if there are none, or USAGE. No server is asked."""
    config, manifests, found = read(flags, usage_errors)
    if usage_errors:
        return refuse(found)
    if manifests:
        found += _manifest_problems(manifests, config)
    elif config and _names_a_server(config):
        found += problems_of_source(config, manifests)
    for problem in found:
        print(problem)
    for warning in warnings(config) if config else ():
        print(f"kpf: {warning}", file=sys.stderr)
    if not found:
        asked = "" if manifests or not config or not _names_a_server(config) else " (the API server was not asked)"
        print(f"no problems{asked}")
    return USAGE if found else OK


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
