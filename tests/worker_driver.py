"""Drives real workers as the master does: shared memory, listening sockets, channels. And servers to dial."""

import hashlib
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kpf.net import channel, sockets
from kpf.net.handover import HANDOVER, MEMORY
from kpf.net.messages import Close, Configure, Done, Drain, Hold, Listen, Message, Ready, Reset
from kpf.shm import layout
from kpf.shm.balancer import Choice
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import Region, Words
from kpf.worker.clock import Clock
from kpf.worker.half import Half
from kpf.worker.pipes import PipePool
from kpf.worker.relay import Relay
from kpf.worker.sessions import Sessions
from kpf.worker.states import DEAD
from kpf.worker.sweeper import Sweeper

RESET = struct.pack("ii", 1, 0)

# thousands of connections at once have both of their far ends in the test's process
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
Target = tuple[str, int]


def packed(target: Target) -> Address:
    host, port = target[:2]
    if ":" in host:
        return Address(socket.inet_pton(socket.AF_INET6, host), port)
    return Address(b"\0" * 10 + b"\xff\xff" + socket.inet_aton(host), port)


def eventually(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never became true"
        time.sleep(0.005)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def echo(connection: socket.socket) -> None:
    """For `Server`."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def ask(sock: socket.socket) -> bool:
    """Whether who echoes is at the other end."""
    sock.sendall(b"x")
    return receive_exactly(sock, 1) == b"x"


class WorkerProcess:
    """A worker and our end of its channel."""

    def __init__(
        self,
        configure: Configure,
        region: Region,
        *,
        descriptors: int | None = None,
        handover: socket.socket | None = None,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = ours
        ours.settimeout(15)

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kpf.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                preexec_fn=limit,
                cwd=Path(__file__).parent.parent,
            )
        if handover is not None:
            configure = replace(configure, descriptors=(MEMORY, HANDOVER))
        channel.send(ours, configure, [region.descriptor, *([handover.fileno()] if handover else [])])
        ready, _ = channel.receive(ours)
        assert isinstance(ready, Ready)
        assert ready.pid == self.process.pid
        self.privileges = ready.privileges
        assert channel.receive(ours) == (Done(configure.number), [])

    def tell(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        channel.send(self.channel, message, descriptors)
        self.acknowledged(message)

    def acknowledged(self, message: Message) -> None:
        answer, _ = channel.receive(self.channel)
        assert isinstance(answer, Done)
        assert isinstance(message, Configure | Listen | Close | Reset | Hold | Drain)
        assert answer.number == message.number

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_ticks(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def end(self) -> int:
        self.process.kill()
        status = self.process.wait()
        self.channel.close()
        return status


class Node:
    """What a master has: shared memory, frontends with a listener for each worker, workers."""

    def __init__(
        self,
        workers: int = 1,
        *,
        orphan_timeout_s: float = 5.0,
        descriptors: int | None = None,
        sharing_pipes: int | None = None,
        uid: int = 65534,
        handover: socket.socket | None = None,
    ) -> None:
        self.handover = handover
        self.sharing_pipes = sharing_pipes or workers
        self.uid = uid if os.geteuid() == 0 else os.getuid()
        self.region = Region.create()
        self.directory = Directory(self.region)
        self.directory.take_worker_slots(workers)
        self.orphan_timeout_s, self.descriptors = orphan_timeout_s, descriptors
        self.listeners: dict[int, list[socket.socket]] = {}
        self.number = 0
        self.workers = [self.spawn(slot) for slot in range(workers)]

    def spawn(self, slot: int) -> WorkerProcess:
        configure = Configure(self.next(), slot, self.sharing_pipes, self.uid, self.uid, self.orphan_timeout_s, slot)
        return WorkerProcess(configure, self.region, descriptors=self.descriptors, handover=self.handover)

    def next(self) -> int:
        self.number += 1
        return self.number

    def frontend(
        self, targets: Sequence[Target], *, affinity_s: int = 0, host: str = "127.0.0.1"
    ) -> tuple[int, Target]:
        """A slot, and where it is reached."""
        slot = self.directory.claim(b"")
        self.members(slot, targets, affinity_s=affinity_s)
        group: list[socket.socket] = []
        port = 0
        for _ in self.workers:
            group.append(sockets.listening_socket(host, port, backlog=4096))
            port = group[0].getsockname()[1]
        self.listeners[slot] = group
        for index, worker in enumerate(self.workers):
            self.hand_over(worker, index, [slot])
        return slot, (host, port)

    def hand_over(self, worker: WorkerProcess, index: int, slots: Sequence[int]) -> None:
        worker.tell(Listen(self.next(), tuple(slots)), [self.listeners[slot][index].fileno() for slot in slots])

    def members(self, slot: int, targets: Sequence[Target], *, affinity_s: int = 0) -> None:
        self.directory.set_members(slot, sorted(map(packed, targets)), affinity_timeout_ms=affinity_s * 1000)

    def totals(self, slot: int) -> list[int]:
        return [view.total for view in self.directory.members(slot)]

    def is_quiet(self) -> bool:
        """No session is left, says every count."""
        return not any(self.directory.worker(slot).active for slot in range(len(self.workers))) and not any(
            view.active for slot in self.listeners for view in self.directory.members(slot)
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        for group in self.listeners.values():
            for listener in group:
                listener.close()


@contextmanager
def node(
    workers: int = 1,
    *,
    orphan_timeout_s: float = 5.0,
    descriptors: int | None = None,
    sharing_pipes: int | None = None,
    uid: int = 65534,
    handover: socket.socket | None = None,
) -> Iterator[Node]:
    made = Node(
        workers,
        orphan_timeout_s=orphan_timeout_s,
        descriptors=descriptors,
        sharing_pipes=sharing_pipes,
        uid=uid,
        handover=handover,
    )
    try:
        yield made
    finally:
        made.close()


class Server:
    """A listening socket whose connections are served by `serve`, one thread each; counts them."""

    def __init__(self, serve: Callable[[socket.socket], None], *, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=4096)
        self.at: Target = self.listener.getsockname()[:2]
        self.accepted = 0
        self.peers: Counter[str] = Counter()
        self._serve = serve
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.peers[peer[0]] += 1
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except OSError as error:
            self.errors.append(error)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(5)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Greeter:
    """Many servers in one process, which send their number and close; without threads for each connection."""

    def __init__(self, number: int, *, host: str = "127.0.0.1", first: int = 0) -> None:
        """They send `first` and the numbers after it."""
        self.listeners = [socket.create_server((host, 0), backlog=4096) for _ in range(number)]
        self.at: list[Target] = [listener.getsockname() for listener in self.listeners]
        self.counts = [0] * number
        self._first = first
        self.held: list[socket.socket] = []
        self.hold = False
        self._stop, stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(stop,), daemon=True)
        self._thread.start()

    def _run(self, stop: socket.socket) -> None:
        poll = select.epoll()
        poll.register(stop, select.EPOLLIN)
        by_descriptor = {listener.fileno(): index for index, listener in enumerate(self.listeners)}
        for listener in self.listeners:
            poll.register(listener, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == stop.fileno():
                    stop.close()
                    poll.close()
                    return
                index = by_descriptor[descriptor]
                connection, _ = self.listeners[index].accept()
                # before the client hears of it, who may let go at once
                if is_held := self.hold:
                    self.held.append(connection)
                try:
                    connection.send(bytes([self._first + index]))
                except ConnectionResetError:
                    # a dial that has lost against another one
                    connection.close()
                    continue
                self.counts[index] += 1
                if not is_held:
                    connection.close()

    def let_go(self) -> None:
        for one in self.held:
            one.close()

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join(5)
        self.let_go()
        for one in (*self.listeners, self._stop):
            one.close()

    def __enter__(self) -> "Greeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlackHole:
    """An address that answers no SYN: its queue is full. Portable, without a packet filter."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.at: Target = self._listener.getsockname()
        self._fill: list[socket.socket] = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(self.at)
            self._fill.append(one)
        time.sleep(0.05)

    def open_up(self) -> None:
        """From now on it answers; what filled it is gone."""
        for one in self._fill:
            reset(one)
        self._fill.clear()
        self._listener.listen(100)
        self._listener.settimeout(0.05)
        with suppress(TimeoutError):
            while True:
                self._listener.accept()[0].close()

    def accept(self, *, within_s: float) -> socket.socket:
        self._listener.settimeout(within_s)
        return self._listener.accept()[0]

    def __enter__(self) -> "BlackHole":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._fill:
            one.close()
        self._listener.close()


def refusing() -> Target:
    """An address that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        at: Target = once.getsockname()
    return at


def connect(target: Target, *, source: str | None = None, timeout_s: float = 20.0) -> socket.socket:
    return socket.create_connection(target, timeout_s, (source, 0) if source else None)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            raise EOFError(f"{len(got)} of {size} bytes")
        got += more
    return got


def receive_all(sock: socket.socket) -> bytes:
    parts = []
    while more := sock.recv(1 << 16):
        parts.append(more)
    return b"".join(parts)


class Stream:
    """Pseudo-random bytes in pieces of odd sizes: what is sent can be hashed again for comparison."""

    def __init__(self, seed: int, size: int) -> None:
        self._random, self._size = random.Random(seed), size

    def __iter__(self) -> Iterator[memoryview]:
        block = memoryview(self._random.randbytes(1 << 20))
        left = self._size
        while left:
            size = min(left, self._random.choice((1, 100, 1460, 16384, 65535, 65536, 65537, 1 << 18, 1 << 20)))
            yield block[:size]
            left -= size

    def digest(self) -> bytes:
        total = hashlib.sha256()
        for piece in self:
            total.update(piece)
        return total.digest()


def stop_and_wait(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


@dataclass
class Established:
    """A session in this process, and the far ends of its two sockets."""

    words: Words
    sessions: Sessions
    relay: Relay
    client: Half
    backend: Half
    far_client: socket.socket
    far_backend: socket.socket
    clock: Clock
    sweeper: Sweeper


def established() -> Iterator[Established]:
    """One session, for as long as the generator lives; the counts are back at nought when it has ended."""
    words = memoryview(bytearray(8 * 128)).cast("Q")
    with select.epoll() as epoll, socket.create_server(("127.0.0.1", 0)) as listener:
        pipes, clock = PipePool(1), Clock(1)
        sessions = Sessions(epoll, words, 0, pipes, clock)
        relay = Relay(sessions, words, pipes)
        far = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        near = [listener.accept()[0] for _ in range(2)]
        choice = Choice(
            1, socket.AF_INET, ("127.0.0.1", 1), active=80, total=81, failures=82, health=88, connect_time=89
        )
        words[80] = words[16 + layout.F_TOTAL] = 1
        sessions.count(1)
        client, backend = (Half(one.family, one.type, 0, one.detach()) for one in near)
        client.join(client.fileno(), 16 + layout.F_BYTES_IN, None)
        backend.join(backend.fileno(), 16 + layout.F_BYTES_OUT, choice)
        client.peer, backend.peer = backend, client
        for half in (client, backend):
            sessions.watch(half)
        client.began_ms = clock.now_ms
        yield Established(
            words, sessions, relay, client, backend, far[0], far[1], clock, Sweeper(sessions, relay, clock, pipes)
        )
        if not client.state & DEAD:
            sessions.close(client)
        relay.settle()
        for one in far:
            one.close()
        assert words[80] == sessions.active == 0
        assert words[16 + layout.F_ENDED] == words[16 + layout.F_TOTAL]
