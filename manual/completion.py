"""Completion of commands, flags and their values in shells, by shtab."""

from collections.abc import Mapping

import shtab

from kpf.arguments import COMMANDS, parsers
from manual.fields import groups

# where each shell looks, below a prefix such as /usr or a virtual environment
PLACES = {
    "bash": "share/bash-completion/completions/kpf",
    "zsh": "share/zsh/site-functions/_kpf",
    "fish": "share/fish/vendor_completions.d/kpf.fish",
}
_PATHS = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}


def files() -> Mapping[str, str]:
    """What is in each file, by its path from the root of the project."""
    return {place: _complete(shell) for shell, place in PLACES.items()}


def _complete(shell: str) -> str:
    parser, commands = parsers()
    for name, command in commands.items():
        # shtab would take the first line of it
        command.description = COMMANDS[name].summary
    values = {field.flag: field.values for _, fields in groups() for field in fields}
    for action in (action for command in commands.values() for action in command._actions):
        if action.metavar in _PATHS:
            # where shtab looks for it
            action.complete = _PATHS[str(action.metavar)]  # type: ignore[attr-defined]
        for flag in action.option_strings:
            if values.get(flag):
                action.choices = values[flag]
    lines = shtab.complete(parser, shell).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"
