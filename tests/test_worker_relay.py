"""Bytes and endings through a real worker: what the relay's rules are about."""

import contextlib
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from kpf.worker.half import EITHER, Half
from kpf.worker.relay import ROUNDS
from kpf.worker.states import DEAD, DIALLING, OPEN, PASSED, PENDING, SPLICING
from kpf.worker.transfer import READ_SIZE
from tests.worker_driver import (
    Established,
    Node,
    Server,
    Stream,
    Target,
    connect,
    established,
    eventually,
    node,
    receive_all,
    receive_exactly,
    reset,
)

HEADER = struct.Struct("!QQI")


@pytest.fixture(scope="module")
def kept() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(kept: Node) -> Iterator[None]:
    pipes = kept.workers[0]
    yield
    eventually(kept.is_quiet)
    # what stays open is the pool's pipes, two descriptors each, and the listeners
    eventually(lambda: pipes.descriptors() <= 8 + len(kept.listeners) + 2 * 32)


def serve(kept: Node, server: Server) -> Target:
    return kept.frontend([server.at])[1]


def pour(sock: socket.socket, seed: int, size: int) -> None:
    luck = random.Random(seed)
    for piece in Stream(seed, size):
        sock.sendall(piece)
        if luck.random() < 0.02:
            time.sleep(0.001)


def pour_out(sock: socket.socket, seed: int, size: int) -> None:
    pour(sock, seed, size)
    sock.shutdown(socket.SHUT_WR)


def digest_of(sock: socket.socket, size: int | None, seed: int) -> tuple[int, bytes]:
    """Read so many bytes, or all, not always at full speed."""
    total, got, luck = hashlib.sha256(), 0, random.Random(seed)
    while size is None or got < size:
        piece = sock.recv(min(1 << luck.choice((16, 18)), (size - got) if size is not None else 1 << 18))
        if not piece:
            break
        total.update(piece)
        got += len(piece)
        if luck.random() < 0.02:
            time.sleep(0.002)
    return got, total.digest()


def duplex(connection: socket.socket) -> None:
    """Both ways at once; a trailer after the client's end, which half-close alone lets through."""
    up, down, seed = HEADER.unpack(receive_exactly(connection, HEADER.size))
    pouring = threading.Thread(target=pour, args=(connection, seed + 1, down))
    pouring.start()
    got, digest = digest_of(connection, None, seed)
    pouring.join()
    assert got == up
    connection.sendall(digest)


SIZES = (0, 1, 65_536, 70_000, 3_000_000, 40_000_000)


@pytest.mark.parametrize("pipes", ["splice", "copy"])
def test_every_byte_arrives_both_ways_and_the_end_after_it(pipes: str) -> None:
    failures: list[str] = []

    def client(at: Target, seed: int) -> None:
        luck = random.Random(seed)
        up, down = luck.choice(SIZES), luck.choice(SIZES)
        try:
            with connect(at, timeout_s=60) as sock:
                sock.sendall(HEADER.pack(up, down, seed))
                pouring = threading.Thread(target=pour_out, args=(sock, seed, up))
                pouring.start()
                got = digest_of(sock, down, seed)
                trailer = receive_exactly(sock, 32)
                pouring.join()
                assert got == (down, Stream(seed + 1, down).digest()), "down"
                assert trailer == Stream(seed, up).digest(), "up"
                assert sock.recv(1) == b"", "end"
        except (OSError, EOFError, AssertionError) as error:
            failures.append(f"seed {seed}, up {up}, down {down}: {error!r}")

    # among so many workers there is no pipe for anyone
    with node(sharing_pipes=100 if pipes == "copy" else 1) as made, Server(duplex) as server:
        slot, at = made.frontend([server.at])
        threads = [threading.Thread(target=client, args=(at, seed)) for seed in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not failures
        assert not server.errors
        eventually(made.is_quiet)
        has_pipes = made.workers[0].descriptors() > 8 + len(made.listeners)
        assert has_pipes is (pipes == "splice")
        view = made.directory.frontend(slot)
        assert view.bytes_in > 24 * HEADER.size
        assert view.bytes_out >= 24 * 32


def test_the_bytes_are_counted(kept: Node) -> None:
    with Server(duplex) as server:
        slot, at = kept.frontend([server.at])
        with connect(at) as sock:
            sock.sendall(HEADER.pack(5_000_000, 300_000, 5))
            pour(sock, 5, 5_000_000)
            sock.shutdown(socket.SHUT_WR)
            assert len(receive_all(sock)) == 300_032
        view = kept.directory.frontend(slot)
        assert (view.bytes_in, view.bytes_out) == (5_000_000 + HEADER.size, 300_032)


def test_the_server_may_end_first_and_still_hear_everything(kept: Node) -> None:
    heard: list[int] = []

    def serve_end_first(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(len(receive_all(connection)))

    with Server(serve_end_first) as server, connect(serve(kept, server)) as sock:
        assert receive_all(sock) == b"bye"
        time.sleep(0.05)
        sock.sendall(b"y" * 5_000_000)
        sock.close()
        eventually(lambda: heard == [5_000_000])


def test_the_client_may_end_first_and_still_hear_everything(kept: Node) -> None:
    def answer(connection: socket.socket) -> None:
        size = len(receive_all(connection))
        time.sleep(0.05)
        connection.sendall(b"x" * size * 10)

    with Server(answer) as server:
        at = serve(kept, server)
        for size in (0, 1, 1000, 65_536, 700_000):
            with connect(at) as sock:
                sock.sendall(b"y" * size)
                sock.shutdown(socket.SHUT_WR)
                assert len(receive_all(sock)) == size * 10


def test_a_reset_of_the_server_reaches_the_client(kept: Node) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.sendall(b"x" * 100_000)
        time.sleep(0.1)
        reset(connection)

    with Server(break_off) as server, connect(serve(kept, server)) as sock:
        assert receive_exactly(sock, 100_000) == b"x" * 100_000
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_what_came_before_a_reset_is_passed_on(kept: Node) -> None:
    """A server that answers early and closes with the request unread: its kernel sends a reset after the answer."""

    def refuse_the_request(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"413 too large")
        reset(connection)

    with Server(refuse_the_request) as server:
        at = serve(kept, server)
        for _ in range(50):
            with connect(at) as sock:
                sock.sendall(b"request")
                assert receive_exactly(sock, 13) == b"413 too large"
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)


@pytest.mark.parametrize("when", ["idle", "at once", "while the server is silent and full"])
def test_a_reset_of_the_client_reaches_the_server(kept: Node, when: str) -> None:
    ends: list[str] = []
    go = threading.Event()

    def report_end(connection: socket.socket) -> None:
        try:
            if when == "while the server is silent and full":
                go.wait(10)
            receive_all(connection)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    with Server(report_end) as server, connect(serve(kept, server)) as sock:
        if when == "while the server is silent and full":
            sock.setblocking(False)
            deadline_s = time.monotonic() + 0.3
            while time.monotonic() < deadline_s:
                try:
                    sock.send(b"z" * 65_536)
                except BlockingIOError:
                    time.sleep(0.01)
        else:
            sock.sendall(b"z" * 1000)
        if when == "idle":
            time.sleep(0.1)
        reset(sock)
        if when == "while the server is silent and full":
            # noticed although nobody reads
            eventually(kept.is_quiet)
            go.set()
        eventually(lambda: ends == ["reset"])


def test_sizes_around_the_buffers_in_turns(kept: Node) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(1 << 16):
            connection.sendall(data)

    luck = random.Random(3)
    with Server(echo) as server, connect(serve(kept, server)) as sock:
        for _ in range(1000):
            data = os.urandom(luck.choice((1, 10, 1000, 65_535, 65_536, 65_537, 131_072, 200_000)))
            sock.sendall(data)
            assert receive_exactly(sock, len(data)) == data


def test_the_server_speaks_first(kept: Node) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        connection.sendall(b"you said " + connection.recv(100))

    with Server(greet) as server, connect(serve(kept, server)) as sock:
        assert receive_exactly(sock, 11) == b"220 ready\r\n"
        sock.sendall(b"HELO")
        assert receive_all(sock) == b"you said HELO"


def test_both_ends_at_once_leave_nothing(kept: Node) -> None:
    barrier = threading.Barrier(2)

    def leave(connection: socket.socket) -> None:
        connection.recv(1)
        barrier.wait(5)
        connection.close()

    with Server(leave) as server:
        at = serve(kept, server)
        for _ in range(100):
            sock = connect(at)
            sock.sendall(b"x")
            barrier.wait(5)
            sock.close()
        eventually(kept.is_quiet)


def test_both_families(kept: Node) -> None:
    def say(connection: socket.socket) -> None:
        connection.sendall(b"x")

    with Server(say, host="::1") as six, Server(say) as four:
        for host, server in (("127.0.0.1", six), ("::1", four), ("::1", six)):
            with connect(kept.frontend([server.at], host=host)[1]) as sock:
                assert receive_all(sock) == b"x"


def test_one_that_pours_does_not_starve_the_others(kept: Node) -> None:
    def pour_on(connection: socket.socket) -> None:
        block = bytes(1 << 20)
        while True:
            connection.sendall(block)

    def answer(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(data)

    def drink(sock: socket.socket) -> None:
        # a reset, if what comes has nowhere to go any more
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1 << 20):
                pass

    with Server(pour_on) as pouring, Server(answer) as answering:
        at, quick = serve(kept, pouring), serve(kept, answering)
        drinkers = [connect(at) for _ in range(3)]
        threads = [threading.Thread(target=drink, args=(one,), daemon=True) for one in drinkers]
        for thread in threads:
            thread.start()
        took_s = []
        with connect(quick) as sock:
            for _ in range(50):
                begin_s = time.monotonic()
                sock.sendall(b"x")
                receive_exactly(sock, 1)
                took_s.append(time.monotonic() - begin_s)
        for one in drinkers:
            one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        for one in drinkers:
            one.close()
    assert sorted(took_s)[25] < 0.1


MIB = 1 << 20
# every byte but "!", so that urgent ones can be told
PATTERN = bytes(number for number in range(256) if number != ord("!"))


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@pytest.mark.parametrize("ends", ["the end at once", "the end later"])
@pytest.mark.parametrize("way", ["to the server", "to the client"])
@pytest.mark.parametrize(
    "parts",
    [(0, 9 * MIB), (8 * MIB, MIB), (9 * MIB, 0), (3 * MIB,) * 4],
    ids=["mark at the beginning", "mark in the middle", "mark at the end", "three marks"],
)
def test_a_bulk_stream_with_urgent_data_arrives_whole(kept: Node, parts: tuple[int, ...], way: str, ends: str) -> None:
    """All that is in band, then the end. An urgent byte is passed over, unless the next one overtakes it."""
    got: list[bytes] = []
    arrived, stalled = threading.Event(), threading.Event()

    def speak(sock: socket.socket) -> None:
        for number, size in enumerate(parts):
            if number:
                sock.send(b"!", socket.MSG_OOB)
            sock.sendall(pattern(size))
        if ends == "the end later" and not arrived.wait(4):
            stalled.set()
        sock.shutdown(socket.SHUT_WR)

    def hear(sock: socket.socket) -> None:
        sock.settimeout(5)
        while data := sock.recv(MIB):
            got.append(data.replace(b"!", b""))
            if sum(map(len, got)) == sum(parts):
                arrived.set()

    serving, calling = (hear, speak) if way == "to the server" else (speak, hear)
    with Server(serving) as server, connect(serve(kept, server)) as sock:
        calling(sock)
        eventually(lambda: arrived.is_set() or server.errors, within_s=10)
        assert not stalled.is_set()
        assert b"".join(got) == b"".join(map(pattern, parts))


# in this process, where the order of things can be chosen


@pytest.fixture
def session() -> Iterator[Established]:
    yield from established()


def test_a_failed_write_still_passes_on_what_the_other_side_has_said(session: Established) -> None:
    """The server has answered and reset before the worker reads the rest of the request."""
    session.far_backend.sendall(b"413 too large")
    reset(session.far_backend)
    session.far_client.sendall(b"request")
    session.relay.carry([(session.client.fd, select.EPOLLIN)])
    session.relay.settle()
    assert session.far_client.recv(100) == b"413 too large"
    with pytest.raises(ConnectionResetError):
        session.far_client.recv(1)


@pytest.mark.parametrize("way", ["ready", "pump", "last"])
def test_a_send_that_finds_no_room_at_all_has_lost_nothing(session: Established, way: str) -> None:
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += session.backend.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    session.far_client.sendall(b"x" * 1000)
    if way == "last":
        session.far_client.shutdown(socket.SHUT_WR)
    time.sleep(0.02)
    if way == "pump":
        session.relay.pump(session.client)
    else:
        events = select.EPOLLIN | (select.EPOLLRDHUP if way == "last" else 0)
        session.relay.carry([(session.client.fd, events)])
    assert session.client.state & PENDING
    session.relay.settle()
    got, deadline_s = b"", time.monotonic() + 10
    while len(got) < filled + 1000 and time.monotonic() < deadline_s:
        with contextlib.suppress(BlockingIOError):
            got += session.far_backend.recv(1 << 20, socket.MSG_DONTWAIT)
        assert session.relay.carry(session.sessions.epoll.poll(0)) == []
        session.relay.settle()
    assert got == bytes(filled) + b"x" * 1000
    assert (session.client.state, session.client.end) == (0, PASSED if way == "last" else OPEN)
    if way == "last":
        assert session.far_backend.recv(1) == b""


@pytest.mark.parametrize("ends", [True, False])
def test_bytes_behind_urgent_data_arrive(session: Established, ends: bool) -> None:
    """A read stops short where urgent data is; the urgent byte itself is nobody's here."""
    session.far_client.sendall(b"abc")
    session.far_client.send(b"!", socket.MSG_OOB)
    session.far_client.sendall(b"def")
    if ends:
        session.far_client.shutdown(socket.SHUT_WR)
    time.sleep(0.02)
    session.relay.carry(session.sessions.epoll.poll(1.0))
    session.relay.settle()
    session.far_backend.settimeout(5)
    assert receive_exactly(session.far_backend, 6) == b"abcdef"
    if ends:
        assert session.far_backend.recv(1) == b""
    else:
        assert not session.client.state, "it is on the hot path again"


@pytest.mark.parametrize("together", [True, False])
def test_a_reset_after_the_end_is_passed_on(session: Established, together: bool) -> None:
    session.far_client.shutdown(socket.SHUT_WR)
    if not together:
        eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.client.end == PASSED)
        session.relay.settle()
        assert session.far_backend.recv(1) == b""
    reset(session.far_client)
    eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.client.state & DEAD)
    session.relay.settle()
    with select.epoll() as poll:
        poll.register(session.far_backend, 0)
        assert poll.poll(1.0) == [(session.far_backend.fileno(), select.EPOLLERR | select.EPOLLHUP)]


def test_a_socket_that_was_waited_for_is_on_the_hot_path(session: Established, monkeypatch: pytest.MonkeyPatch) -> None:
    session.backend.mask = EITHER
    session.sessions.epoll.modify(session.backend.fd, EITHER)

    def refuse(*_: object) -> None:
        raise AssertionError("off the hot path")

    monkeypatch.setattr(session.relay, "_attend", refuse)
    session.far_backend.sendall(b"answer")
    eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.backend.moved)
    assert receive_exactly(session.far_client, 6) == b"answer"
    session.far_backend.shutdown(socket.SHUT_WR)
    eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.backend.end == PASSED)


def test_a_direction_has_its_rounds_once_a_turn(session: Established, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever calls for it: what its source says, room on the other side, and that it was not through."""
    rounds = 0

    def copy(half: Half) -> bool:
        nonlocal rounds
        rounds += half is session.client
        return True

    monkeypatch.setattr(session.relay._transfer, "copy", copy)
    for _ in range(3):
        session.relay.pump(session.client)
    assert rounds == ROUNDS
    for turn in (2, 3):
        assert session.relay.settle()
        session.relay.pump(session.client)
        assert rounds == turn * ROUNDS
    monkeypatch.undo()
    session.relay.settle()
    assert (session.client.state, list(session.relay.again)) == (0, [])


def test_an_end_behind_a_mark_that_epoll_has_not_told_of_yet_is_none(session: Established) -> None:
    """The mark, what follows it and the end come while the direction is being moved."""
    session.far_client.sendall(bytes(READ_SIZE))
    eventually(lambda: session.relay.carry(session.sessions.epoll.poll(0)) == [] and session.client.state & SPLICING)
    assert receive_exactly(session.far_backend, READ_SIZE) == bytes(READ_SIZE)
    session.far_client.send(b"!", socket.MSG_OOB)
    session.far_client.sendall(b"behind it")
    session.far_client.shutdown(socket.SHUT_WR)
    time.sleep(0.02)
    session.relay.pump(session.client)
    session.relay.settle()
    session.far_backend.settimeout(5)
    assert receive_all(session.far_backend) == b"behind it"


def test_a_mark_that_comes_with_the_answer_to_a_dial_stops_nothing(session: Established) -> None:
    """The server has sent much, and urgent data in it, by the time that the dial is known to be through."""

    def answered(half: Half, _: int) -> None:
        half.state = 0
        session.relay.pump(half)

    session.relay.on_dial = answered
    session.backend.state = DIALLING
    session.far_backend.sendall(bytes(READ_SIZE))
    session.far_backend.send(b"!", socket.MSG_OOB)
    session.far_backend.sendall(b"behind it")
    time.sleep(0.02)
    session.relay.carry([(session.backend.fd, select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT)])
    session.relay.settle()
    session.far_client.settimeout(5)
    assert receive_exactly(session.far_client, READ_SIZE + 9) == bytes(READ_SIZE) + b"behind it"
