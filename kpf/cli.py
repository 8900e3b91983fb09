"""The `kpf` command: what was typed, and which of `kpf.commands` does it.

Every mistake of the command line and of the configuration is listed, one a line, before anything is done.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from kpf.arguments import COMMANDS, RUN_FLAGS, UsageError, parsers
from kpf.commands import refuse
from kpf.suggestions import did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, commands = parsers()
    try:
        _check_command(arguments)
        complete, usage_errors = _complete(arguments)
        given, rest = parser.parse_known_args(complete)
    except UsageError as error:
        return refuse(error.args)
    usage_errors += _unknown(rest, commands.get(given.command, parser))
    if given.command is None:
        parser.print_help(sys.stderr)
        return refuse(usage_errors)
    flags = {flag: value for flag, value in vars(given).items() if flag in RUN_FLAGS and value is not None}
    return _do(given, flags, usage_errors)


def _check_command(arguments: Sequence[str]) -> None:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        told = f"{arguments[0]!r} is no command{did_you_mean(arguments[0], COMMANDS)}"
        raise UsageError(told, "see kpf --help")


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
    from kpf.places import DEFAULT_CONTROL_SOCKET

    control_socket = flags.get("control-socket", DEFAULT_CONTROL_SOCKET)
    if given.command == "explain":
        from kpf.commands.explain import main as explain

        return explain(control_socket, given.what, given.client, given.json)
    if given.command == "connections":
        from kpf.commands.connections import main as connections

        return connections(control_socket, given.what, given.json)
    assert given.command == "status", given.command
    if given.ready:
        from kpf.commands.ready import main as ready

        return ready(control_socket)
    from kpf.commands.status import main as status

    asked = given.service, given.namespace, given.output
    return status(control_socket, *asked, unhealthy=given.unhealthy, watch=given.watch)


def _complete(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What argparse can read, and what is wrong with flags without a value: it would give up at the first of them."""
    kept, usage_errors = [], []
    for one, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
        if one.startswith("--") and one[2:] in RUN_FLAGS and following.startswith("--"):
            usage_errors.append(f"{one}: needs a value")
        else:
            kept.append(one)
    return kept, usage_errors
