"""Counts the system calls of a child process by ptrace(2), and lets it run only when it is told to.

A process with an epoll loop is held where it would begin to wait. What happens to its sockets meanwhile is one batch of
events for it, so the same conversation always costs the same calls, however busy the machine is.
"""

import ctypes
import errno
import os
import platform
import select
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

# include/uapi/linux/ptrace.h
PTRACE_SYSCALL, PTRACE_SEIZE, PTRACE_INTERRUPT = 24, 0x4206, 0x4207
PTRACE_GET_SYSCALL_INFO, PTRACE_SYSCALL_INFO_ENTRY = 0x420E, 1
PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL = 1, 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY = struct.Struct("=B23x7Q")  # struct ptrace_syscall_info: op; nr and args of an entry
_INFO_BYTES = 88
# the same everywhere
PIDFD_GETFD = 438
# without the right, behind a filter of system calls, on Linux before 5.6, on one before 5.3
REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EIO}

# by name: the number of x86_64, and that of arm64 and all later ones (include/uapi/asm-generic/unistd.h)
NUMBERS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "connect": (42, 203),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "fcntl": (72, 25),
    "futex": (202, 98),
    "getpeername": (52, 205),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "ioctl": (16, 29),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "pipe2": (293, 59),
    "read": (0, 63),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "socket": (41, 198),
    "splice": (275, 76),
    "write": (1, 64),
    "writev": (20, 66),
}
_COLUMN = 0 if platform.machine() == "x86_64" else 1
_NAMES = {numbers[_COLUMN]: name for name, numbers in NUMBERS.items()} | {NUMBERS["epoll_pwait"][_COLUMN]: "epoll_wait"}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.syscall.restype = ctypes.c_long


class PtraceRefusedError(OSError):
    """The kernel, or the container, does not let this process trace its child."""


class TraceeEndedError(RuntimeError):
    """The process that is traced has ended."""


class Call(NamedTuple):
    """A system call at its entrance. One that `NUMBERS` does not know is named after its number."""

    name: str
    arguments: tuple[int, ...]


class Tracee:
    """A child of one thread with an epoll loop. `calls`: how often it has entered each system call.

    All use is from the thread that has made it. Raises `PtraceRefusedError`.
    """

    def __init__(self, pid: int) -> None:
        self.calls: Counter[str] = Counter()
        self._pid, self._signal = pid, 0
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self._epolls: dict[int, int] = {}
        self._pidfd = os.pidfd_open(pid)
        try:
            self._ptrace(PTRACE_SEIZE, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
            self._ptrace(PTRACE_INTERRUPT, 0, 0)
            self._wait()
            self._next()
            self.run(lambda: True)
        except OSError as error:
            self.close()
            if error.errno not in REFUSALS:
                raise
            raise PtraceRefusedError(error.errno, f"ptrace, pidfd_getfd: {error.strerror}") from error

    def run(self, until: Callable[[], bool], *, within_s: float = 10.0) -> None:
        """Let it work until it has nothing to do and the condition holds. Raises TimeoutError, `TraceeEndedError`."""
        deadline_s = time.monotonic() + within_s
        while not (self._is_idle() and until()):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"it has not come to rest, and is at {self._held_at}: {dict(self.calls)}")
            self._next()

    def wait(self, times: int) -> None:
        """Let it go on, and really wait in epoll_wait, so many times."""
        while times:
            self._next()
            times -= self._held_at.name == "epoll_wait"

    def close(self) -> None:
        """It stays held, until it is killed."""
        for descriptor in (*self._epolls.values(), self._pidfd):
            os.close(descriptor)

    def _next(self) -> None:
        """Resume it, and hold it at the entrance of its next system call."""
        while True:
            self._ptrace(PTRACE_SYSCALL, 0, self._signal)
            if not self._wait():
                continue
            self._ptrace(PTRACE_GET_SYSCALL_INFO, _INFO_BYTES, ctypes.addressof(self._info))
            kind, number, *arguments = _ENTRY.unpack_from(self._info)
            if kind == PTRACE_SYSCALL_INFO_ENTRY:
                self._held_at = Call(_NAMES.get(number, f"call {number}"), tuple(arguments))
                self.calls[self._held_at.name] += 1
                return

    def _wait(self) -> bool:
        """Wait until it stops. True if that is at a system call."""
        _, status = os.waitpid(self._pid, 0)
        if not os.WIFSTOPPED(status):
            raise TraceeEndedError(f"process {self._pid} ended with {os.waitstatus_to_exitcode(status)}")
        number = os.WSTOPSIG(status)
        is_own_signal = number != SYSCALL_STOP and not status >> 16
        self._signal = number if is_own_signal else 0
        return number == SYSCALL_STOP

    def _is_idle(self) -> bool:
        """It is held where it would wait."""
        if self._held_at.name != "epoll_wait":
            return False
        descriptor, timeout_ms = self._held_at.arguments[0], ctypes.c_int(self._held_at.arguments[3] & 0xFFFFFFFF).value
        if descriptor not in self._epolls:
            self._epolls[descriptor] = _checked(_libc.syscall(PIDFD_GETFD, self._pidfd, ctypes.c_int(descriptor), 0))
        return timeout_ms != 0 and not select.select([self._epolls[descriptor]], [], [], 0)[0]

    def _ptrace(self, request: int, address: int, data: int) -> None:
        _checked(_libc.ptrace(request, self._pid, ctypes.c_void_p(address), ctypes.c_void_p(data)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@contextmanager
def traced(pid: int, *, limit_s: float) -> Iterator[Tracee]:
    """Trace this child, which is for its maker to kill; do so if it takes too long, so that nobody waits for ever.

    Raises `PtraceRefusedError`.
    """
    watchdog = threading.Timer(limit_s, os.kill, (pid, signal.SIGKILL))
    watchdog.start()
    try:
        with closing(Tracee(pid)) as tracee:
            yield tracee
    finally:
        watchdog.cancel()
