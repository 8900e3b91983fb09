"""Locks that die with their holder: one byte of the shared memory's descriptor for each frontend.

POSIX record locks belong to a process and an inode: the kernel frees them when the holder dies, and also when the
process closes *any* descriptor of that inode. So a process closes neither the one that it has nor `mmap`'s duplicate.
A process holds one lock at a time and does nothing that could block while it does.
"""

import fcntl
import os

from kpf.uapi.process import FLOCK


class LockBusyError(Exception):
    """Somebody else holds the lock at this moment; nothing has changed."""


def try_acquire(descriptor: int, slot: int) -> None:
    """Take the frontend's lock now. Raises `LockBusyError`."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
    except (BlockingIOError, PermissionError) as error:
        raise LockBusyError(f"the lock of frontend slot {slot} is taken") from error


def release(descriptor: int, slot: int) -> None:
    """Give the frontend's lock back; nothing happens if it is not held. Never blocks."""
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, slot)


def holders(descriptor: int, *, slots: int) -> frozenset[int]:
    """The processes that hold a lock of the first `slots` ones, by process id. Those that wait for one hold none.

    A look at a moving target: holders of microseconds may be missed, one that is stuck is not.
    """
    found: set[int] = set()
    ranges = [(0, slots)]
    # a process holds one lock at a time, so there are few; the bound is for a machine that is very busy
    for _ in range(1000):
        if not ranges:
            break
        start, end = ranges.pop()
        if start >= end:
            continue
        query = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, at, length, pid = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, query))
        if kind == fcntl.F_UNLCK:
            continue
        found.add(pid)
        ranges += [(start, at), (at + max(length, 1), end)]
    return frozenset(found)
