"""A worker from its start to its end: privileges, limits, drain, death and successors, life without a master."""

import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kpf.net import channel
from kpf.net.credentials import NAMES
from kpf.net.messages import Close, Drain, Reset
from kpf.shm import layout
from kpf.shm.region import Words
from kpf.worker.attempt import Attempt
from kpf.worker.half import Half
from kpf.worker.losing import LosingDials
from kpf.worker.resets import RESETS_AN_ITERATION
from kpf.worker.signals import IGNORED
from kpf.worker.states import DEAD, NAGLING, PASSED
from kpf.worker.sweeper import HALF_CLOSED_LIMIT_MS, ROUND_MS, STEPS
from kpf.worker.timers import Timers
from tests.strangers import stranger
from tests.worker_driver import (
    BlackHole,
    Established,
    Greeter,
    Node,
    Server,
    ask,
    connect,
    echo,
    established,
    eventually,
    node,
    receive_all,
    receive_exactly,
    stop_and_wait,
)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_no_privilege_is_left_and_signals_are_the_masters_business() -> None:
    with node() as made:
        worker = made.workers[0]
        status = status_of(worker.process.pid)
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        if worker.privileges == "none":
            assert "0" not in status["Uid"].split()
            assert status["Groups"] == "" or os.geteuid() != 0
        else:
            assert worker.privileges.startswith("uid ")
        for number in IGNORED:
            worker.process.send_signal(number)
        with Greeter(1) as servers, connect(made.frontend(servers.at)[1]) as sock:
            assert receive_all(sock) == b"\0"


def test_signals_that_go_to_a_process_group_end_no_worker() -> None:
    named = ("HUP", "INT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "PIPE", "IO", "PWR", "STKFLT")
    with Server(echo) as server, node() as made:
        process = made.workers[0].process
        with connect(made.frontend([server.at])[1]) as sock:
            for name in named:
                process.send_signal(getattr(signal, f"SIG{name}"))
            assert ask(sock)
        assert process.poll() is None


def test_no_capability_is_left_where_there_is_no_other_id_to_become() -> None:
    """To become another user takes them all, but the bounding set; here the worker has to give them up itself."""
    with node(uid=0) as made:
        status = status_of(made.workers[0].process.pid)
        assert set(status["Uid"].split()) == {str(os.geteuid())}
        capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert {name: int(status[name], 16) for name in capabilities} == dict.fromkeys(capabilities, 0)


def test_when_memory_runs_out_a_worker_goes_before_its_master() -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with node() as made:
        assert score(made.workers[0].process.pid) == min(score("self") + 100, 1000)


def test_signals_are_ignored_before_anything_is_imported_that_takes_its_time() -> None:
    """The first module of the worker's that is imported ends it by all of them."""
    code = (
        "import runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'kpf.worker.worker':\n"
        f"            for number in {list(map(int, IGNORED))}: signal.raise_signal(number)\n"
        "            print('alive', flush=True); sys.exit()\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('kpf.worker', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("alive\n", 0)


def test_connections_at_an_address_are_reset_and_others_go_on() -> None:
    with Server(echo) as server, node() as made:
        _, here = made.frontend([server.at])
        _, there = made.frontend([server.at], host="127.0.0.2")
        with connect(here) as kept, connect(there) as idle, connect(there) as busy:
            assert all(map(ask, (kept, idle, busy)))
            busy.sendall(b"y")
            made.workers[0].tell(Reset(made.next(), ("127.0.0.2", "2001:db8::1")))
            for sock in (idle, busy):
                with pytest.raises(ConnectionResetError):
                    receive_all(sock)
            assert ask(kept)
            assert made.directory.worker(0).active == 1
        eventually(made.is_quiet)


def test_who_waits_for_a_backend_at_an_address_is_reset_as_well() -> None:
    with BlackHole() as hole, Server(echo) as server, node() as made:
        _, there = made.frontend([hole.at], host="127.0.0.2")
        _, here = made.frontend([server.at])
        with connect(here) as kept, connect(there) as silent, connect(there) as asking:
            asking.sendall(b"x")
            # they are watched by then
            time.sleep(0.6)
            made.workers[0].tell(Reset(made.next(), ("127.0.0.2",)))
            for sock in (silent, asking):
                with pytest.raises(ConnectionResetError):
                    receive_all(sock)
            assert ask(kept)
        eventually(made.is_quiet)


def test_resets_go_on_until_all_are_done() -> None:
    many = 3 * RESETS_AN_ITERATION // 2
    with Greeter(1) as servers, node() as made, ExitStack() as clients:
        servers.hold = True
        _, at = made.frontend(servers.at)
        socks = [clients.enter_context(connect(at)) for _ in range(many)]
        eventually(lambda: made.directory.worker(0).active == many)
        made.workers[0].tell(Reset(made.next(), ("127.0.0.1",)))
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                receive_exactly(sock, 2)
        eventually(made.is_quiet)


def test_the_heart_beats_when_nothing_happens() -> None:
    with node() as made:
        beats = set()
        for _ in range(14):
            beats.add(made.directory.worker(0).heartbeat_ms)
            time.sleep(0.1)
        assert 3 <= len(beats) <= 5


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    with node() as made:
        limits = Path(f"/proc/{made.workers[0].process.pid}/limits").read_text().splitlines()
        soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
        assert soft == hard


def test_at_its_limit_a_worker_pauses_and_goes_on_by_itself() -> None:
    """With 413 descriptors there is room for 31 sessions; the others wait in the queue and are served later."""
    with Greeter(1) as servers, node(descriptors=413) as made:
        servers.hold = True
        slot, at = made.frontend(servers.at)
        clients = [connect(at) for _ in range(60)]
        eventually(lambda: made.directory.worker(0).paused)
        limit = made.directory.worker(0).active
        assert limit == (413 - 32 - 253 - 64 - 1) // 2
        time.sleep(0.3)
        view = made.directory.worker(0)
        assert (view.paused, view.active, view.pauses) == (True, limit, 1)
        busy_ticks = made.workers[0].cpu_ticks()
        time.sleep(0.5)
        assert made.workers[0].cpu_ticks() - busy_ticks <= 2
        for sock in clients[:limit]:
            assert receive_exactly(sock, 1) == b"\0"
            sock.close()
        servers.let_go()
        for sock in clients[limit:]:
            assert receive_exactly(sock, 1) == b"\0"
            sock.close()
        eventually(lambda: made.directory.frontend(slot).total == 60)
        servers.let_go()
        eventually(made.is_quiet)
        eventually(lambda: not made.directory.worker(0).paused)


def test_short_of_descriptors_it_pauses_and_the_client_it_has_is_served_later() -> None:
    # without another id, so that its limit may be changed from here
    with Greeter(1) as servers, node(descriptors=413, uid=os.getuid()) as made:
        servers.hold = True
        slot, at = made.frontend(servers.at)
        pid = made.workers[0].process.pid
        with connect(at) as first:
            receive_exactly(first, 1)
            # one more for the client, none for its backend: the limit is on the number
            used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
            second_free = [number for number in range(413) if number not in used][1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (second_free, 413))
            with connect(at) as second:
                eventually(lambda: made.directory.worker(0).paused)
                assert sum(made.directory.frontend(slot).failed.values()) == 0
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (413, 413))
                assert receive_exactly(second, 1) == b"\0"
            assert not made.directory.members(slot)[0].ejected
        servers.let_go()
        eventually(lambda: not made.directory.worker(0).paused)
        eventually(made.is_quiet)


def test_a_closed_listener_takes_what_is_queued_and_sessions_go_on() -> None:
    with Server(echo) as server, node() as made:
        slot, at = made.frontend([server.at])
        _, other = made.frontend([server.at])
        worker = made.workers[0]
        old = connect(at)
        assert ask(old)
        stop_and_wait(worker.process)
        queued = [connect(at) for _ in range(30)]
        message = Close(made.next(), (slot,))
        channel.send(worker.channel, message)
        worker.process.send_signal(signal.SIGCONT)
        worker.acknowledged(message)
        late = connect(at)
        assert all(ask(sock) for sock in (old, *queued))
        with connect(other) as sock:
            assert ask(sock)
        late.settimeout(0.2)
        late.sendall(b"x")
        with pytest.raises(TimeoutError):
            late.recv(1)
        for sock in (old, late, *queued):
            sock.close()
        eventually(made.is_quiet)


def test_drain_serves_what_is_queued_and_leaves_after_the_last() -> None:
    with Server(echo) as server, node() as made:
        _, at = made.frontend([server.at])
        worker = made.workers[0]
        stop_and_wait(worker.process)
        queued = [connect(at) for _ in range(30)]
        message = Drain(made.next())
        channel.send(worker.channel, message)
        worker.process.send_signal(signal.SIGCONT)
        worker.acknowledged(message)
        assert all(ask(sock) for sock in queued)
        for sock in queued[1:]:
            sock.close()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(0.3)
        assert ask(queued[0])
        queued[0].close()
        assert worker.process.wait(5) == 0


def test_a_successor_serves_what_was_queued_and_starts_at_nought() -> None:
    with Greeter(2) as servers, node() as made:
        servers.hold = True
        slot, at = made.frontend(servers.at)
        lost = [connect(at) for _ in range(10)]
        for sock in lost:
            receive_exactly(sock, 1)
        stop_and_wait(made.workers[0].process)
        queued = [connect(at) for _ in range(200)]
        assert made.directory.worker(0).active == 10
        made.workers[0].end()
        for sock in lost:
            sock.settimeout(2)
            with sock:
                try:
                    assert sock.recv(1) == b""
                except ConnectionResetError:
                    continue
        made.workers[0] = made.spawn(0)
        assert made.directory.worker(0).active == 0
        assert [view.active for view in made.directory.members(slot)] == [0, 0]
        assert (made.directory.frontend(slot).total, made.directory.frontend(slot).active) == (10, 0)
        made.hand_over(made.workers[0], 0, [slot])
        for sock in queued:
            receive_exactly(sock, 1)
            sock.close()
        assert sorted(made.totals(slot)) == [105, 105]
        servers.let_go()
        eventually(made.is_quiet)


def orphan_of(made: Node) -> None:
    made.workers[0].channel.close()


def test_without_a_master_it_serves_until_another_has_taken_over() -> None:
    with Server(echo) as server, node(orphan_timeout_s=20) as made:
        _, at = made.frontend([server.at])
        process = made.workers[0].process
        kept = connect(at)
        orphan_of(made)
        assert ask(kept)
        with connect(at) as sock:
            assert ask(sock)
        with socket.socket(socket.AF_UNIX) as lock:
            lock.bind("\0kpf")
            lock.listen()
            connection = accept_within(lock, 3)
            assert ask(kept)
            connection.close()
        eventually(lambda: made.workers[0].descriptors() <= 7 + 2)
        assert ask(kept)
        with connect(at) as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.recv(1)
        assert process.poll() is None
        kept.close()
        assert process.wait(5) == 0


def accept_within(lock: socket.socket, seconds: float) -> socket.socket:
    lock.settimeout(seconds)
    return lock.accept()[0]


def test_a_stranger_relieves_nobody_and_the_true_master_is_found_beside_it() -> None:
    with Server(echo) as server, node(orphan_timeout_s=20) as made:
        _, at = made.frontend([server.at])
        with stranger(NAMES[0], how="relieves"):
            orphan_of(made)
            # it is asked at once, and again and again
            with pytest.raises(subprocess.TimeoutExpired):
                made.workers[0].process.wait(0.7)
            with connect(at) as sock:
                assert ask(sock)
            with socket.socket(socket.AF_UNIX) as lock:
                lock.bind(NAMES[3])
                lock.listen()
                accept_within(lock, 3).close()
            assert made.workers[0].process.wait(5) == 0


def test_a_new_master_that_dies_early_relieves_nobody() -> None:
    with Server(echo) as server, node(orphan_timeout_s=20) as made:
        _, at = made.frontend([server.at])
        orphan_of(made)
        with socket.socket(socket.AF_UNIX) as lock:
            lock.bind("\0kpf")
            lock.listen()
            assert select.select([lock], [], [], 3)[0]
        # closed with the orphan in its queue
        time.sleep(0.2)
        with connect(at) as sock:
            assert ask(sock)
        with socket.socket(socket.AF_UNIX) as lock:
            lock.bind("\0kpf")
            lock.listen()
            accept_within(lock, 3).close()
            assert made.workers[0].process.wait(5) == 0


def test_nobody_outlives_the_orphan_timeout() -> None:
    with Server(echo) as server, node(orphan_timeout_s=0.5) as made:
        _, at = made.frontend([server.at])
        with connect(at) as sock:
            assert ask(sock)
            orphan_of(made)
            began_s = time.monotonic()
            assert made.workers[0].process.wait(5) == 0
            assert 0.4 < time.monotonic() - began_s < 1.5


def test_a_master_that_is_gone_before_it_has_said_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "kpf.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    ours.close()
    assert process.wait(10) == 0


def test_killed_at_any_time_under_load_the_others_never_wait_for_it() -> None:
    """Two workers, one is killed over and over while clients come: who is not on the dead one is served at once."""
    with Greeter(3) as servers, node(2) as made:
        slot, at = made.frontend(servers.at)
        stop, slowest_s, served = threading.Event(), [0.0], [0]

        def come() -> None:
            while not stop.is_set():
                began_s = time.monotonic()
                try:
                    with connect(at, timeout_s=5) as sock:
                        served[0] += len(receive_all(sock))
                except ConnectionResetError:
                    continue
                slowest_s[0] = max(slowest_s[0], time.monotonic() - began_s)

        clients = [threading.Thread(target=come) for _ in range(3)]
        for thread in clients:
            thread.start()
        for _ in range(8):
            time.sleep(0.05)
            made.workers[1].end()
            made.workers[1] = made.spawn(1)
            made.hand_over(made.workers[1], 1, [slot])
        stop.set()
        for thread in clients:
            thread.join(10)
        eventually(made.is_quiet)
        assert served[0] > 100
        assert slowest_s[0] < 2.0
        assert made.directory.lock_holders() == frozenset()
        before = list(servers.counts)
        for _ in range(300):
            with connect(at) as sock:
                receive_all(sock)
        assert [now - then for now, then in zip(servers.counts, before, strict=True)] == [100, 100, 100]


# the sweeper, in this process


@pytest.fixture
def session() -> Iterator[Established]:
    yield from established()


def rounds(session: Established, number: int) -> None:
    for _ in range(STEPS * number):
        session.clock.now_ms += ROUND_MS // STEPS
        session.sweeper.sweep()
    session.relay.settle()


def test_only_backends_that_last_get_keepalive(session: Established) -> None:
    sock = session.backend
    rounds(session, 1)
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    rounds(session, 1)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not session.client.state & DEAD


def carried(session: Established) -> bool:
    """One turn; True once the client's half has something to tell, or is no more."""
    session.relay.carry(session.sessions.epoll.poll(0))
    session.relay.settle()
    return bool(session.client.moved or session.client.state & DEAD)


def test_bytes_of_small_messages_are_told_once_a_round_and_at_the_end(session: Established) -> None:
    counter = session.client.counter
    for told in (0, 5):
        session.far_client.sendall(b"small")
        eventually(lambda: carried(session))
        assert session.words[counter] == told
        rounds(session, 1)
        assert session.words[counter] == told + 5
    session.far_client.sendall(b"last")
    session.far_client.shutdown(socket.SHUT_WR)
    session.far_backend.shutdown(socket.SHUT_WR)
    eventually(lambda: carried(session) and session.client.state & DEAD)
    assert session.words[counter] == 14


def test_nodelay_comes_with_the_second_send(session: Established) -> None:
    session.client.state = NAGLING
    assert not session.backend.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    session.far_client.sendall(b"second")
    eventually(lambda: carried(session) or not session.client.state)
    assert session.backend.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert receive_exactly(session.far_backend, 6) == b"second"


def test_an_end_alone_needs_no_nodelay(session: Established) -> None:
    session.client.state = NAGLING
    session.far_client.shutdown(socket.SHUT_WR)
    eventually(lambda: carried(session) or session.client.end == PASSED)
    assert session.far_backend.recv(1) == b""
    assert not session.backend.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_half_closed_connection_that_is_silent_for_too_long_is_cut(
    session: Established, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpf.worker.sweeper.HALF_CLOSED_LIMIT_MS", 300)
    time.sleep(0.35)
    rounds(session, 4)
    assert not session.client.state & DEAD, "it is not half-closed"
    session.far_client.shutdown(socket.SHUT_WR)
    session.relay.carry([(session.client.fd, select.EPOLLIN | select.EPOLLRDHUP)])
    session.relay.settle()
    assert session.far_backend.recv(1) == b""
    session.far_backend.sendall(b"late")
    session.relay.carry([(session.backend.fd, select.EPOLLIN)])
    rounds(session, 4)
    assert not session.client.state & DEAD, "it is not silent"
    time.sleep(0.35)
    rounds(session, 1)
    assert session.far_client.recv(4) == b"late"
    with pytest.raises(ConnectionResetError):
        session.far_client.recv(1)


def test_the_half_closed_may_be_silent_for_an_hour() -> None:
    assert HALF_CLOSED_LIMIT_MS == 3_600_000


class Places:
    """Words of which those of one place may be another's as soon as one of them, that says so, has a certain value."""

    def __init__(self, words: Words, place: range, leave: int, at_value: int) -> None:
        self._words, self._place, self._leave, self._at_value = words, place, leave, at_value
        self.is_left = False

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        assert not (self.is_left and at in self._place)
        self._words[at] = value
        self.is_left = self.is_left or (at, value) == (self._leave, self._at_value)


class Told:
    """A balancer that may not be told anything of a member whose place is left."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def __getattr__(self, _: str) -> Callable[..., None]:
        return self._hear

    def _hear(self, *_: object) -> None:
        assert not self._places.is_left


def test_a_session_is_counted_for_its_frontend_until_all_is_told() -> None:
    with contextmanager(established)() as one:
        one.client.moved = one.backend.moved = 5
        places = Places(one.words, range(16, 16 + layout.FRONTEND_COUNTERS), 16 + layout.F_ENDED, 1)
        one.sessions._words = places  # type: ignore[assignment]
        one.sessions.close(one.client)
        assert places.is_left
        assert [one.words[16 + at] for at in (layout.F_BYTES_IN, layout.F_BYTES_OUT)] == [5, 5]


@pytest.mark.parametrize("error", [0, errno.ECONNREFUSED])
def test_a_losing_dial_is_counted_for_its_member_until_all_is_told(error: int) -> None:
    """Its session may be over, and its frontend gone: nothing else keeps the member's place."""
    with contextmanager(established)() as one:
        places = Places(one.words, range(80, 90), 80, 0)
        losing = LosingDials(one.sessions, Told(places), places, one.clock, Timers(one.clock))  # type: ignore[arg-type]
        lost = Half(socket.AF_INET, socket.SOCK_STREAM, 0)
        lost.join(lost.fileno(), 16, one.backend.choice)
        losing.begin(Attempt(lost, 1), 0, "10.0.0.1", 2)
        losing.answered(lost, error)
        assert places.is_left
        # the session's own
        one.words[80] = 1
