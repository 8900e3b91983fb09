"""What a shortage costs, or an errno at one socket: one connection or one pause, never the worker."""

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kpf.master import process
from kpf.master.process import WorkerProcess
from kpf.net import channel, credentials, sockets
from kpf.net.channel import MAX_DESCRIPTORS, Message
from kpf.net.messages import Close, Configure, Done, Drain, Listen, NoRoom, Ready
from kpf.shm.region import Region
from kpf.worker import orphan
from kpf.worker.acceptor import CLOSE_LIMIT_MS, PAUSE_MS, Acceptor
from kpf.worker.clock import Clock
from kpf.worker.conversation import SILENCE_MS
from kpf.worker.half import Half
from kpf.worker.orders import Orders
from kpf.worker.orphan import Orphan
from kpf.worker.pipes import PipePool
from kpf.worker.sessions import UNWATCHED_LIMIT_MS, Sessions
from kpf.worker.states import DEAD
from tests.worker_driver import (
    Established,
    Node,
    Server,
    ask,
    connect,
    echo,
    established,
    eventually,
    node,
    receive_exactly,
)

# room for 50 sessions beside one listener, 32 pipes and the reserve
DESCRIPTORS = 32 + 64 + MAX_DESCRIPTORS + 1 + 2 * 50


def fill(made: Node, at: tuple[str, int]) -> list[socket.socket]:
    """As many sessions as the worker has room for."""
    sessions: list[socket.socket] = []
    while not made.directory.worker(0).paused:
        sessions.append(connect(at))
        eventually(lambda: made.directory.worker(0).active == len(sessions) or made.directory.worker(0).paused)
    while len(sessions) > made.directory.worker(0).active:
        # it waits in the queue
        sessions.pop().close()
    return sessions


def make_listeners(made: Node, number: int, server: Server) -> list[int]:
    """Frontends whose listeners nobody has been handed yet."""
    slots = []
    for _ in range(number):
        slot = made.directory.claim(b"")
        made.members(slot, [server.at])
        made.listeners[slot] = [sockets.listening_socket("127.0.0.1", 0, backlog=100)]
        slots.append(slot)
    return slots


def test_a_full_worker_takes_as_many_listeners_as_a_message_has() -> None:
    """The limit falls below what is active; nobody is cut off, and it goes on when there is room again."""
    with Server(echo) as server, node(descriptors=DESCRIPTORS) as made:
        _, at = made.frontend([server.at])
        sessions = fill(made, at)
        assert len(sessions) == 50
        slots = make_listeners(made, MAX_DESCRIPTORS, server)
        made.hand_over(made.workers[0], 0, slots)
        assert all(map(ask, sessions))
        assert made.directory.worker(0).paused
        for sock in sessions:
            sock.close()
        for slot in slots[:3]:
            with connect(made.listeners[slot][0].getsockname()) as sock:
                assert ask(sock)


def test_a_full_worker_closes_a_listener_all_the_same() -> None:
    """The master tells it nothing else before. Who is queued there is not accepted: there is no room."""
    with Server(echo) as server, node(descriptors=DESCRIPTORS) as made:
        _, at = made.frontend([server.at])
        gone, gone_at = made.frontend([server.at])
        sessions = fill(made, at)
        with connect(gone_at) as queued:
            made.workers[0].tell(Close(made.next(), (gone,)))
            for sock in made.listeners.pop(gone):
                sock.close()
            with pytest.raises(ConnectionResetError):
                queued.recv(1)
        assert all(map(ask, sessions))
        for sock in sessions:
            sock.close()


def test_a_worker_above_its_new_limit_accepts_nobody_until_it_is_below() -> None:
    """With 253 listeners more, DESCRIPTORS are too few for any reserve: one session at a time is all there may be."""
    with Server(echo) as server, node(descriptors=DESCRIPTORS) as made:
        _, at = made.frontend([server.at])
        sessions = [connect(at) for _ in range(30)]
        assert all(map(ask, sessions))
        made.hand_over(made.workers[0], 0, make_listeners(made, MAX_DESCRIPTORS, server))
        assert not made.directory.worker(0).paused
        with connect(at) as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                ask(late)
            assert made.directory.worker(0).paused
            for sock in sessions:
                sock.close()
            late.settimeout(5)
            assert receive_exactly(late, 1) == b"x"


def test_listeners_that_there_is_no_room_for_are_asked_for_again() -> None:
    """A second message, for which the first has left no room: nothing of it is kept, and the worker is steered around
    until it has got it all. What it has goes on."""
    with Server(echo) as server, node(descriptors=DESCRIPTORS) as made:
        _, at = made.frontend([server.at])
        worker, sessions = made.workers[0], fill(made, at)
        made.hand_over(worker, 0, make_listeners(made, MAX_DESCRIPTORS, server))
        used = worker.descriptors()
        slots = make_listeners(made, 100, server)
        message = Listen(made.next(), tuple(slots))
        descriptors = [made.listeners[slot][0].fileno() for slot in slots]
        channel.send(worker.channel, message, descriptors)
        assert channel.receive(worker.channel) == (NoRoom(message.number), [])
        assert worker.descriptors() <= used
        assert all(map(ask, sessions))
        # what has no descriptors gets through
        worker.tell(Close(made.next(), ()))
        for sock in sessions[:-1]:
            sock.close()
        eventually(lambda: made.directory.worker(0).active <= 1)
        worker.tell(message, descriptors)
        assert ask(sessions[-1])
        sessions[-1].close()
        eventually(lambda: not made.directory.worker(0).paused)
        with connect(made.listeners[slots[-1]][0].getsockname()) as sock:
            assert ask(sock)


def test_a_worker_that_lacks_listeners_is_steered_around_and_serves_what_it_has() -> None:
    # without another id, so that its limit may be changed from here
    with Server(echo) as server, node(uid=os.getuid()) as made:
        _, at = made.frontend([server.at])
        worker, slots = made.workers[0], make_listeners(made, 20, server)
        descriptors = [made.listeners[slot][0].fileno() for slot in slots]
        message = Listen(made.next(), tuple(slots))
        with few_descriptors(worker.process.pid, 10):
            channel.send(worker.channel, message, descriptors)
            assert channel.receive(worker.channel) == (NoRoom(message.number), [])
            assert made.directory.worker(0).paused
            with connect(at) as sock:
                assert ask(sock)
            assert made.directory.worker(0).paused
        worker.tell(message, descriptors)
        assert not made.directory.worker(0).paused
        with connect(made.listeners[slots[0]][0].getsockname()) as sock:
            assert ask(sock)


@contextlib.contextmanager
def few_descriptors(pid: int, number: int) -> Iterator[None]:
    """So many more are left to a process, and no others."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    first_too_many = [one for one in range(len(used) + number + 1) if one not in used][number]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_too_many, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_the_master_tells_a_worker_again_that_had_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "RETRY_S", 0.05)

    async def scene() -> None:
        ready, ended = asyncio.Event(), asyncio.Event()
        worker = WorkerProcess(0, 0, on_ready=lambda _: ready.set(), on_exit=lambda *_: ended.set())
        region = Region.create()
        await worker.send(Configure(0, 0, 1, os.getuid(), os.getgid(), 1.0), [region.descriptor])
        with sockets.listening_socket("127.0.0.1", 0, backlog=5) as listener:
            async with asyncio.timeout(10):
                with few_descriptors(worker.pid, 10):
                    answer = worker.send(Listen(1, tuple(range(20))), [listener.fileno()] * 20)
                    later = worker.send(Close(2, ()))
                    while "short of descriptors" not in caplog.text:
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.15)
                    assert not answer.done()
                await answer
                await later
        worker.kill()
        await ended.wait()

    asyncio.run(scene())
    assert caplog.text.count("short of descriptors") == 1


def test_a_listener_that_somebody_has_shut_down_costs_nobody_else_anything() -> None:
    """EINVAL at accept."""
    with Server(echo) as server, node() as made:
        slot, at = made.frontend([server.at])
        _, other = made.frontend([server.at])
        with connect(at) as kept:
            assert ask(kept)
            made.listeners[slot][0].shutdown(socket.SHUT_RDWR)
            with connect(other) as sock:
                assert ask(sock)
            assert ask(kept)
            with pytest.raises(ConnectionRefusedError):
                connect(at)
            # nor any time
            begun = made.workers[0].cpu_ticks()
            time.sleep(0.2)
            assert made.workers[0].cpu_ticks() - begun <= 2
            made.workers[0].tell(Close(made.next(), (slot,)))
            assert ask(kept)


# epoll without room, in this process: fs.epoll.max_user_watches is the machine's


class ScarceEpoll:
    """An epoll that has no room for more while `is_full`."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real
        self.is_full = True

    def register(self, fd: int, mask: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        self._real.register(fd, mask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def session() -> Iterator[Established]:
    yield from established()


def unwatched(session: Established) -> ScarceEpoll:
    """The session, as it would be if epoll had had no room for its client."""
    session.sessions.epoll.unregister(session.client.fd)
    session.sessions.halves[session.client.fd] = None
    scarce = ScarceEpoll(session.sessions.epoll)
    session.sessions.epoll = scarce  # type: ignore[assignment]
    session.relay.begin(session.client, session.backend)
    assert list(session.sessions.unwatched) == [session.client]
    return scarce


def test_a_connection_that_epoll_has_no_room_for_goes_on_when_there_is(session: Established) -> None:
    scarce = unwatched(session)
    session.far_client.sendall(b"hello")
    session.relay.watch_again(1000)
    # there may be no room for what comes from the other side meanwhile
    session.relay._transfer._want_room(session.client)
    session.relay.watch_again(1000 + UNWATCHED_LIMIT_MS - 1)
    scarce.is_full = False
    session.relay.watch_again(1000 + UNWATCHED_LIMIT_MS)
    assert not session.sessions.unwatched
    counter = session.client.counter
    eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.words[counter])
    assert receive_exactly(session.far_backend, 5) == b"hello"


def test_a_connection_that_epoll_never_has_room_for_is_reset(session: Established) -> None:
    unwatched(session)
    session.relay.watch_again(1000)
    session.relay.watch_again(1000 + UNWATCHED_LIMIT_MS)
    assert session.client.state & DEAD
    session.relay.settle()
    for far in (session.far_client, session.far_backend):
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    session.relay.watch_again(1001 + UNWATCHED_LIMIT_MS)
    assert not session.sessions.unwatched


class _NoDialer:
    short = False


def acceptor_of(session: Established, epoll: Any) -> tuple[Acceptor, Region, int]:
    """An acceptor with one listener. Returns the listener's port, too."""
    region = Region.create()
    session.sessions.epoll = epoll
    made = Acceptor(session.sessions, _NoDialer(), session.clock, region, worker=0, pipes=0)  # type: ignore[arg-type]
    listener = sockets.listening_socket("127.0.0.1", 0, backlog=5)
    port = listener.getsockname()[1]
    made.open(listener.detach(), 0)
    return made, region, port


def test_a_listener_that_epoll_has_no_room_for_is_steered_around_and_tried_again(session: Established) -> None:
    scarce = ScarceEpoll(session.sessions.epoll)
    made, region, _ = acceptor_of(session, scarce)
    (descriptor,) = made.listeners
    word = region.layout.worker(0) + 1  # PAUSED

    def look_again() -> tuple[bool, bool]:
        session.clock.now_ms += PAUSE_MS
        made.settle()
        return made.is_unsettled, bool(region.words[word])

    assert (made.is_unsettled, region.words[word]) == (True, 1)
    assert look_again() == (True, True)
    scarce.is_full = False
    assert look_again() == (False, False)
    # and it is closed as any other
    made.close()
    assert not made.settle()
    assert made.is_empty
    assert descriptor not in made.listeners


def test_a_worker_whose_connections_epoll_has_no_room_for_accepts_no_more(session: Established) -> None:
    made, region, port = acceptor_of(session, session.sessions.epoll)
    (listener,) = made.listeners.values()
    session.sessions.unwatched[session.client] = 0
    with socket.create_connection(("127.0.0.1", port)):
        assert made.accept(listener, 1) == 0
        assert region.words[region.layout.worker(0) + 1] == 1
        session.clock.now_ms += 10 * PAUSE_MS
        made.settle()
        assert made.is_unsettled
        session.sessions.unwatched.clear()
        made.settle()
        assert not made.is_unsettled
        made.close()
        # its queue is empty for those who are told so
        made._closing.clear()
    for one in made.listeners.values():
        one.sock.close()


def test_who_has_no_place_yet_when_epoll_has_no_room_can_be_given_up(session: Established) -> None:
    session.sessions.epoll = ScarceEpoll(session.sessions.epoll)  # type: ignore[assignment]
    with socket.socket() as sock:
        high = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, len(session.sessions.halves))
    half = Half(socket.AF_INET, socket.SOCK_STREAM, 0, high)
    half.join(high, 0, None)
    session.sessions.watch(half)
    session.sessions.bury(half)
    session.sessions.settle()
    assert half.fileno() == -1


class _ShortListener:
    """The system has no descriptors, and goes on having none."""

    def __init__(self, real: Any) -> None:
        self.close = real.close

    def _accept(self) -> None:
        raise OSError(errno.ENFILE, "too many open files in system")


def test_a_shortage_that_lasts_holds_up_no_close(session: Established) -> None:
    made, _, _ = acceptor_of(session, session.sessions.epoll)
    (listener,) = made.listeners.values()
    listener.sock = _ShortListener(listener.sock)  # type: ignore[assignment]
    made.close()
    begun_ms = session.clock.now_ms
    while made.is_closing and session.clock.now_ms < begun_ms + 2 * CLOSE_LIMIT_MS:
        made.settle()
        session.clock.now_ms += PAUSE_MS
    assert CLOSE_LIMIT_MS <= session.clock.now_ms - begun_ms <= CLOSE_LIMIT_MS + 2 * PAUSE_MS


# the orphan


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def orphan_in(epoll: ScarceEpoll, handover: socket.socket | None = None) -> Orphan:
    words = memoryview(bytearray(8 * 64)).cast("Q")
    return Orphan(
        Sessions(epoll, words, 0, PipePool(1), Clock(1000)),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        handover,
        master_uid=os.geteuid(),
        now_ms=1000,
        timeout_ms=10_000,
        is_relieved=False,
    )


@pytest.mark.parametrize("short_of", ["descriptors", "watches"])
def test_an_orphan_that_is_short_looks_again_later(short_of: str) -> None:
    with select.epoll() as epoll, socket.socket(socket.AF_UNIX) as lock:
        lock.bind(credentials.NAMES[0])
        lock.listen()
        scarce = ScarceEpoll(epoll)
        made = orphan_in(scarce)
        scarce.is_full = short_of == "watches"
        with no_descriptors() if short_of == "descriptors" else contextlib.nullcontext():
            made.tick(1000)
        assert made.due_ms == 1000 + orphan.RETRY_MS
        scarce.is_full = False
        made.tick(made.due_ms)
        assert made.due_ms == made.deadline_ms
        lock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                lock.accept()[0].close()
        ((descriptor, _),) = epoll.poll(1)
        made.ready(descriptor, 2000)
        assert made.is_relieved


@pytest.mark.parametrize("short_of", ["descriptors", "watches"])
def test_an_orphan_that_is_short_hears_a_successor_later(short_of: str, tmp_path: Path) -> None:
    with select.epoll() as epoll, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as handover:
        handover.bind(str(tmp_path / "handover.sock"))
        handover.listen()
        handover.setblocking(False)
        scarce = ScarceEpoll(epoll)
        scarce.is_full = False
        made = orphan_in(scarce, handover)
        made.tick(1000)
        scarce.is_full = short_of == "watches"
        made.tick(made.due_ms)
        scarce.is_full = False
        made.tick(made.due_ms)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as successor:
            successor.connect(handover.getsockname())
            ((descriptor, _),) = epoll.poll(1)
            if short_of == "descriptors":
                with no_descriptors():
                    made.ready(descriptor, 1200)
                # nor is it asked again at once
                assert epoll.poll(0.05) == []
                made.tick(made.due_ms)
                ((descriptor, _),) = epoll.poll(1)
            made.ready(descriptor, 1300)
            assert made.due_ms == 1300 + SILENCE_MS
            made.tick(made.due_ms)
            assert successor.recv(1) == b""


# the channel


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_master_that_dies_with_something_unread_is_gone_and_no_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """ECONNRESET for whoever writes next."""
    ours, theirs = pair
    orders = Orders(theirs)
    orders.answer(Drain(1))
    ours.close()
    orders.answer(Drain(2))
    assert not orders.is_unsettled
    with pytest.raises(EOFError):
        orders.next()


def test_answers_that_cannot_be_given_now_are_given_later_in_their_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    orders = Orders(theirs)
    ours.settimeout(5)
    orders.ready("none", 1, 0)
    sent = 0
    while not orders.is_unsettled:
        sent += 1
        orders.answer(Drain(sent))
        assert sent < 10_000
    assert channel.receive(ours)[0] == Ready(1, 0, "none")
    got: list[Message] = []
    while len(got) < sent:
        orders.settle()
        got.append(channel.receive(ours)[0])
    assert got == [Done(number) for number in range(1, sent + 1)]


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN])
def test_an_order_that_cannot_be_read_now_is_read_later(
    pair: tuple[socket.socket, socket.socket], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    orders = Orders(theirs)
    channel.send(ours, Drain(1))
    real: Callable[..., Any] = channel.receive

    def scarce(_: socket.socket) -> Any:
        monkeypatch.setattr(channel, "receive", real)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(channel, "receive", scarce)
    assert orders.next() is None
    assert orders.next() == (Drain(1), [])
