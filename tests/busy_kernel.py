"""`python -m tests.busy_kernel FILE ARGUMENTS`: the `kpf` command, to which the kernel is busy while FILE is locked.

As behind another program's transaction: neither send(2) of one of ours nor close(2) of a socket of NETLINK.NETFILTER
returns. Here it is flock(2) that does not.
kpf is less patient than it really is.
"""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpf import cli, waiting
from kpf.master import ending
from kpf.netlink.socket import frames
from kpf.observe import vitals
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Until it is left, or whoever entered it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class WaitingSocket(socket.socket):
    """One whose transactions, and whose end, wait for the file."""

    path: Path

    # the socket's takes any buffer, and kpf sends bytes
    def send(self, data: bytes, *flags: int) -> int:  # type: ignore[override]
        if self._is_netfilter() and next(frames(data)).kind == NFNL_MSG_BATCH.BEGIN:
            with busy(self.path):
                pass
        return super().send(data, *flags)

    def close(self) -> None:
        if self._is_netfilter():
            with busy(self.path):
                pass
        super().close()

    def _is_netfilter(self) -> bool:
        return self.fileno() >= 0 and self.family == socket.AF_NETLINK and self.proto == NETLINK.NETFILTER


PATIENCE_S, TRANSACTION_S, SYNC_LIMIT_S = 0.5, 1.5, 0.5

if __name__ == "__main__":
    vitals.SYNC_LIMIT_S = SYNC_LIMIT_S
    waiting.PATIENCE_S, ending.TRANSACTION_S = PATIENCE_S, TRANSACTION_S
    WaitingSocket.path = Path(sys.argv.pop(1))
    # a class is no variable to mypy; whoever asks for a socket from now on gets this one
    socket.socket = WaitingSocket  # type: ignore[misc]
    sys.exit(cli.main())
