"""The `kpf` command: what was typed, and who does it. Each command imports what it needs only when it runs.

Every mistake of the command line and of the configuration is listed, one a line, before anything is done.
Exit status: 0 fine, 2 wrong usage or configuration, 1 anything else.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn

from kpf import __version__

if TYPE_CHECKING:
    from kpf.config import Config
    from kpf.model.snapshot import Problem

OK, FAILED, USAGE = 0, 1, 2

_RUN_FLAGS: Mapping[str, tuple[str, str]] = {
    "config": ("FILE", "configuration file (YAML)"),
    "manifests": ("DIR", "Services and EndpointSlices from the files in DIR (no cluster)"),
    "kubeconfig": ("FILE", "from this cluster; with neither, the in-cluster service account"),
    "master": ("URL", "API server address, overriding the kubeconfig's or in-cluster one"),
    "hostname-override": ("NAME", "this node's name (default: the host name)"),
    "workers": ("N", "worker processes (default: usable CPUs)"),
    "bind-address": ("IPS", "where proxy ports listen (default: an address of kpf's own on lo)"),
    "proxy-port-range": ("A-B", "proxy ports (default: 20000-29999)"),
    "nodeport-addresses": ("LIST", "CIDRs, or 'primary' (default: all local addresses)"),
    "detect-local-mode": ("M", "which sources are this node's pods (default: NodeCIDR)"),
    "cluster-cidr": ("C", "the pods' CIDRs; makes ClusterCIDR the default of --detect-local-mode"),
    "healthz-bind-address": ("IP:PORT", "/healthz and /livez (default: 0.0.0.0:10256; empty: off)"),
    "metrics-bind-address": ("IP:PORT", "/metrics (default: 127.0.0.1:10249; empty: off)"),
    "control-socket": ("PATH", "for kpf status (default: /run/kpf/control.sock)"),
    "drain-timeout": ("SECONDS", "how long open connections may go on after SIGTERM (default: 30)"),
    "log-level": ("LEVEL", "debug, info, warning or error (default: info)"),
    "log-format": ("FORMAT", "text or json (default: text)"),
}


class _UsageError(Exception):
    """The command line as a whole cannot be understood."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What was typed after the command. `flags`: those of `run`, by name; `mistakes`: what is wrong as it stands."""

    flags: Mapping[str, str]
    mistakes: Sequence[str]
    as_json: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _parser() -> _Parser:
    about = "A node-local Service proxy for Kubernetes in user space."
    parser = _Parser(prog="kpf", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kpf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, text in (
        ("run", "the daemon, in the foreground"),
        ("check", "validate configuration and manifests; print every problem"),
        ("render", "print the nftables ruleset that a daemon would make"),
    ):
        _add_flags(commands.add_parser(name, help=text, description=text, allow_abbrev=False), _RUN_FLAGS)
    status = commands.add_parser("status", help="the state of the running daemon", allow_abbrev=False)
    status.add_argument("--json", action="store_true", help="as JSON")
    _add_flags(status, {"control-socket": _RUN_FLAGS["control-socket"]})
    commands.add_parser("demo", help="a complete show in a network namespace of its own", add_help=False)
    commands.add_parser("cleanup", help="remove everything that kpf ever made in the kernel", allow_abbrev=False)
    return parser


def _add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, tuple[str, str]]) -> None:
    for flag, (metavar, text) in flags.items():
        parser.add_argument(f"--{flag}", dest=flag, metavar=metavar, help=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        from kpf.demo import main as demo

        return demo(arguments[1:])
    parser = _parser()
    try:
        complete, mistakes = _complete(arguments)
        given, rest = parser.parse_known_args(complete)
    except _UsageError as error:
        return _refuse([str(error), "see kpf --help"])
    mistakes += [f"{one}: unknown flag" if one.startswith("-") else f"{one}: not expected here" for one in rest]
    if given.command is None:
        parser.print_help(sys.stderr)
        return _refuse(mistakes)
    flags = {flag: value for flag, value in vars(given).items() if flag in _RUN_FLAGS and value is not None}
    commands: Mapping[str, Callable[[_Given], int]] = {
        "run": _run,
        "check": _check,
        "render": _render,
        "status": _status,
        "cleanup": _cleanup,
    }
    return commands[given.command](_Given(flags, mistakes, as_json=getattr(given, "json", False)))


def _complete(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What argparse can read, and complaints about flags without a value: it would give up at the first of them."""
    kept, mistakes = [], []
    for one, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
        if one.startswith("--") and one[2:] in _RUN_FLAGS and following.startswith("--"):
            mistakes.append(f"{one}: needs a value")
        else:
            kept.append(one)
    return kept, mistakes


def _refuse(mistakes: Iterable[object]) -> int:
    for mistake in mistakes:
        print(f"kpf: {mistake}", file=sys.stderr)
    return USAGE


def _read(given: _Given) -> "tuple[Config | None, str, list[object]]":
    """The configuration or None, the directory of manifests that it names all the same, and every mistake."""
    from kpf.config import ConfigError, load

    try:
        config = load(given.flags)
    except ConfigError as error:
        return None, error.manifests, [*given.mistakes, *error.problems]
    return config, config.manifests, list(given.mistakes)


def _configuration(given: _Given) -> "Config | None":
    """The configuration with a source that can be read, or None after every mistake has been said."""
    config, manifests, mistakes = _read(given)
    mistakes += _source_mistakes(config, manifests)
    if mistakes:
        _refuse(mistakes)
        return None
    return config


def _source_mistakes(config: "Config | None", manifests: str) -> "list[Problem]":
    """Why the source can never be read."""
    from kpf.model.snapshot import Problem

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


def _run(given: _Given) -> int:
    from kpf import stderr
    from kpf.config import Config, load, warnings
    from kpf.observe import log

    stderr.install()
    said: list[str] = []

    def warn(config: Config) -> Config:
        found = warnings(config)
        for warning in found:
            if warning not in said:
                log.logger.warning(warning)
        said[:] = found
        return config

    config = _configuration(given)
    if config is None:
        return USAGE
    log.set_up(config.logging.level, config.logging.format)
    warn(config)

    from kpf.master.master import main as run

    return run(config, lambda: warn(load(given.flags)))


def _check(given: _Given) -> int:
    """Configuration, manifests, and what the plan makes of them."""
    from kpf.config import warnings

    config, manifests, found = _read(given)
    if given.mistakes:
        return _refuse(found)
    if manifests:
        found += _manifest_problems(manifests, config)
    elif config and _names_a_server(config):
        found += _source_mistakes(config, manifests)
    for problem in found:
        print(problem)
    for warning in warnings(config) if config else ():
        print(f"kpf: {warning}", file=sys.stderr)
    if not found:
        asked = "" if manifests or not config or not _names_a_server(config) else " (the API server was not asked)"
        print(f"no problems{asked}")
    return USAGE if found else OK


def _names_a_server(config: "Config") -> bool:
    return bool(config.client_connection.kubeconfig or config.master or os.environ.get("KUBERNETES_SERVICE_HOST"))


def _manifest_problems(manifests: str, config: "Config | None") -> "list[Problem]":
    from kpf.model.snapshot import Problem
    from kpf.sources.manifests import ManifestSource

    try:
        snapshot = ManifestSource(manifests, node_name=config.node_name if config else "").read()
    except OSError as error:
        return [Problem(manifests, "", "", f"cannot be read: {error.strerror}")]
    if config is None:
        return list(snapshot.problems)

    from kpf.master.preview import problems

    return [*snapshot.problems, *problems(config, snapshot)]


def _render(given: _Given) -> int:
    config = _configuration(given)
    if config is None:
        return USAGE

    from kpf.master.preview import main as render

    return render(config)


def _status(given: _Given) -> int:
    if given.mistakes:
        return _refuse(given.mistakes)

    from kpf.config import DEFAULT_CONTROL_SOCKET
    from kpf.observe.status import main as status

    return status(given.flags.get("control-socket", DEFAULT_CONTROL_SOCKET), given.as_json)


def _cleanup(given: _Given) -> int:
    if given.mistakes:
        return _refuse(given.mistakes)

    from kpf.nft.cleanup import main as cleanup

    return cleanup()
