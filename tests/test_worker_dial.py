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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.health import LOSING_DIAL_MS
from kpf.shm.layout import FOR_MASK, HEALTH, MEMBER_REASONS, SLOT_MASK, Layout, Reason
from kpf.shm.observer import Took
from kpf.worker.acceptor import PAUSE_MS, Acceptor
from kpf.worker.clock import Clock
from kpf.worker.dialer import EARLY_DATA_BYTES, Dialer
from kpf.worker.listening import ListeningSocket
from kpf.worker.pipes import PipePool
from kpf.worker.racing import DIALS_AN_ITERATION
from kpf.worker.relay import Relay
from kpf.worker.retry import (
    GIVE_UP_MS,
    LATER_LIMIT,
    PARALLEL,
    RETRIES,
    RETRIES_EJECTED,
    Command,
    RetryState,
    next_ms,
)
from kpf.worker.sessions import Sessions
from tests.worker_driver import (
    BlackHole,
    Greeter,
    Node,
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
    session = RetryState()
    assert [session.dial_failed(identity, Reason.REFUSED) for identity in (1, 2, 3)] == [Command.DIAL_NEXT] * 3
    assert session.tried == {1, 2, 3}
    assert session.reason is Reason.REFUSED
    assert session.silent == []


def test_the_next_is_dialled_beside_after_what_is_normal_for_the_first() -> None:
    assert next_ms([1000], 250) == 1250
    assert next_ms([1000], 550) == 1550
    assert next_ms([1000, 1550], 550) == 1800


def test_as_many_as_may_be_dialled_at_once_wait_for_the_oldest() -> None:
    began_ms = [1000 + 250 * number for number in range(PARALLEL)]
    assert next_ms(began_ms[:-1], 250) == began_ms[-1]
    assert next_ms(began_ms, 250) == 1000 + LOSING_DIAL_MS


@pytest.mark.parametrize(("is_ejected", "bound"), [(False, RETRIES), (True, RETRIES_EJECTED)])
def test_retries_are_bounded(is_ejected: bool, bound: int) -> None:
    session, may = RetryState(), []
    for _ in range(bound + 1):
        may.append(session.may_retry)
        session.retried(is_ejected=is_ejected)
    assert may == [True] * bound + [False]


def test_shortage_waits_and_blames_nobody() -> None:
    session = RetryState()
    commands = [session.dial_failed(1, Reason.RESOURCES) for _ in range(LATER_LIMIT)]
    assert commands == [Command.DIAL_LATER] * (LATER_LIMIT - 1) + [Command.GIVE_UP]
    assert session.tried == set()


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
        assert sum(member.ejected for member in made.directory.members(slot)) == 2


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
        assert not any(member.ejected for member in made.directory.members(slot))


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
        assert made.directory.frontend(slot).retries == RETRIES
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
        # within twice its patience the first one that met it was not sure yet
        assert times_s[-3] < 0.1
        eventually(made.is_quiet)
        met = sum(time_s > 0.1 for time_s in times_s)
        assert [view.failures[Reason.TIMEOUT] for view in made.directory.members(slot)].count(met) == 1


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
            eventually(lambda: kept_in_the_kernel(at) == 60_000 - EARLY_DATA_BYTES)
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
        eventually(lambda: any(view.ejected for view in made.directory.members(slot)))
        eventually(lambda: not any(view.ejected for view in made.directory.members(slot)))
        with socket.create_server(at_first):
            stop_and_wait(made.workers[0].process)
            # in turn, so one of them is the probe
            for _ in range(2):
                reset(connect(at))
            made.workers[0].process.send_signal(signal.SIGCONT)
            eventually(lambda: made.directory.frontend(slot).total == 4)
            eventually(made.is_quiet)
            assert not any(view.ejected for view in made.directory.members(slot))


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
        assert (view.affinity_hits, view.affinity_entries) == (150, 30)
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
    """A client whose endpoints have not answered yet, and one of those."""

    made: Node
    hole: BlackHole
    far_client: socket.socket
    directory: Directory
    slot: int
    layout: Layout
    sessions: Sessions
    relay: Relay
    dialer: Dialer
    acceptor: Acceptor
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

    def wait(self, ms: int) -> None:
        """So much later, by the clock of the worker."""
        self.clock.now_ms += ms
        self.dialer.expire()
        self.turn()

    def under_way(self) -> int:
        return sum(view.active for view in self.directory.members(self.slot))

    def is_told(self) -> bool:
        """There is something for the client to read."""
        poll = select.poll()
        poll.register(self.far_client, select.POLLIN)
        return bool(poll.poll(0))

    def is_reset(self) -> bool:
        if not self.is_told():
            return False
        try:
            return not self.far_client.recv(1)
        except ConnectionResetError:
            return True

    def health(self) -> list[int]:
        """The members' health words, by the clock of the worker."""
        identities = [view.identity for view in self.directory.members(self.slot)]
        return [self.made.region.words[self.layout.member(one & SLOT_MASK) + HEALTH] for one in identities]


@contextmanager
def dialling_to(made: Node, hole: BlackHole, targets: Sequence[Target], *, affinity_s: int = 0) -> Iterator[Dialling]:
    region, directory = made.region, made.directory
    slot = directory.claim(b"")
    made.members(slot, targets, affinity_s=affinity_s)
    with select.epoll() as epoll:
        record, clock = region.layout.worker(0), Clock(1000)
        sessions = Sessions(epoll, region.words, record, PipePool(1), clock)
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
        made_up = Dialling(made, hole, far, directory, slot, region.layout, sessions, relay, dialer, acceptor, clock)
        yield made_up
        far.close()
        # a dial that nobody answers ends, and so does what it teaches
        for _ in range(3):
            made_up.wait(GIVE_UP_MS)
            time.sleep(0.005)
            made_up.turn()
        assert sessions.active == sessions.extra == made_up.under_way() == directory.frontend(slot).active == 0


@pytest.fixture
def dialling() -> Iterator[Dialling]:
    with node() as made, BlackHole() as hole, dialling_to(made, hole, [hole.at]) as made_up:
        yield made_up


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


def test_how_long_a_dial_takes_and_a_connection_lasts_is_counted(dialling: Dialling) -> None:
    dialling.wait(20)
    assert not any(dialling.directory.frontend(dialling.slot).dials.buckets)
    with dialling.answer():
        dialling.turn()
        view = dialling.directory.frontend(dialling.slot)
        assert view.dials == Took((0, 0, 0, 1, *[0] * 6), 20)
        assert not any(view.lasted.buckets)
        dialling.wait(1000)
    dialling.far_client.close()
    eventually(lambda: dialling.turn() == [] and not dialling.sessions.active)
    assert dialling.directory.frontend(dialling.slot).lasted == Took((0, 0, 0, 0, 0, 1, *[0] * 8), 1020)


def test_an_endpoint_that_is_silent_is_given_up_after_a_minute(dialling: Dialling) -> None:
    dialling.wait(250)
    for _ in range(59):
        dialling.wait(1000)
    assert not dialling.is_reset()
    dialling.wait(750)
    assert dialling.is_reset()
    assert dialling.directory.frontend(dialling.slot).failed[Reason.TIMEOUT] == 1
    (member,) = dialling.directory.members(dialling.slot)
    # nobody else has answered: it may be the network
    assert (dialling.health(), member.failures[Reason.TIMEOUT], member.active) == ([0], 1, 0)


def test_a_client_that_resets_while_it_waits_is_let_go(dialling: Dialling) -> None:
    dialling.far_client.sendall(b"early")
    dialling.wait(250)
    assert dialling.under_way() == dialling.sessions.active == 1
    reset(dialling.far_client)
    eventually(lambda: dialling.turn() and not dialling.sessions.active)
    assert dialling.under_way() == 0
    view = dialling.directory.frontend(dialling.slot)
    assert (view.active, any(view.failed.values())) == (0, False)
    assert dialling.directory.members(dialling.slot)[0].dial_failures == 0


def test_a_client_that_has_said_nothing_and_ends_is_let_go(dialling: Dialling) -> None:
    dialling.far_client.shutdown(socket.SHUT_WR)
    dialling.turn()
    # that it is watched costs a system call, so only those that wait for long are
    assert dialling.under_way() == 1
    dialling.wait(250)
    eventually(lambda: dialling.turn() or not dialling.sessions.active)
    assert dialling.under_way() == dialling.sessions.active == 0


def test_a_client_that_has_sent_its_request_and_its_end_is_served(dialling: Dialling) -> None:
    dialling.wait(250)
    dialling.far_client.sendall(b"request")
    dialling.far_client.shutdown(socket.SHUT_WR)
    eventually(lambda: dialling.turn())
    dialling.wait(1000)
    with dialling.answer() as server:
        eventually(lambda: not dialling.turn())
        assert receive_all(server) == b"request"
        assert receive_exactly(dialling.far_client, 9) == b"220 ready"


def test_a_shortage_beside_a_dial_does_not_end_it(dialling: Dialling) -> None:
    """No descriptor for another dial: the first one goes on, for as long as that lasts."""
    dialling.made.members(dialling.slot, [dialling.hole.at, refusing()])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limit[1]))
    try:
        for _ in range(LATER_LIMIT + 5):
            dialling.wait(250)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert dialling.sessions.short
    assert dialling.under_way() == 1
    assert not dialling.is_reset()
    dialling.wait(250)
    refused = [view.failures[Reason.REFUSED] for view in dialling.directory.members(dialling.slot)]
    assert sorted(refused) == [0, 1]


def test_dials_of_one_client_at_once_are_bounded_and_all_are_counted() -> None:
    with ExitStack() as stack:
        holes = [stack.enter_context(BlackHole()) for _ in range(PARALLEL + 3)]
        made, servers = stack.enter_context(node()), stack.enter_context(Greeter(1))
        silent = [hole.at for hole in holes]
        dialling = stack.enter_context(dialling_to(made, holes[0], silent))
        counts = []
        for _ in range(20):
            dialling.wait(250)
            counts.append(dialling.under_way())
        assert counts[:PARALLEL] == [*range(2, PARALLEL + 1), PARALLEL]
        assert max(counts) == PARALLEL
        assert dialling.sessions.extra == PARALLEL - 1
        # all have been dialled; then somebody joins
        assert dialling.directory.frontend(dialling.slot).retries == PARALLEL + 2
        made.members(dialling.slot, [*silent, *servers.at])
        dialling.wait(1000)
        eventually(lambda: (dialling.turn(), dialling.is_told())[1])
        assert receive_exactly(dialling.far_client, 1) == b"\0"
        # those that were given up for others are judged at once, the others when they have been heard out
        assert sum(health != 0 for health in dialling.health()) >= 3
        dialling.wait(LOSING_DIAL_MS)
        views = dialling.directory.members(dialling.slot)
        assert sorted(view.dial_failures for view in views) == [0, *[1] * len(holes)]
        assert [bool(health & FOR_MASK) for health in dialling.health()] == [
            view.address.port != servers.at[0][1] for view in views
        ]


def test_a_pin_moves_to_the_one_that_answered_once_silence_is_proven() -> None:
    with (
        Greeter(1) as servers,
        BlackHole() as hole,
        node() as made,
        dialling_to(made, hole, [hole.at], affinity_s=60) as dialling,
    ):
        made.members(dialling.slot, [hole.at, *servers.at], affinity_s=60)
        dialling.wait(250)
        eventually(lambda: (dialling.turn(), dialling.is_told())[1])

        def home() -> Target:
            choice = Balancer(made.region, 0).pick(dialling.slot, "127.0.0.1", (), dialling.clock.now_ms)
            assert choice is not None
            made.region.words[choice.active] -= 1
            return choice.address

        assert home() == hole.at
        dialling.wait(250)
        assert dialling.health().count(0) == 1, "it is suspected"
        assert home() == hole.at
        dialling.wait(LOSING_DIAL_MS - 250)
        assert home() == servers.at[0]
        view = dialling.directory.frontend(dialling.slot)
        assert (view.affinity_entries, view.affinity_hits) == (1, 3)


def test_what_loses_beyond_the_bound_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpf.worker.losing.LOSING_DIALS", 0)
    with Greeter(1) as servers, BlackHole() as hole, node() as made, dialling_to(made, hole, [hole.at]) as dialling:
        made.members(dialling.slot, [hole.at, *servers.at])
        dialling.wait(250)
        eventually(lambda: (dialling.turn(), dialling.is_told())[1])
        dialling.far_client.close()
        eventually(lambda: (dialling.turn(), not dialling.under_way())[1])
        assert dialling.sessions.extra == 0
        assert dialling.health() == [0, 0]
        assert not any(view.dial_failures for view in dialling.directory.members(dialling.slot))


def test_dials_beside_others_count_against_the_limit_of_sessions(dialling: Dialling) -> None:
    sessions, acceptor = dialling.sessions, dialling.acceptor
    with socket.create_server(("127.0.0.1", 0)) as listening, connect(listening.getsockname()) as far:
        acceptor.open(os.dup(listening.fileno()), dialling.slot)
        listener = next(iter(acceptor.listeners.values()))
        room = acceptor.limit - sessions.active
        sessions.extra += 2 * room
        assert acceptor.accept(listener, 1) == 0
        assert acceptor.is_unsettled
        sessions.extra -= 2 * room
        dialling.clock.now_ms += PAUSE_MS
        acceptor.settle()
        assert acceptor.accept(listener, 1) == 1
        reset(far)
        listener.sock.close()


def test_a_turn_of_the_loop_makes_so_many_dials_and_no_more() -> None:
    with node() as made, BlackHole() as hole:
        port = refusing()[1]
        members = [(f"127.1.{index >> 8}.{index & 255}", port) for index in range(4 * DIALS_AN_ITERATION)]
        with dialling_to(made, hole, members) as dialling:
            retries = []
            while not dialling.is_reset():
                retries.append(dialling.directory.frontend(dialling.slot).retries)
                assert dialling.clock.due_ms <= dialling.clock.now_ms
                dialling.wait(0)
            steps = [after - before for before, after in pairwise([0, *retries])]
            assert len(steps) >= 4
            assert max(steps) <= DIALS_AN_ITERATION


def test_a_worker_that_was_late_does_not_blame_the_endpoint(dialling: Dialling) -> None:
    """It was stopped, or the machine was: the time of the dial is over, and the answer lies there."""
    with dialling.answer():
        dialling.clock.now_ms += 300
        dialling.dialer.expire()
        (member,) = dialling.directory.members(dialling.slot)
        assert (dialling.health(), member.dial_failures, member.total) == ([0], 0, 1)
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
            empty = dialling.directory.claim(b"")
            listener = ListeningSocket(os.dup(listening.fileno()), empty, layout=dialling.layout, worker=0)
            sessions.count(1)
            dialling.dialer.begin(listener, [(beyond, "127.0.0.1")])
            dialling.relay.settle()
            with pytest.raises(ConnectionResetError):
                far.recv(1)
            far.close()
            listener.sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
