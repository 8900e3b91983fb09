"""The commands of `kpf`, one file each (`demo`: `kpf.demo`). Each is imported when it runs, with what it needs."""

import sys
from collections.abc import Iterable

# exit statuses: wrong usage or configuration is USAGE, anything else that is not fine FAILED
OK, FAILED, USAGE = 0, 1, 2


def no_answer(control_socket: str, error: OSError) -> str:
    """Why the daemon at this control socket does not answer, and what helps."""
    if isinstance(error, PermissionError):
        return f"no permission to ask the daemon on {control_socket}: run it as root, whose socket it is"
    return f"no daemon answers on {control_socket}: {error.strerror or error}"


def refuse(usage_errors: Iterable[object]) -> int:
    """Say every mistake of the command line and of the configuration, one a line; the exit status."""
    for one in usage_errors:
        print(f"kpf: {one}", file=sys.stderr)
    return USAGE
