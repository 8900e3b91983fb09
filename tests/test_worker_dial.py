"""Which backend a client gets, and what becomes of it when dials fail."""

import fcntl
import os
import resource
import select
import signal
import socket
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.layout import MEMBER_REASONS, Layout, Reason
from kpf.worker.acceptor import Acceptor
from kpf.worker.clock import Clock
from kpf.worker.dialer import EARLY_SIZE, Dialer
from kpf.worker.listener import Listener
from kpf.worker.pipes import PipePool
from kpf.worker.relay import Relay
from kpf.worker.session import LATER_LIMIT, Command, Session
from kpf.worker.sessions import Sessions
from tests.worker_driver import (
    BlackHole,
    Greeter,
    Server,
    Target,
    connect,
    eventually,
    node,
    receive_all,
    receive_exactly,
    refusing,
    reset,
    stop_and_wait,
)


def greeting(at: Target, *, source: str | None = None) -> int:
    with connect(at, source=source) as sock:
        return receive_all(sock)[0]


def expect_reset(at: Target) -> None:
    # it may come as early as connect() looks at the result
    with pytest.raises(ConnectionResetError), connect(at) as sock:
        sock.recv(1)


def kept_in_the_kernel(at: Target) -> int:
    """Bytes that the worker has not read of the connections to its listener, from the kernel's table."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = [line for line in lines if line[3] == "01" and int(line[1].partition(":")[2], 16) == at[1]]
    return sum(int(line[4].partition(":")[2], 16) for line in established)


# the policy


def test_every_member_that_refuses_is_dialled_once() -> None:
    session = Session()
    assert [session.dial_failed(identity, Reason.REFUSED) for identity in (1, 2, 3)] == [Command.DIAL_NEXT] * 3
    assert session.timeout_ms == 250
    assert session.none_left() is Command.GIVE_UP
    assert session.reason is Reason.REFUSED


def test_the_fourth_timeout_is_the_last() -> None:
    session, timeouts = Session(), []
    for identity in (1, 2, 3):
        timeouts.append(session.timeout_ms)
        assert session.dial_failed(identity, Reason.TIMEOUT) is Command.DIAL_NEXT
    timeouts.append(session.timeout_ms)
    assert timeouts == [250, 500, 1000, 2000]
    assert session.dial_failed(4, Reason.TIMEOUT) is Command.GIVE_UP


def test_the_silent_are_asked_again_and_those_that_refused_are_not() -> None:
    session = Session()
    session.dial_failed(1, Reason.REFUSED)
    session.dial_failed(2, Reason.TIMEOUT)
    assert session.tried == [1, 2]
    assert session.none_left() is Command.DIAL_NEXT
    assert session.tried == [1]
    session.dial_failed(2, Reason.REFUSED)
    assert session.none_left() is Command.GIVE_UP


def test_shortage_waits_and_blames_nobody() -> None:
    session = Session()
    commands = [session.dial_failed(1, Reason.RESOURCES) for _ in range(LATER_LIMIT)]
    assert commands == [Command.DIAL_LATER] * (LATER_LIMIT - 1) + [Command.GIVE_UP]
    assert session.tried == []


# the real thing


def test_two_workers_share_the_turn_exactly() -> None:
    with Greeter(3) as servers, node(2) as made:
        slot, at = made.frontend(servers.at)
        for _ in range(3000):
            greeting(at)
        assert servers.counts == [1000, 1000, 1000]
        assert made.totals(slot) == [1000, 1000, 1000]
        assert min(made.directory.worker(slot).total for slot in (0, 1)) > 1000
        eventually(made.is_quiet)


def test_three_thousand_at_once_differ_by_one_at_most() -> None:
    with Greeter(3) as servers, node(2) as made:
        servers.hold = True
        slot, at = made.frontend(servers.at)
        clients = []
        for number in range(3000):
            sock = socket.socket()
            sock.bind((f"127.0.0.{2 + number % 6}", 0))
            sock.setblocking(False)
            sock.connect_ex(at)
            clients.append(sock)
        got = Counter()  # type: Counter[bytes]
        for sock in clients:
            sock.settimeout(10)
            got[receive_exactly(sock, 1)] += 1
        assert max(got.values()) - min(got.values()) <= 1
        assert sum(made.directory.worker(worker).active for worker in (0, 1)) == 3000
        assert sum(view.active for view in made.directory.members(slot)) == 3000
        assert made.directory.frontend(slot).active == 3000
        for sock in clients:
            sock.close()
        servers.let_go()
        eventually(made.is_quiet)
        eventually(lambda: all(worker.descriptors() <= 9 for worker in made.workers))


def test_more_sessions_than_the_table_began_with() -> None:
    with Greeter(1) as servers, node() as made:
        servers.hold = True
        _, at = made.frontend(servers.at)
        clients = [connect(at) for _ in range(2200)]
        for sock in clients:
            assert receive_exactly(sock, 1) == b"\0"
        assert made.workers[0].descriptors() > 4400
        for sock in clients:
            sock.close()
        servers.let_go()
        eventually(made.is_quiet)


def test_who_refuses_is_hidden_and_shut_out() -> None:
    with Greeter(2) as servers, node() as made:
        slot, at = made.frontend([*servers.at, refusing(), refusing()])
        began_s = time.monotonic()
        for _ in range(100):
            greeting(at)
        assert time.monotonic() - began_s < 1
        assert servers.counts == [50, 50]
        view = made.directory.frontend(slot)
        assert view.failed[Reason.REFUSED] == 0
        assert view.retries == 2
        failures = Counter(member.failures[Reason.REFUSED] for member in made.directory.members(slot))
        assert failures == {0: 2, 1: 2}
        assert sum(member.shut_out for member in made.directory.members(slot)) == 2


def test_a_member_that_is_back_is_probed_and_used_again() -> None:
    with Greeter(2) as servers, node() as made:
        slot, at = made.frontend(servers.at)
        absent = servers.at[0]
        servers.listeners[0].close()
        assert [greeting(at) for _ in range(4)] == [1] * 4
        with Greeter(0), socket.create_server(absent) as back:
            time.sleep(1.05)
            back.settimeout(2)

            def serve() -> None:
                for _ in range(2):
                    connection, _ = back.accept()
                    connection.sendall(b"\0")
                    connection.close()

            serving = threading.Thread(target=serve)
            serving.start()
            assert Counter(greeting(at) for _ in range(4)) == {0: 2, 1: 2}
            serving.join()
        assert not any(member.shut_out for member in made.directory.members(slot))


def test_if_all_refuse_the_client_is_reset_at_once_and_counted() -> None:
    with node() as made:
        slot, at = made.frontend([refusing() for _ in range(3)])
        began_s = time.monotonic()
        for _ in range(2):
            expect_reset(at)
        assert time.monotonic() - began_s < 0.2
        assert made.directory.frontend(slot).failed[Reason.REFUSED] == 2
        assert [view.failures[Reason.REFUSED] for view in made.directory.members(slot)] == [2, 2, 2]
        eventually(made.is_quiet)


def test_no_endpoint_is_a_reset_and_counted() -> None:
    with node() as made:
        slot, at = made.frontend([])
        expect_reset(at)
        assert made.directory.frontend(slot).failed[Reason.NO_ENDPOINT] == 1
        eventually(made.is_quiet)


def test_more_members_that_refuse_than_a_stack_is_deep() -> None:
    with Greeter(1) as servers, node() as made:
        port = refusing()[1]
        slot, at = made.frontend([(f"127.1.{index >> 8}.{index & 255}", port) for index in range(2000)])
        expect_reset(at)
        assert made.directory.frontend(slot).retries == 1999
        made.members(slot, servers.at)
        assert greeting(at) == 0


def test_a_black_hole_delays_those_that_meet_it_and_nobody_else() -> None:
    with Greeter(1) as servers, BlackHole() as hole, node() as made:
        slot, at = made.frontend([*servers.at, hole.at])
        times_s = []
        for _ in range(20):
            began_s = time.monotonic()
            greeting(at)
            times_s.append(time.monotonic() - began_s)
        times_s.sort()
        assert 0.24 < times_s[-1] < 0.5
        assert times_s[-2] < 0.1
        assert [view.failures[Reason.TIMEOUT] for view in made.directory.members(slot)].count(1) == 1


def test_others_are_served_while_one_waits_for_a_black_hole() -> None:
    with Greeter(1) as servers, BlackHole() as hole, node() as made:
        _, slow = made.frontend([hole.at])
        _, quick = made.frontend(servers.at)
        with connect(slow):
            began_s = time.monotonic()
            for _ in range(20):
                greeting(quick)
            assert time.monotonic() - began_s < 0.15
        # ours has gone meanwhile; the dial ends by itself
        eventually(made.is_quiet)


def test_all_silent_is_a_reset_after_the_fourth_timeout() -> None:
    with BlackHole() as hole, node() as made:
        slot, at = made.frontend([hole.at])
        began_s = time.monotonic()
        with connect(at) as sock:
            sock.sendall(b"early")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert 3.7 < time.monotonic() - began_s < 4.5
        assert made.directory.frontend(slot).failed[Reason.TIMEOUT] == 1
        assert made.directory.frontend(slot).failed[Reason.REFUSED] == 0
        eventually(made.is_quiet)


def test_what_the_client_sent_early_is_kept_for_the_one_that_answers() -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        heard.append(receive_all(connection))
        connection.sendall(b"ok")

    with Server(listen) as server, BlackHole() as hole, node() as made:
        # sorted by port: the hole has the first turn, or the second
        _, at = made.frontend([server.at, hole.at])
        for _ in range(2):
            with connect(at) as sock:
                sock.sendall(b"e" * 300_000)
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == b"ok"
        assert heard == [b"e" * 300_000] * 2


def test_of_what_is_there_at_accept_little_is_read_before_the_dial_answers() -> None:
    with BlackHole() as hole, node() as made:
        slot, at = made.frontend([hole.at])
        stop_and_wait(made.workers[0].process)
        with connect(at) as sock:
            sock.sendall(b"e" * 60_000)
            made.workers[0].process.send_signal(signal.SIGCONT)
            eventually(lambda: kept_in_the_kernel(at) == 60_000 - EARLY_SIZE)
            hole.open_up()
            with hole.accept(within_s=8) as server:
                server.settimeout(5)
                assert receive_exactly(server, 60_000) == b"e" * 60_000
                server.sendall(b"ok")
            assert receive_all(sock) == b"ok"
        eventually(made.is_quiet)
        assert made.directory.frontend(slot).bytes_in == 60_000


def test_what_came_early_arrives_once_where_there_is_little_room() -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        heard.append(receive_all(connection))

    room = Path("/proc/sys/net/ipv4/tcp_wmem")
    usual = room.read_text()
    # of the node that the tests are on
    room.write_text("4096 4096 4096")
    try:
        with Server(listen) as server, node() as made:
            slot, at = made.frontend([server.at])
            stop_and_wait(made.workers[0].process)
            with connect(at) as sock:
                sock.sendall(bytes(range(250)) * 40)
                made.workers[0].process.send_signal(signal.SIGCONT)
            eventually(lambda: heard)
            eventually(made.is_quiet)
            assert heard == [bytes(range(250)) * 40]
            assert made.directory.frontend(slot).bytes_in == 10_000
    finally:
        room.write_text(usual)


def test_a_client_that_resets_before_it_is_accepted_is_nobodys_failure() -> None:
    ends: list[str] = []

    def listen(connection: socket.socket) -> None:
        try:
            ends.append(receive_all(connection).decode() or "FIN")
        except ConnectionResetError:
            ends.append("reset")

    with Server(listen) as server, node() as made:
        slot, at = made.frontend([server.at])
        stop_and_wait(made.workers[0].process)
        reset(connect(at))
        made.workers[0].process.send_signal(signal.SIGCONT)
        eventually(lambda: ends)
        eventually(made.is_quiet)
        view = made.directory.frontend(slot)
        assert (view.total, view.active, any(view.failed.values())) == (1, 0, False)
        assert made.directory.members(slot)[0].dial_failures == 0
    assert ends == ["reset"]


def test_a_probe_whose_client_has_gone_counts_all_the_same() -> None:
    with Server(lambda _: None) as server, node() as made:
        at_first = refusing()
        slot, at = made.frontend([at_first, server.at])
        for _ in range(2):
            with connect(at) as sock:
                receive_all(sock)
        eventually(lambda: any(view.shut_out for view in made.directory.members(slot)))
        eventually(lambda: not any(view.shut_out for view in made.directory.members(slot)))
        with socket.create_server(at_first):
            stop_and_wait(made.workers[0].process)
            # in turn, so one of them is the probe
            for _ in range(2):
                reset(connect(at))
            made.workers[0].process.send_signal(signal.SIGCONT)
            eventually(lambda: made.directory.frontend(slot).total == 4)
            eventually(made.is_quiet)
            assert not any(view.shut_out for view in made.directory.members(slot))


def test_a_queue_is_shared_out_in_turn() -> None:
    with Greeter(3) as servers, node() as made:
        _, at = made.frontend(servers.at)
        stop_and_wait(made.workers[0].process)
        waiting = [connect(at) for _ in range(90)]
        made.workers[0].process.send_signal(signal.SIGCONT)
        assert Counter(receive_exactly(sock, 1)[0] for sock in waiting) == {0: 30, 1: 30, 2: 30}
        for sock in waiting:
            sock.close()


def test_affinity_over_workers_and_to_who_answers() -> None:
    with Greeter(3) as servers, node(2) as made:
        slot, at = made.frontend(servers.at, affinity_s=60)
        homes = {}
        for number in range(2, 32):
            source = f"127.0.0.{number}"
            seen = {greeting(at, source=source) for _ in range(6)}
            assert len(seen) == 1
            homes[source] = seen.pop()
        assert Counter(homes.values()) == {0: 10, 1: 10, 2: 10}
        view = made.directory.frontend(slot)
        assert (view.affinity_hits, view.pins) == (150, 30)
        servers.listeners[0].close()
        for source, home in homes.items():
            now = {greeting(at, source=source) for _ in range(4)}
            assert len(now) == 1
            assert now == {home} if home else now < {1, 2}


def test_a_short_affinity_ends() -> None:
    with Greeter(3) as servers, node() as made:
        _, at = made.frontend(servers.at, affinity_s=1)
        assert greeting(at) == greeting(at)
        time.sleep(1.05)
        homes = []
        for _ in range(2):
            homes.append(greeting(at))
            time.sleep(1.05)
        assert homes[0] != homes[1]


def test_reasons_of_members_fit_their_counters() -> None:
    assert [int(reason) for reason in MEMBER_REASONS] == list(range(5))


# in this process, where the order of things can be chosen


@dataclass
class Dialling:
    """A client whose only endpoint has not answered yet, and that endpoint."""

    hole: BlackHole
    far_client: socket.socket
    directory: Directory
    slot: int
    layout: Layout
    sessions: Sessions
    relay: Relay
    dialer: Dialer
    clock: Clock

    def answer(self) -> socket.socket:
        """The endpoint answers and speaks first."""
        self.hole.open_up()
        server = self.hole.accept(within_s=3)
        server.sendall(b"220 ready")
        server.settimeout(5)
        time.sleep(0.02)
        return server

    def turn(self) -> list[tuple[int, int]]:
        batch = self.sessions.epoll.poll(0)
        self.relay.carry(batch)
        self.relay.settle()
        return batch


@pytest.fixture
def dialling() -> Iterator[Dialling]:
    with node() as made, BlackHole() as hole, select.epoll() as epoll:
        region, directory = made.region, made.directory
        slot = directory.claim()
        made.members(slot, [hole.at])
        record, clock = region.layout.worker(0), Clock(1000)
        sessions = Sessions(epoll, region.words, record, PipePool(1))
        relay = Relay(sessions, region.words, PipePool(1))
        dialer = Dialer(sessions, relay, Balancer(region, 0), region.words, clock)
        acceptor = Acceptor(sessions, dialer, clock, region, worker=0, pipes=0)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            acceptor.open(os.dup(listening.fileno()), slot)
            far = connect(listening.getsockname())
            assert acceptor.accept(next(iter(acceptor.listeners.values())), 1) == 1
            acceptor.close()
            acceptor.settle()
        far.settimeout(5)
        made_up = Dialling(hole, far, directory, slot, region.layout, sessions, relay, dialer, clock)
        yield made_up
        far.close()
        # a dial that nobody answers ends with its fourth timeout
        for _ in range(10):
            clock.now_ms += 2000
            dialer.expire()
            made_up.turn()
            time.sleep(0.005)
        assert sessions.active == directory.members(slot)[0].active == directory.frontend(slot).active == 0


def test_an_answer_that_brings_bytes_along_is_one_event(dialling: Dialling) -> None:
    dialling.far_client.sendall(b"early")
    assert dialling.turn() == []
    with dialling.answer() as server:
        ((_, events),) = dialling.turn()
        assert events & select.EPOLLIN
        assert events & select.EPOLLOUT
        assert receive_exactly(dialling.far_client, 9) == b"220 ready"
        dialling.turn()
        assert receive_exactly(server, 5) == b"early"


def test_nothing_more_is_read_from_the_client_before_the_dial_answers(dialling: Dialling) -> None:
    dialling.far_client.sendall(b"early")
    time.sleep(0.02)
    dialling.turn()
    not_read = fcntl.ioctl(dialling.far_client, termios.TIOCOUTQ, b"\0" * 4)
    assert struct.unpack("i", not_read) == (0,), "it was not even delivered"
    assert dialling.directory.frontend(dialling.slot).bytes_in == 0


def test_a_worker_that_was_late_does_not_blame_the_endpoint(dialling: Dialling) -> None:
    """It was stopped, or the machine was: the time of the dial is over, and the answer lies there."""
    with dialling.answer():
        dialling.clock.now_ms += 300
        dialling.dialer.expire()
        (member,) = dialling.directory.members(dialling.slot)
        assert (member.shut_out, member.dial_failures, member.total) == (False, 0, 1)
        dialling.turn()
        assert receive_exactly(dialling.far_client, 9) == b"220 ready"


def test_a_dial_that_fails_on_a_descriptor_beyond_all_so_far(dialling: Dialling) -> None:
    """The table of sessions grows for it before anything can fail."""
    sessions = dialling.sessions
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = connect(listening.getsockname())
            near, _ = listening.accept()
            beyond = fcntl.fcntl(near, fcntl.F_DUPFD, len(sessions.halves))
            near.close()
            empty = dialling.directory.claim()
            listener = Listener(os.dup(listening.fileno()), empty, layout=dialling.layout, worker=0)
            sessions.count(1)
            dialling.dialer.begin(listener, [(beyond, "127.0.0.1")])
            dialling.relay.settle()
            with pytest.raises(ConnectionResetError):
                far.recv(1)
            far.close()
            listener.sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
