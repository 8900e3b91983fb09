"""The `kpf` command: what was typed, and which of `kpf.commands` does it.

Every mistake of the command line and of the configuration is listed, one a line, before anything is done. The manual
page and the shells' completion are made of the same parser (`python -m manual`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from textwrap import fill
from typing import NamedTuple, NoReturn

from kpf import __version__
from kpf.commands import refuse
from kpf.suggestions import did_you_mean

ABOUT = "A node-local Service proxy for Kubernetes in user space."

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
_CONTROL_SOCKET = {"control-socket": _RUN_FLAGS["control-socket"]}

_WRONG_USAGE = "wrong usage, or a bad configuration"


class Command(NamedTuple):
    """What `--help` and the manual say of a command: in a few words, in some lines, and of its exit statuses."""

    summary: str
    description: str
    exit_statuses: Mapping[int, str]


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "the daemon, in the foreground",
        "Serve until a signal ends it. SIGHUP reads configuration and manifests anew. SIGTERM lets open connections "
        "finish, for --drain-timeout at most; a second one, or SIGINT, cuts them. SIGUSR2 leaves rules and workers for "
        "the next kpf, which takes over from one that serves, too.",
        {0: "stopped, or another kpf has taken over", 1: "anything else", 2: _WRONG_USAGE},
    ),
    "check": Command(
        "validate configuration and manifests; print every problem",
        "Print every problem, with file, object and field; then warnings of what is allowed and probably a mistake, "
        "as of a field that there is not, with the nearest right word; and what was read. No server is asked, and "
        "nothing is changed.",
        {0: "no problem", 2: "a problem; with --strict: or a warning"},
    ),
    "render": Command(
        "print the nftables ruleset that a daemon would make",
        "Print one file for `nft -f`, with the plan as comments. Changes nothing, and needs no root. Problems go to "
        "standard error.",
        {0: "no problem", 1: "the source does not tell what it has", 2: f"a problem, {_WRONG_USAGE}"},
    ),
    "status": Command(
        "the state of the running daemon",
        "Ask the running daemon, over its control socket, for its workers, Services, endpoints and connections. The "
        "socket is root's.",
        {
            0: "told; with --ready: it serves",
            1: "no daemon answers; with --ready: or it does not serve",
            2: "wrong usage",
        },
    ),
    "demo": Command(
        "a complete show in a network namespace of its own",
        "Backends, a real kpf, real nftables and clients. Prints what it did and found, and ends by itself; nothing "
        "outside is changed, and nothing stays.",
        {0: "all that it claims holds", 1: "a claim does not hold, or the kernel refuses namespaces", 2: "wrong usage"},
    ),
    "cleanup": Command(
        "remove everything that kpf ever made in the kernel",
        "Take away the nftables table and the addresses on lo, also after a crash; not beside a kpf that runs, which "
        "would put them back.",
        {0: "all is gone, or there was nothing", 1: "a kpf runs, or the kernel refuses", 2: "wrong usage"},
    ),
}


class _UsageError(Exception):
    """The command line as a whole cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message, f"see {self.prog} --help")


def parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and of each command's flags, by the command's name."""
    parser = _Parser(prog="kpf", description=ABOUT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kpf {__version__}")
    adding = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=_Parser)
    commands = {
        name: adding.add_parser(
            name,
            help=command.summary,
            description=fill(command.description, 78),
            epilog="\n".join(
                ["exit status:", *(f"  {status}  {text}" for status, text in command.exit_statuses.items())]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, command in COMMANDS.items()
    }
    for name in ("run", "check", "render"):
        _add_flags(commands[name], _RUN_FLAGS)
    check = commands["check"]
    check.add_argument("--config-only", action="store_true", help="what a reload refuses: leave manifests alone")
    check.add_argument("--strict", action="store_true", help="a warning counts as a problem")
    form = commands["status"].add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--ready", action="store_true", help="exit status 0 if it serves, else 1, and why")
    _add_flags(commands["status"], _CONTROL_SOCKET)
    commands["demo"].add_argument(
        "--keep", action="store_true", help="leave it running to play with, for an hour at most"
    )
    return parser, commands


def _add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, tuple[str, str]]) -> None:
    for flag, (metavar, text) in flags.items():
        parser.add_argument(f"--{flag}", dest=flag, metavar=metavar, help=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, commands = parsers()
    try:
        _check_command(arguments)
        complete, usage_errors = _complete(arguments)
        given, rest = parser.parse_known_args(complete)
    except _UsageError as error:
        return refuse(error.args)
    usage_errors += _unknown(rest, commands.get(given.command, parser))
    if given.command is None:
        parser.print_help(sys.stderr)
        return refuse(usage_errors)
    flags = {flag: value for flag, value in vars(given).items() if flag in _RUN_FLAGS and value is not None}
    return _do(given, flags, usage_errors)


def _check_command(arguments: Sequence[str]) -> None:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        told = f"{arguments[0]!r} is no command{did_you_mean(arguments[0], COMMANDS)}"
        raise _UsageError(told, "see kpf --help")


def _unknown(rest: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[str]:
    """What the parser has not understood, with the flag that was probably meant."""
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    for one in rest:
        if one.startswith("-"):
            yield f"{one}: unknown flag{did_you_mean(one.partition('=')[0], known)}"
        else:
            yield f"{one}: not expected here"


def _do(given: argparse.Namespace, flags: Mapping[str, str], usage_errors: Sequence[str]) -> int:
    """The three that read a configuration say what is wrong with it together with what is wrong here."""
    match given.command:
        case "run":
            from kpf.commands.run import main as run

            return run(flags, usage_errors)
        case "check":
            from kpf.commands.check import main as check

            return check(flags, usage_errors, config_only=given.config_only, is_strict=given.strict)
        case "render":
            from kpf.commands.render import main as render

            return render(flags, usage_errors)
    if usage_errors:
        return refuse(usage_errors)
    match given.command:
        case "demo":
            from kpf.demo import main as demo

            return demo(is_kept=given.keep)
        case "cleanup":
            from kpf.commands.cleanup import main as cleanup

            return cleanup()
    assert given.command == "status", given.command

    from kpf.places import DEFAULT_CONTROL_SOCKET

    control_socket = flags.get("control-socket", DEFAULT_CONTROL_SOCKET)
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
