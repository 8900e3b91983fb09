"""A worker's dialer, relay and sweeper in this process, with real sockets, and one session whose far ends are ours."""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import ClassVar

import pytest

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from kpf.worker import connector, dialer, relay, transfer
from kpf.worker.clock import Clock
from kpf.worker.dialer import Dialer
from kpf.worker.half import Half
from kpf.worker.listening import ListeningSocket
from kpf.worker.phases import Event
from kpf.worker.pipes import PipePool
from kpf.worker.relay import Relay
from kpf.worker.sessions import Sessions
from kpf.worker.sweeper import Sweeper
from tests.far_end import Far
from tests.half_states import NOTHING, Causes, Observer, Seen
from tests.worker_driver import Target, packed

# what a socket holds, doubled by the kernel: full soon
ROOM = 1 << 14
# where READ_SIZE is a part of that, a direction can use up its rounds; where it is more, one read may be too much
SMALL_SIZES = {"READ_SIZE": ROOM, "SPLICE_WORTH": ROOM, "COPY_SIZE": 2 * ROOM, "PIPE_SIZE": 2 * ROOM}
ENDS_WITHIN_S = 5.0
_TOLD = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class DrivenHalf(Half):
    """Its dial goes as its world wants. `held`: whom it is to dial, while the dial is silent."""

    __slots__ = ("held",)
    world: ClassVar["World"]
    held: Target | None

    def connect_ex(self, address: Target) -> int:  # type: ignore[override]
        fate = self.world.dials.pop(0) if self.world.dials else "answered"
        self.held = address if fate == "silent" else None
        if self.held:
            return errno.EINPROGRESS
        return super().connect_ex(self.world.refusing.getsockname() if fate == "refused" else address)

    def join(self, fd: int, counter: int, choice: Choice | None) -> None:
        super().join(fd, counter, choice)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self.world.observer.halves.append(self)

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        if self.choice and self.held:
            raise BlockingIOError(errno.EAGAIN, "")
        return super().send(data, flags)

    def answer(self) -> None:
        """The dial is silent no longer."""
        if self.choice and self.held and self.fileno() >= 0:
            address, self.held = self.held, None
            super().connect_ex(address)


@cache
def shared() -> tuple[Region, Directory]:
    """Of all worlds: what a region holds is there for as long as the process."""
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(1)
    return region, directory


class World:
    """`pipes`: how many there are. `dials`: what becomes of the next ones, "silent", "refused" or "answered"; those
    after them are answered. `ends`: the far ones of "client" and "backend", once they are there."""

    def __init__(self, seen: Seen, *, pipes: int, rounds: int, has_small_sizes: bool, dials: Sequence[str]) -> None:
        self._patch = pytest.MonkeyPatch()
        for module in (connector, dialer):
            self._patch.setattr(module, "Half", DrivenHalf)
        self._patch.setattr(DrivenHalf, "world", self, raising=False)
        self._patch.setattr(dialer, "EARLY_DATA_BYTES", 8 * ROOM)
        self._patch.setattr(relay, "ROUNDS", rounds)
        for name, size in SMALL_SIZES.items() if has_small_sizes else ():
            self._patch.setattr(transfer, name, size)
            if hasattr(relay, name):
                self._patch.setattr(relay, name, size)
        self.dials = list(dials)
        self.observer = Observer(seen)
        self.ends: dict[str, Far] = {}
        self._server, self._portal, self.refusing = (socket.socket() for _ in range(3))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        for one in (self._server, self._portal, self.refusing):
            one.bind(("127.0.0.1" if one is self.refusing else "", 0))
        self._server.listen()
        self._server.setblocking(False)
        self._portal.listen()
        self._accepted: list[socket.socket] = []
        region, self._directory = shared()
        layout, words = region.layout, region.words
        self._slot, port = self._directory.claim(b""), self._server.getsockname()[1]
        members = [packed((f"127.0.0.{n}", port)) for n in (1, 2, 3)]
        self._directory.set_members(self._slot, members, affinity_timeout_ms=0)
        self._epoll = select.epoll()
        self._pool = pool = PipePool(1)
        pool.limit = pipes
        self._clock = Clock(10_000)
        self._sessions = Sessions(self._epoll, words, layout.worker(0), pool, self._clock)
        self._relay = Relay(self._sessions, words, pool)
        self._dialer = Dialer(self._sessions, self._relay, Balancer(region, 0), words, self._clock)
        self._sweeper = Sweeper(self._sessions, self._relay, self._clock, pool)
        self._listener = ListeningSocket(os.dup(self._portal.fileno()), self._slot, layout=layout, worker=0)

    def accept(self, size: int = 0, *, shuts: bool = False) -> None:
        """A client comes, and has sent so much by the time."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        sock.connect(("127.0.0.1", self._portal.getsockname()[1]))
        near = self._portal.accept()[0].detach()
        self.ends["client"] = client = Far(sock)
        client.send(size)
        if shuts:
            client.shut()
        self._sessions.count(1)
        self._tell(lambda: self._dialer.begin(self._listener, [(near, "127.0.0.1")]))

    def answer(self) -> None:
        """All dials that are silent are."""
        for half in self.observer.halves:
            assert isinstance(half, DrivenHalf)
            half.answer()

    def look(self) -> bool:
        """What epoll says, one event after another. False if it says nothing."""
        batch = self._epoll.poll(0)
        for descriptor, events in batch:
            half = self._sessions.halves[descriptor]
            if half is None or (half.choice and half.held):  # type: ignore[attr-defined]
                continue
            causes = {half: ((Event.READABLE,),) if events & _TOLD else NOTHING}
            if events & select.EPOLLOUT and hasattr(half, "peer"):
                causes[half.peer] = ((Event.ROOM,),)
            self._tell(partial(self._relay.carry, [(descriptor, events)]), causes)
        self._meet()
        return bool(batch)

    def settle(self) -> None:
        """The end of a batch."""
        self._tell(self._relay.settle, ((Event.ITERATION,),))

    def go_on(self) -> None:
        """Some turns, while both sides read all there is."""
        for _ in range(5):
            self.look()
            self.settle()
            for far in self.ends.values():
                far.read_all()

    def wait(self, ms: int) -> None:
        """By the clock of the worker, which then looks around."""
        self._clock.now_ms += ms
        self._tell(self._dialer.expire)
        self._tell(self._sweeper.sweep, ((Event.LENDER,),))

    def _tell(self, call: Callable[[], object], causes: Mapping[Half, Causes] | Causes = NOTHING) -> None:
        self.observer.may_fail = any(far.has_reset for far in self.ends.values())
        self.observer.tell(call, causes)

    def _meet(self) -> None:
        """Find the far end of the backend's half."""
        with suppress(BlockingIOError):
            while True:
                self._accepted.append(self._server.accept()[0])
        if "backend" not in self.ends:
            names = [half.getsockname() for half in self.observer.halves if half.choice and hasattr(half, "peer")]
            for one in self._accepted:
                with suppress(OSError):
                    if one.getpeername() in names:
                        self.ends["backend"] = Far(one)

    def end(self) -> None:
        """Both sides say and hear all they have to, and the worker has nothing left: then the ends are as they must."""
        deadline_s = time.monotonic() + ENDS_WITHIN_S
        while self._sessions.active or self._sessions.extra:
            assert time.monotonic() < deadline_s, "it never ends"
            self.answer()
            is_busy = self.look()
            self.settle()
            self.wait(100)
            for far in self.ends.values():
                far.shut()
                is_busy |= far.read_all()
            if not is_busy:
                time.sleep(0.0002)
        self.settle()
        self._meet()
        ends = list(self.ends.values())
        while not all(far.is_through for far in ends):
            assert time.monotonic() < deadline_s, "an end that is not passed on"
            for far in ends:
                far.read(1 << 20)
        if len(ends) == 2:
            self._check_ends(*ends)
        assert self._directory.frontend(self._slot).active == 0
        assert not any(member.active for member in self._directory.members(self._slot))
        # those that nobody has needed since the first time: all, as none is lent any more
        self._pool.trim()
        self._pool.trim()
        assert self._pool._open == 0

    def _check_ends(self, *ends: Far) -> None:
        is_broken = any(far.has_reset for far in ends)
        for one, other in (ends, ends[::-1]):
            assert one.got <= other.sent
            if is_broken:
                assert one.saw_end <= other.has_shut, "a reset looks like an end"
            else:
                assert (one.saw_end, one.saw_reset, one.got) == (True, False, other.sent)

    def close(self) -> None:
        self._patch.undo()
        self._directory.retire(self._slot)
        for one in (
            *(far.sock for far in self.ends.values()),
            *self._accepted,
            *self.observer.halves,
            self._listener.sock,
        ):
            one.close()
        for one in (self._server, self._portal, self.refusing):
            one.close()
        self._epoll.close()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
