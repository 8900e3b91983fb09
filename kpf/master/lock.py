"""One daemon per network namespace: who holds one of a few abstract sockets is it.

An orphaned worker of an earlier daemon connects to it to learn when this one has taken over: its connection is
accepted, and closed, only once the first sync is complete. A stranger may have bound some of these names before (any
local user can), so each daemon takes the first free one, and then looks whether another daemon holds any of the others:
of two that start at once, at least one sees the other.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time

from kpf.net import credentials
from kpf.net.credentials import Peer, peer_of

log = logging.getLogger("kpf")

TAKEN = {errno.EADDRINUSE}
# between bind() and listen() of another daemon
PATIENCE_S = 0.5
# orphans, and strangers who try to be in their way; the kernel's own bound is net.core.somaxconn
BACKLOG = 4096

# out of descriptors or memory: those who ask wait in the queue
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
RETRY_S = 1.0


class AlreadyRunningError(RuntimeError):
    """Another daemon serves this network namespace. `pid`: its process, 0 in a pid namespace that we do not see."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class DaemonLock:
    """Held from its making until `release`. Raises `AlreadyRunningError`, which names the other's pid, or OSError.

    `name`: which of the names; None if strangers have them all. Then nothing keeps another daemon out, and orphans
    leave only at their time-out: better than no daemon.
    """

    def __init__(self) -> None:
        self._again: asyncio.TimerHandle | None = None
        self._socket, self.name, strangers = _claim()
        if strangers:
            log.warning("%s", _about(strangers, self.name))

    @classmethod
    def handed_over(cls, held: socket.socket | None) -> "DaemonLock":
        """What a predecessor has held, which lets go of it; None if strangers had all names."""
        lock = cls.__new__(cls)
        lock._again, lock._socket, lock.name = None, held, None
        if held is not None:
            lock.name = held.getsockname().decode()
        return lock

    def assume(self) -> None:
        """It tells of us from now on: SO_PEERCRED is of whoever has called listen() last (unix_listen)."""
        if self._socket is not None:
            self._socket.listen(BACKLOG)

    @property
    def held(self) -> socket.socket | None:
        """For a successor; None if strangers have all names."""
        return self._socket

    def announce_takeover(self) -> None:
        """Dismiss the orphans of an earlier daemon, those who ask now and later."""
        if self._socket:
            asyncio.get_running_loop().add_reader(self._socket, self._dismiss)

    def _dismiss(self) -> None:
        assert self._socket is not None
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
        """Inside the event loop. The name is free at once for another daemon."""
        if self._again:
            self._again.cancel()
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()


Strangers = dict[str, Peer | None]


def _claim() -> tuple[socket.socket | None, str | None, Strangers]:
    """A listening socket, its name, and who has those before it. Raises `AlreadyRunningError`, OSError."""
    strangers: Strangers = {}
    for name in credentials.NAMES:
        mine = _bound(name, strangers)
        if mine is not None:
            try:
                for other in credentials.NAMES:
                    if other != name:
                        _check(other, _holder(other))
            except BaseException:
                mine.close()
                raise
            return mine, name, strangers
    return None, None, strangers


def _bound(name: str, strangers: Strangers) -> socket.socket | None:
    """Listening there, or None if a stranger does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(name)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno not in TAKEN:
                raise
        else:
            return sock
        holder = _holder(name)
        _check(name, holder)
        if holder is not None or time.monotonic() > deadline_s:
            strangers[name] = holder
            return None
        time.sleep(PATIENCE_S / 10)


def _check(name: str, holder: Peer | None) -> None:
    if holder is not None and holder.is_trusted(os.geteuid()):
        where = f"pid {holder.pid} ({_shown(name)})"
        raise AlreadyRunningError(f"kpf already runs in this network namespace, {where}", holder.pid)


def _holder(name: str) -> Peer | None:
    """Who listens there; None if nobody does, or does not let us in."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe,
        contextlib.suppress(OSError),
    ):
        probe.connect(name)
        return peer_of(probe)
    return None


def _about(strangers: Strangers, name: str | None) -> str:
    held = ", ".join(
        f"{_shown(one)} by pid {peer.pid} of uid {peer.uid}" if peer else f"{_shown(one)} by one that does not answer"
        for one, peer in strangers.items()
    )
    if name is not None:
        return f"strangers hold sockets that are meant for kpf: {held}; {_shown(name)} is used instead"
    return (
        f"strangers hold all sockets that are meant for kpf: {held}; nothing keeps a second kpf out, "
        "and workers of an earlier one leave only after drainTimeout"
    )


def _shown(name: str) -> str:
    return name.replace("\0", "@")
