"""The `kpf` command: what was typed, and which of `kpf.commands` does it.

Every mistake of the command line and of the configuration is listed, one a line, before anything is done.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NoReturn

from kpf import __version__
from kpf.commands import refuse

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
    "on-exit": ("drop|leave", "at SIGTERM: take everything away (default), or leave it for the next kpf"),
    "log-level": ("LEVEL", "debug, info, warning or error (default: info)"),
    "log-format": ("FORMAT", "text or json (default: text)"),
}


class _UsageError(Exception):
    """The command line as a whole cannot be understood."""


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
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_flags(command, _RUN_FLAGS)
        if name == "check":
            command.add_argument(
                "--config-only", action="store_true", help="what a reload refuses: leave manifests alone"
            )
    status = commands.add_parser("status", help="the state of the running daemon", allow_abbrev=False)
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--ready", action="store_true", help="exit status 0 if it serves, else 1, and why")
    _add_flags(status, {"control-socket": _RUN_FLAGS["control-socket"]})
    explain = commands.add_parser(
        "explain",
        help="what happens to a packet, from each origin, and why",
        description="What happens to a packet, from each origin, and why. Exit status 2 if kpf knows no such thing.",
        allow_abbrev=False,
    )
    explain.add_argument(
        "what", metavar="WHAT", help="ADDRESS[:PORT][/udp], :NODEPORT[/udp] or NAMESPACE/NAME[:PORTNAME]"
    )
    explain.add_argument("--from", dest="client", metavar="CLIENT", help="for this client's address alone")
    explain.add_argument("--json", action="store_true", help="as JSON")
    _add_flags(explain, {"control-socket": _RUN_FLAGS["control-socket"]})
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
        complete, usage_errors = _complete(arguments)
        given, rest = parser.parse_known_args(complete)
    except _UsageError as error:
        return refuse([str(error), "see kpf --help"])
    usage_errors += [f"{one}: unknown flag" if one.startswith("-") else f"{one}: not expected here" for one in rest]
    if given.command is None:
        parser.print_help(sys.stderr)
        return refuse(usage_errors)
    flags = {flag: value for flag, value in vars(given).items() if flag in _RUN_FLAGS and value is not None}
    return _do(given, flags, usage_errors)


def _do(given: argparse.Namespace, flags: Mapping[str, str], usage_errors: Sequence[str]) -> int:
    """The three that read a configuration say what is wrong with it together with what is wrong here."""
    match given.command:
        case "run":
            from kpf.commands.run import main as run

            return run(flags, usage_errors)
        case "check":
            from kpf.commands.check import main as check

            return check(flags, usage_errors, config_only=given.config_only)
        case "render":
            from kpf.commands.render import main as render

            return render(flags, usage_errors)
    if usage_errors:
        return refuse(usage_errors)
    if given.command == "cleanup":
        from kpf.commands.cleanup import main as cleanup

        return cleanup()
    from kpf.places import DEFAULT_CONTROL_SOCKET

    control_socket = flags.get("control-socket", DEFAULT_CONTROL_SOCKET)
    if given.command == "explain":
        from kpf.commands.explain import main as explain

        return explain(control_socket, given.what, given.client, given.json)
    assert given.command == "status", given.command
    if given.ready:
        from kpf.commands.ready import main as ready

        return ready(control_socket)
    from kpf.commands.status import main as status

    return status(control_socket, given.json)


def _complete(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What argparse can read, and what is wrong with flags without a value: it would give up at the first of them."""
    kept, usage_errors = [], []
    for one, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
        if one.startswith("--") and one[2:] in _RUN_FLAGS and following.startswith("--"):
            usage_errors.append(f"{one}: needs a value")
        else:
            kept.append(one)
    return kept, usage_errors
