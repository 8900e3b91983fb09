"""CPU time of processes, however many threads they have."""

import contextlib
import errno
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds: the total exact to the nanosecond, its two parts to the clock tick of 10 ms."""

    total_s: float
    user_s: float
    system_s: float

    def __sub__(self, before: Self) -> "Cpu":
        return Cpu(self.total_s - before.total_s, self.user_s - before.user_s, self.system_s - before.system_s)


class Meter:
    """What these processes have used since they began, together; of one that has ended, what was last read.

    Children are not theirs: name them too. Raises `psutil.NoSuchProcess` if one is not there to begin with.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._last = {process: _read(process) for process in map(psutil.Process, pids)}

    def read(self) -> Cpu:
        for process in self._last:
            # the process may end between any two of these
            with contextlib.suppress(psutil.NoSuchProcess):
                self._last[process] = _read(process)
        readings = self._last.values()
        return Cpu(
            sum(one.total_s for one in readings),
            sum(one.user_s for one in readings),
            sum(one.system_s for one in readings),
        )


def _read(process: psutil.Process) -> Cpu:
    times = process.cpu_times()
    try:
        total_ns = time.clock_gettime_ns(_clock(process.pid))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise psutil.NoSuchProcess(process.pid) from None
    if not process.is_running():
        raise psutil.NoSuchProcess(process.pid)
    return Cpu(total_ns / 1e9, times.user, times.system)


def _clock(pid: int) -> int:
    """The clock of a process's CPU time over all its threads, as clock_getcpuclockid(3) makes it."""
    cpuclock_sched = 2
    return ~pid << 3 | cpuclock_sched
