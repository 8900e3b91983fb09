"""One daemon per network namespace: who holds the abstract socket `kpf` is it.

An orphaned worker of an earlier daemon connects to it to learn when this one has taken over: its connection is
accepted, and closed, only once the first sync is complete.
"""

import asyncio
import errno
import socket
import struct

ADDRESS = "\0kpf"

# out of descriptors or memory: those who ask wait in the queue
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
RETRY_S = 1.0


class AlreadyRunningError(RuntimeError):
    """Another daemon serves this network namespace."""


class DaemonLock:
    """Held from its making until `release`. Raises `AlreadyRunningError`, which names the other's pid."""

    def __init__(self) -> None:
        self._again: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(ADDRESS)
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise AlreadyRunningError(f"kpf already runs in this network namespace{_holder()}") from None
        self._socket.listen()

    def announce_takeover(self) -> None:
        """Dismiss the orphans of an earlier daemon, those who ask now and later."""
        asyncio.get_running_loop().add_reader(self._socket, self._dismiss)

    def _dismiss(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            # it would be readable, and fail, without a pause
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._again = loop.call_later(RETRY_S, self.announce_takeover)
            return
        connection.close()

    def release(self) -> None:
        if self._again:
            self._again.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


def _holder() -> str:
    """ ", pid N" of the process that listens on the lock; empty if it went away meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(ADDRESS)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return ""
    pid, _, _ = struct.unpack("3i", credentials)
    return f", pid {pid}"
