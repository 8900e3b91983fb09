"""What processes take of the machine, by psutil. Imported when it is asked for the first time."""

import os
from typing import NamedTuple

import psutil

from kpf.observe.node_metrics import ProcessMetrics


class Usage(NamedTuple):
    """`cpu_s`: user and system time; `resident_bytes`: with what is shared."""

    cpu_s: float = 0.0
    resident_bytes: int = 0


def usage(pid: int) -> Usage:
    """Of a process; zeros if there is none, or none that we may look at."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return Usage(times.user + times.system, process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return Usage()


def own_metrics() -> ProcessMetrics:
    """Of the master, which asks."""
    process = psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        return ProcessMetrics(
            cpu_s=times.user + times.system,
            started_at_s=process.create_time(),
            resident_bytes=memory.rss,
            virtual_bytes=memory.vms,
            # since Linux 6.2; to list them takes milliseconds where there are thousands
            open_descriptors=os.stat("/proc/self/fd").st_size,
            max_descriptors=process.rlimit(psutil.RLIMIT_NOFILE)[0],
        )
