"""Processes of the lab that are forked and not started: an interpreter of their own would cost each 0.1 s of CPU.

`FORKS` starts a server when it is first asked, `python -m kpf.lab.forks DESCRIPTOR`: an interpreter that does nothing
but fork, and keeps what is imported for one for all that come after it. They die with it, and it ends when the
connection to us, its descriptor, is closed. Each of them is in a session of its own.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from threading import Lock
from typing import NoReturn

from kpf.lab import namespace
from kpf.lab.interrupts import INTERRUPTS
from kpf.uapi.process import PR

Function = Callable[[Connection], object]

_libc = ctypes.CDLL(None, use_errno=True)


class Forked:
    """A process that was forked for us: what `subprocess.Popen` is, as far as anybody wants it.

    `news`: where the server tells of it; of its birth it has. Raises EOFError if the server has ended.
    """

    def __init__(self, news: Connection) -> None:
        self._news = news
        self._status: int | None = None
        self.pid: int = news.recv()
        self._pidfd = recv_handle(news)

    def poll(self) -> int | None:
        """The exit status, as `wait` has it; None while it runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal that ended it.

        Raises `subprocess.TimeoutExpired` after `timeout` seconds.
        """
        if self._status is None:
            if not self._news.poll(timeout):
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0.0)
            try:
                self._status = self._news.recv()
            except EOFError:
                # with the server
                self._status = -signal.SIGKILL
            self._news.close()
            os.close(self._pidfd)
        return self._status

    def kill(self) -> None:
        """SIGKILL by its pidfd, so never to another process; nothing if it has ended."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class Forks:
    """Whom we ask for processes; there is one server, from the first of them on until our end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Connection | None = None

    def fork(self, function: Function, connection: Connection, namespace_descriptor: int, imports: str) -> Forked:
        """A process that is in this network namespace, runs the function with this connection, and ends.

        The function must be importable by name. `imports`: another module that it needs.
        """
        request = (sys.path, (function.__module__, imports), pickle.dumps(function))
        news, theirs = Pipe()
        # who is interrupted in the middle of a request could never make another one
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            with theirs, self._lock:
                requests = self._requests or self._start()
                requests.send(request)
                for descriptor in (connection.fileno(), theirs.fileno(), namespace_descriptor):
                    send_handle(requests, descriptor, 0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return Forked(news)

    def _start(self) -> Connection:
        self._requests, theirs = Pipe()
        with theirs:
            argv = [sys.executable, "-m", "kpf.lab.forks", str(theirs.fileno())]
            server = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        atexit.register(server.wait)
        atexit.register(self._requests.close)
        return self._requests


FORKS = Forks()


class _Server:
    """The server's side: `_children` by pidfd, each with its pid and who is told of it."""

    def __init__(self, requests: Connection) -> None:
        self._requests = requests
        self._children: dict[int, tuple[int, Connection]] = {}
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)

    def serve(self) -> None:
        """Until nobody can ask any more."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._bury(descriptor)
                    continue
                try:
                    self._fork()
                except EOFError:
                    return

    def _fork(self) -> None:
        sys.path[:], imports, function = self._requests.recv()
        connection, news, namespace_descriptor = (recv_handle(self._requests) for _ in range(3))
        for name in imports:
            # the child says what is wrong
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        # no collection of a child looks at what all have
        gc.freeze()
        us = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(news)
            self._become(us, namespace_descriptor, function, connection)
        told, pidfd = Connection(news), os.pidfd_open(pid)
        for descriptor in (connection, namespace_descriptor):
            os.close(descriptor)
        self._children[pidfd] = pid, told
        self._poll.register(pidfd, select.POLLIN)
        # whoever has asked may have lost interest
        with contextlib.suppress(BrokenPipeError):
            told.send(pid)
            send_handle(told, pidfd, 0)

    def _become(self, server: int, namespace_descriptor: int, function: bytes, connection: int) -> NoReturn:
        """What was asked for, in the child: nothing of the server's is left, and nothing returns to it."""
        status = 1
        try:
            die_with(server)
            self._requests.close()
            for pidfd, (_, told) in self._children.items():
                os.close(pidfd)
                told.close()
            os.setsid()
            if not os.path.samestat(os.fstat(namespace_descriptor), os.stat("/proc/self/ns/net")):
                namespace.setns(namespace_descriptor)
            os.close(namespace_descriptor)
            with Connection(connection) as ours:
                pickle.loads(function)(ours)
            sys.stdout.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _bury(self, pidfd: int) -> None:
        pid, told = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        with told, contextlib.suppress(BrokenPipeError):
            told.send(os.waitstatus_to_exitcode(status))


def die_with(parent: int) -> None:
    """From now on the process is killed when its parent ends, whose pid that is; it ends at once if that has ended."""
    _libc.prctl(PR.SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def raise_descriptor_limit() -> None:
    """As far as it goes without asking: the usual soft limit is too low for thousands of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Fork what is asked for over the connection, descriptor argv[1], until it is closed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    raise_descriptor_limit()
    with Connection(int(sys.argv[1])) as requests:
        _Server(requests).serve()


if __name__ == "__main__":
    main()
