"""Whom workers become: a user that nobody else on the node is, so that the kernel knows their dials from all others."""

from pathlib import Path

UID_MAP = Path("/proc/self/uid_map")
NOBODY = 65534
# said at start, and in the status for as long as it is so
NOT_TOLD_APART = "workers have no user of their own (see workerUser): an endpoint that is a portal is not dialled"


def worker_user(asked: int) -> int:
    """`asked`, or nobody in a user namespace that has no such user."""
    return asked if any(asked in ids for ids in _ids()) else NOBODY


def _ids() -> list[range]:
    """Of the user namespace that we are in: user_namespaces(7)."""
    try:
        lines = UID_MAP.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        # a kernel without user namespaces
        return [range(1 << 32)]
    numbers = (map(int, line.split()) for line in lines)
    return [range(first, first + length) for first, _, length in numbers]
