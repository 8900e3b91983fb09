"""A worker that moves only when it is told to, with its clients and its backends, driven from one thread.

What it costs is counted: system calls, or, if it is made a `ProfiledNode`, function calls.
"""

import mmap
import os
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kpf.lab import namespace
from kpf.net import channel
from kpf.net.messages import Configure, Ready
from kpf.shm.region import Region
from tests.syscalls import PtraceRefusedError, Tracee, traced
from tests.worker_driver import Node, Target, WorkerProcess

REQUEST, ANSWER = b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LIMIT_S = 60.0
# the worker stays who we are: to trace another user's process would take CAP_SYS_PTRACE
OURSELVES = 0
# in the vDSO, and a system call only where the machine's clock cannot be read from there
NOT_COUNTED = "clock_gettime"


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def close_all(socks: list[socket.socket]) -> None:
    for one in socks:
        one.close()


class Stage:
    """A worker that moves only inside `run` and `wait`, its clients, its backends.

    `counts`: what the worker has cost so far. `at`: where it accepts.
    """

    def __init__(
        self, node: Node, tracee: Tracee, counts: Callable[[], Counter[str]], backends: socket.socket, at: Target
    ) -> None:
        self._node, self._counts, self._backends, self._at = node, counts, backends, at
        self._open: list[socket.socket] = []
        self.run, self.wait = tracee.run, tracee.wait

    def begin(self, number: int) -> list[socket.socket]:
        """So many clients connect and send a request, and the worker sees them all at once."""
        clients = [socket.create_connection(self._at, 5.0) for _ in range(number)]
        self._open += clients
        for client in clients:
            client.sendall(REQUEST)
        return clients

    def served(self, clients: list[socket.socket]) -> list[socket.socket]:
        """The backends' connections, once each has got its request."""
        accepted: list[socket.socket] = []

        def all_are_dialled() -> bool:
            while is_readable(self._backends):
                accepted.append(self._backends.accept()[0])
            return len(accepted) == len(clients)

        self.run(all_are_dialled)
        self._open += accepted
        self.passed_on(accepted, REQUEST)
        return accepted

    def passed_on(self, to: list[socket.socket], data: bytes) -> None:
        """Each gets just these bytes; none: the end of the stream."""
        self.run(lambda: all(map(is_readable, to)))
        for one in to:
            assert one.recv(1024) == data

    def end(self) -> None:
        """All is closed, and no session is left."""
        self.close()
        self.run(self._node.is_quiet)

    def close(self) -> None:
        close_all(self._open)
        self._open.clear()

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """What the worker does in between is in the counter afterwards."""
        before, cost = self._counts(), Counter[str]()
        yield cost
        cost.update(self._counts() - before)
        del cost[NOT_COUNTED]


@contextmanager
def own_namespace() -> Iterator[None]:
    """This thread, and the processes that it starts, are in a fresh network namespace for a while."""
    descriptor = namespace.create()
    try:
        with namespace.inside(descriptor):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def staged(node: Node, counts: Callable[[Tracee], Counter[str]]) -> Iterator[Stage]:
    """Skips the test if this process may not trace its children."""
    with closing(node), socket.create_server(("127.0.0.1", 0), backlog=64) as backends:
        _, at = node.frontend([backends.getsockname()])
        try:
            with (
                traced(node.workers[0].process.pid, limit_s=LIMIT_S) as tracee,
                closing(Stage(node, tracee, lambda: counts(tracee), backends, at)) as made,
            ):
                yield made
        except PtraceRefusedError as error:
            pytest.skip(f"needs to trace a child process: {error}")


class ProfiledWorker(WorkerProcess):
    """`counts`: how many functions it has called, of Python and of C."""

    def __init__(self, configure: Configure, region: Region) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        counts = os.memfd_create("counts")
        os.ftruncate(counts, mmap.PAGESIZE)
        self.counts = memoryview(mmap.mmap(counts, mmap.PAGESIZE)).cast("Q")
        command = [sys.executable, "-m", "tests.profiled_worker", str(theirs.fileno()), str(counts)]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno(), counts], cwd=Path(__file__).parent.parent
            )
        os.close(counts)
        channel.send(self.channel, configure, [region.descriptor])
        assert isinstance(channel.receive(self.channel)[0], Ready)
        self.acknowledged(configure)


class ProfiledNode(Node):
    """A node of one worker that counts its function calls."""

    def spawn(self, slot: int) -> ProfiledWorker:
        configure = Configure(self.next(), slot, self.sharing_pipes, self.uid, self.uid, self.orphan_timeout_s)
        self._worker = ProfiledWorker(configure, self.region)
        return self._worker

    def function_calls(self) -> Counter[str]:
        return Counter({"of Python": self._worker.counts[0], "of C": self._worker.counts[1]})
