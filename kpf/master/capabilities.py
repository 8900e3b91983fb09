"""What this process may do, and for which lack of it the kernel may have refused something."""

from pathlib import Path

from kpf.uapi.process import CAP

STATUS = Path("/proc/self/status")
# of the daemon: without the first nothing works, without the second a stuck worker cannot be ended
NEEDED = (CAP.NET_ADMIN, CAP.KILL)


def has(capability: CAP) -> bool:
    """Whether it is among the effective ones, in the user namespace that we are in."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective >> capability & 1)


def refused(error: PermissionError) -> str:
    """What the daemon was refused, and why, as far as capabilities go."""
    lacks = [f"CAP_{one.name}" for one in NEEDED if not has(one)]
    if lacks:
        return f"{error}; it lacks {' and '.join(lacks)}: run it as root, or with these"
    if error.filename:
        return str(error)
    # root of a user namespace that has not made the network namespace
    return f"{error}; it needs CAP_NET_ADMIN in the user namespace that this network namespace belongs to"
