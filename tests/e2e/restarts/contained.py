"""A daemon in a pid namespace of its own, as its container would have it; network and files are shared."""

from typing import Any

import psutil

from kpf.lab.daemon import Daemon

# it dies with who waits for it, and so does everything in its namespace
_UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


class ContainedDaemon(Daemon):
    """Its master is process 1; pids are those of our namespace."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, prefix=_UNSHARE, **options)
        self._master: int | None = None

    @property
    def pid(self) -> int:
        """The master's, still that one's after its end. Raises ValueError if it has not been forked yet."""
        if self._master is None:
            (child,) = psutil.Process(super().pid).children()
            self._master = child.pid
        return self._master
