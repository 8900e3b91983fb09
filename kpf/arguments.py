"""What may be typed: the commands, their flags, and what `--help` and the manual say of them.

The manual page and the shells' completion are made of the same (`python -m manual`).
"""

import argparse
from collections.abc import Callable, Mapping
from textwrap import fill
from typing import NamedTuple, NoReturn

from kpf import __version__

ABOUT = "A node-local Service proxy for Kubernetes in user space."

RUN_FLAGS: Mapping[str, tuple[str, str]] = {
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
_CONTROL_SOCKET = {"control-socket": RUN_FLAGS["control-socket"]}

_WRONG_USAGE = "wrong usage, or a bad configuration"


def _add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, tuple[str, str]] = RUN_FLAGS) -> None:
    for flag, (metavar, text) in flags.items():
        parser.add_argument(f"--{flag}", dest=flag, metavar=metavar, help=text)


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_flags(parser)
    parser.add_argument("--config-only", action="store_true", help="what a reload refuses: leave manifests alone")
    parser.add_argument("--strict", action="store_true", help="a warning counts as a problem")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "service", metavar="SERVICE", nargs="?", default="", help="of this one: [NAMESPACE/]NAME[:PORTNAME]"
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="", help="of the Services in it")
    parser.add_argument("--unhealthy", action="store_true", help="of endpoints that fail, and Services without any")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "-o", dest="output", metavar="FORM", choices=("wide", "json", "yaml"), default="", help="wide, json or yaml"
    )
    form.add_argument("--json", dest="output", action="store_const", const="json", help="as -o json")
    form.add_argument("--watch", action="store_true", help="anew every 2 s, with rates, the busiest Service first")
    form.add_argument("--ready", action="store_true", help="exit status 0 if it serves, else 1, and why")
    _add_flags(parser, _CONTROL_SOCKET)


def _add_connections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="WHAT",
        nargs="?",
        default="",
        help="of a Service, [NAMESPACE/]NAME[:PORTNAME], or of an endpoint or client, ADDRESS[:PORT]",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    _add_flags(parser, _CONTROL_SOCKET)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", help="ADDRESS[:PORT][/udp], :NODEPORT[/udp] or NAMESPACE/NAME[:PORTNAME]"
    )
    parser.add_argument("--from", dest="client", metavar="CLIENT", help="for this client's address alone")
    parser.add_argument("--json", action="store_true", help="as JSON")
    _add_flags(parser, _CONTROL_SOCKET)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", action="store_true", help="leave it running to play with, for an hour at most")


def _add_nothing(_: argparse.ArgumentParser) -> None:
    pass


class Command(NamedTuple):
    """What `--help` and the manual say of a command: in a few words, in some lines, and of its exit statuses.

    `add_arguments`: gives its parser what may be typed behind it.
    """

    summary: str
    description: str
    exit_statuses: Mapping[int, str]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _add_nothing


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "the daemon, in the foreground",
        "Serve until a signal ends it. SIGHUP reads configuration and manifests anew. SIGTERM lets open connections "
        "finish, for --drain-timeout at most; a second one, or SIGINT, cuts them. SIGUSR2 leaves rules and workers for "
        "the next kpf, which takes over from one that serves, too.",
        {0: "stopped, or another kpf has taken over", 1: "anything else", 2: _WRONG_USAGE},
        _add_flags,
    ),
    "check": Command(
        "validate configuration and manifests; print every problem",
        "Print every problem, with file, object and field; then warnings of what is allowed and probably a mistake, "
        "as of a field that there is not, with the nearest right word; and what was read. No server is asked, and "
        "nothing is changed.",
        {0: "no problem", 2: "a problem, or wrong usage; with --strict: a warning, too"},
        _add_check,
    ),
    "render": Command(
        "print the nftables ruleset that a daemon would make",
        "Print one file for `nft -f`, with the plan as comments. Changes nothing, and needs no root. Problems go to "
        "standard error.",
        {0: "no problem", 1: "the source does not tell what it has", 2: f"a problem, {_WRONG_USAGE}"},
        _add_flags,
    ),
    "status": Command(
        "the state of the running daemon",
        "Ask the running daemon, over its control socket, for its workers, Services, endpoints, and problems. A row an "
        "endpoint, with its Service in each. A terminal gets what fits; a pipe, and -o wide, lines as long as they "
        "are. The socket is root's.",
        {
            0: "told; with --ready: it serves",
            1: "no daemon answers, or it serves no such Service; with --ready: or it does not serve",
            2: "wrong usage",
        },
        _add_status,
    ),
    "connections": Command(
        "the open connections that are proxied",
        "Ask the running daemon, over its control socket, and by it the workers: client, portal, endpoint, age, bytes "
        "and worker of each, 20,000 at most, the oldest first. What the kernel forwards is not among them: "
        "`conntrack -L` has that.",
        {0: "told", 1: "no daemon answers, or it serves no such Service", 2: "wrong usage"},
        _add_connections,
    ),
    "explain": Command(
        "what happens to a packet, from each origin, and why",
        "Ask the running daemon, over its control socket: what captures a packet, which rule refuses or drops it, "
        "which endpoints are used, and why the others are not.",
        {0: "told", 1: "no daemon answers", 2: "kpf knows no such thing, or wrong usage"},
        _add_explain,
    ),
    "demo": Command(
        "a complete show in a network namespace of its own",
        "Backends, a real kpf, real nftables and clients. Prints what it did and found, and ends by itself; nothing "
        "outside is changed, and nothing stays.",
        {0: "all that it claims holds", 1: "a claim does not hold, or the kernel refuses namespaces", 2: "wrong usage"},
        _add_demo,
    ),
    "cleanup": Command(
        "remove everything that kpf ever made in the kernel",
        "Take away the nftables table and the addresses on lo, also after a crash; not beside a kpf that runs, which "
        "would put them back.",
        {0: "all is gone, or there was nothing", 1: "a kpf runs, or the kernel refuses", 2: "wrong usage"},
    ),
}


class UsageError(Exception):
    """The command line as a whole cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


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
    for name, command in COMMANDS.items():
        command.add_arguments(commands[name])
    return parser, commands
