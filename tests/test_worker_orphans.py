"""Workers without a master hand over what they have: real workers, and successors that are driven from here."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from kpf import __version__
from kpf.net import channel
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.net.credentials import NAMES, network_namespace
from kpf.net.handover import (
    HANDOVER,
    MEMORY,
    PROTOCOL,
    WORKER,
    Ask,
    Complete,
    Left,
    Message,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Sockets,
    Taken,
)
from kpf.net.messages import Configure, Done, Drain, Hold, Listen, Reset
from kpf.shm.layout import GENERATION, MUST_END, PID
from kpf.worker.acceptor import CLOSE_LIMIT_MS, DRAINS_AN_ITERATION, Acceptor
from kpf.worker.conversation import NOT_NOW, PAUSE_LIMIT_MS, SILENCE_MS, Conversation, Estate
from kpf.worker.orphan import RETRY_MS
from tests.worker_driver import (
    Greeter,
    Node,
    Server,
    Target,
    WorkerProcess,
    ask,
    connect,
    echo,
    eventually,
    node,
    receive_all,
    receive_exactly,
)

OURS = Ask(PROTOCOL, __version__, network_namespace())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "handover.sock")


FILES = MEMORY, HANDOVER


@contextmanager
def family(path: str, workers: int = 1, *, orphan_timeout_s: float = 20.0) -> Iterator[Node]:
    """A node whose workers know where to wait for a successor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as handover:
        handover.bind(path)
        handover.listen(100)
        with node(workers, orphan_timeout_s=orphan_timeout_s, handover=handover) as made:
            yield made


def orphan(made: Node) -> None:
    """The master dies: nothing is left of what it had open."""
    assert made.handover is not None
    made.handover.close()
    for group in made.listeners.values():
        for listener in group:
            listener.close()
    for worker in made.workers:
        worker.channel.close()


class Successor:
    """Its connection to one of the orphans, and what it has got there."""

    def __init__(self, path: str, connected: socket.socket | None = None) -> None:
        self.channel = connected or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(5)
        if connected is None:
            self.channel.connect(path)
        self.sockets: dict[int, socket.socket] = {}

    def say(self, message: Message | Reset) -> None:
        channel.send(self.channel, message)

    def hear(self) -> channel.Message:
        message, descriptors = channel.receive(self.channel)
        if isinstance(message, Sockets):
            listening = [socket.socket(fileno=one) for one in descriptors]
            self.sockets |= dict(zip(message.frontends, listening, strict=True))
        else:
            for one in descriptors:
                os.close(one)
        return message

    def offered(self) -> Offer:
        self.say(OURS)
        offer = self.hear()
        assert isinstance(offer, Offer)
        self.offer = offer
        return offer

    def take(self) -> None:
        """All listening sockets."""
        self.offered()
        while not isinstance(message := self.hear(), Complete):
            assert isinstance(message, Sockets)
            assert message.index == self.offer.index
            self.say(Received())

    def taken(self) -> None:
        self.say(Taken())
        assert self.hear() == Left()

    def is_dropped(self) -> bool:
        """By the orphan."""
        try:
            return self.channel.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        for one in (self.channel, *self.sockets.values()):
            one.close()


@contextmanager
def successor(path: str) -> Iterator[Successor]:
    with closing(Successor(path)) as made:
        yield made


def serves(at: Target) -> bool:
    with connect(at, timeout_s=5.0) as sock:
        return ask(sock)


def is_left_alone(at: Target) -> bool:
    """Whoever connects there waits in the queue."""
    with connect(at) as sock:
        sock.settimeout(0.2)
        sock.sendall(b"x")
        try:
            return sock.recv(1) != b"x"
        except TimeoutError:
            return True


class Clients:
    """Connections that come one after another all the time; `failed` has what went wrong."""

    def __init__(self, at: Target, number: int = 3) -> None:
        self.served, self.failed, self._at, self._over = 0, list[BaseException](), at, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with connect(self._at, timeout_s=5.0) as sock:
                    assert ask(sock)
            except (OSError, EOFError, AssertionError) as error:
                self.failed.append(error)
            self.served += 1

    def more(self, number: int = 60) -> None:
        seen = self.served
        eventually(lambda: self.served >= seen + number)

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)


def heir(made: Node, found: Successor) -> WorkerProcess:
    """A worker of the new master in the place of this orphan."""
    said = found.offer
    slot = said.workers + said.index
    configure = Configure(1, slot, said.workers, made.uid, made.uid, 5.0, said.index, said.generation + 1)
    worker = WorkerProcess(configure, made.region)
    worker.tell(Listen(2, tuple(found.sockets)), [one.fileno() for one in found.sockets.values()])
    return worker


def test_a_successor_adopts_all_orphans_and_no_client_notices(path: str) -> None:
    with Server(echo) as server, family(path, 3) as made:
        assert made.directory.take_worker_slots(3) == (3, 4, 5)
        slot, at = made.frontend([server.at])
        kept = connect(at)
        assert ask(kept)
        with closing(Clients(at)) as clients:
            clients.more()
            orphan(made)
            clients.more()
            found = [Successor(path) for _ in range(3)]
            for one in found:
                one.take()
            assert sorted(one.offer.index for one in found) == [0, 1, 2]
            heirs = [heir(made, one) for one in found]
            clients.more()
            for one in found:
                one.taken()
            seen = [made.directory.worker(place).total for place in range(3)]
            clients.more(150)
            assert [made.directory.worker(place).total for place in range(3)] == seen
            assert all(made.directory.worker(place).total for place in range(3, 6))
        assert clients.failed == []
        assert ask(kept)
        kept.close()
        assert [worker.process.wait(5) for worker in made.workers] == [0, 0, 0]
        assert made.directory.frontend(slot).total == clients.served + 1
        for one in found:
            one.close()
        for worker in heirs:
            worker.end()


def test_what_a_worker_offers(path: str) -> None:
    with family(path) as made, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as handover:
        handover.bind(f"{path}2")
        handover.listen()
        (place,) = made.directory.take_worker_slots(1)
        configure = Configure(1, place, 4, made.uid, made.uid, 5.0, index=2, generation=7)
        worker = WorkerProcess(configure, made.region, handover=handover)
        worker.channel.close()
        with successor(f"{path}2") as found:
            offer, pid = found.offered(), worker.process.pid
            began_ms = offer.began_ms
            assert offer == Offer(PROTOCOL, __version__, WORKER, pid, 7, 4, 2, place, False, began_ms, FILES)
            assert 0 <= time.monotonic_ns() // 1_000_000 - began_ms < 60_000
        words, record = made.region.words, made.region.layout.worker(place)
        assert (words[record + PID], words[record + GENERATION]) == (pid, 7)
        worker.end()


def test_the_memory_and_all_sockets_come_in_as_many_messages_as_it_takes(path: str) -> None:
    many = 2 * MAX_DESCRIPTORS + 1
    with Greeter(1) as servers, family(path) as made:
        places = dict(made.frontend(servers.at) for _ in range(many))
        orphan(made)
        with successor(path) as found:
            found.say(OURS)
            offer, descriptors = channel.receive(found.channel)
            assert isinstance(offer, Offer)
            memory = descriptors[offer.descriptors.index(MEMORY)]
            assert os.fstat(memory).st_ino == os.fstat(made.region.descriptor).st_ino
            for one in descriptors:
                os.close(one)
            sizes: list[int] = []
            while not isinstance(found.hear(), Complete):
                sizes.append(len(found.sockets) - sum(sizes))
                found.say(Received())
            assert sizes == [MAX_DESCRIPTORS, MAX_DESCRIPTORS, 1]
            assert {slot: one.getsockname() for slot, one in found.sockets.items()} == places


@pytest.mark.parametrize("how_far", ["connected", "asked", "half of it", "all of it", "paused"])
def test_a_successor_that_dies_half_way_has_changed_nothing(path: str, how_far: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        if how_far == "half of it":
            for _ in range(MAX_DESCRIPTORS):
                made.frontend([server.at])
        kept = connect(at)
        assert ask(kept)
        orphan(made)
        with successor(path) as dying:
            if how_far in ("asked", "half of it"):
                dying.offered()
            if how_far == "half of it":
                assert isinstance(dying.hear(), Sockets)
                dying.say(Received())
            if how_far in ("all of it", "paused"):
                dying.take()
            if how_far == "paused":
                dying.say(Pause())
                assert dying.hear() == Paused()
                assert is_left_alone(at)
        with closing(kept):
            assert ask(kept)
            assert serves(at)
            with successor(path) as found:
                found.take()
                assert serves(at)
                found.taken()
                assert ask(kept)
        assert made.workers[0].process.wait(5) == 0


def test_a_successor_that_talks_nonsense_is_dropped(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        orphan(made)
        frames: list[bytes] = [
            b"\xff" * 1000,
            b"x" * 100_000,
            b'["Ask", {"protocol": "1"}]',
            b'["Received", {}]',
            b'["Taken", {}]',
            b'["Pause", {}]',
            b'["Drain", {"number": 1}]',
            b'["Reset", {"number": 1, "addresses": ["127.0.0.1"]}]',
        ]
        with connect(at) as kept:
            assert ask(kept)
            descriptors = made.workers[0].descriptors()
            for frame in frames:
                with successor(path) as found:
                    found.channel.send(frame)
                    assert found.is_dropped(), frame
            for nonsense in (b'["Taken", {}]', b'["Ask", {"protocol": 1}]', b"[]"):
                with successor(path) as found:
                    found.offered()
                    found.hear()
                    found.channel.send(nonsense)
                    assert found.is_dropped(), nonsense
            with successor(path) as found:
                channel.send(found.channel, Listen(1, (0, 0)), [0, 0])
                assert found.is_dropped()
            assert ask(kept)
            assert serves(at)
            with successor(path) as found:
                found.take()
                assert found.offer.accepts
            eventually(lambda: made.workers[0].descriptors() == descriptors)


def test_one_of_another_protocol_or_network_namespace_is_refused(path: str) -> None:
    with family(path) as made:
        orphan(made)
        for question, reason in ((Ask(PROTOCOL + 1), "protocol 1, not 2"), (Ask(PROTOCOL, "", (1, 2)), "namespace")):
            with successor(path) as found:
                found.say(question)
                answer = found.hear()
                assert isinstance(answer, Refusal)
                assert reason in answer.reason
                assert found.is_dropped()


def test_whoever_is_silent_is_dropped_and_the_next_one_is_heard(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        orphan(made)
        with successor(path) as silent, successor(path) as other:
            begun_s = time.monotonic()
            other.say(OURS)
            for one in (silent, other):
                one.channel.settimeout(15)
            assert serves(at)
            assert silent.is_dropped()
            assert time.monotonic() - begun_s > SILENCE_MS / 1000 * 0.75
            assert isinstance(other.hear(), Offer)
            assert serves(at)


def test_the_second_of_two_successors_waits(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        orphan(made)
        with successor(path) as first, successor(path) as second:
            first.take()
            second.say(OURS)
            second.channel.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.hear()
            first.channel.close()
            second.channel.settimeout(5)
            assert isinstance(second.hear(), Offer)
        assert serves(at)


@pytest.fixture
def open_to_all() -> Iterator[str]:
    """A path that anybody may connect to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield f"{folder}/handover.sock"


# prints what it was answered, or why there is no stranger
STRANGER = """
import os, socket, sys
try:
    os.setuid(1234)
except OSError:
    sys.exit("nobody else is to be had")
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.settimeout(5)
    sock.connect(sys.argv[1])
    try:
        sock.send(sys.argv[2].encode())
        print(sock.recv(100))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


def test_a_stranger_is_not_heard(open_to_all: str) -> None:
    said = f'["Ask", {{"protocol": {PROTOCOL}}}]'
    with Server(echo) as server, family(open_to_all) as made:
        _, at = made.frontend([server.at])
        os.chmod(open_to_all, 0o666)
        orphan(made)
        command = [sys.executable, "-c", STRANGER, open_to_all, said]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if "nobody" in done.stderr:
            pytest.skip(done.stderr)
        assert done.stdout == "b''\n", done.stderr
        assert serves(at)
        with successor(open_to_all) as found:
            found.take()


def test_while_paused_nothing_is_accepted_and_what_is_queued_is_the_successors(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        made.directory.take_worker_slots(1)
        _, at = made.frontend([server.at])
        kept = connect(at)
        assert ask(kept)
        orphan(made)
        with successor(path) as found:
            found.take()
            found.say(Pause())
            assert found.hear() == Paused()
            queued = [connect(at) for _ in range(20)]
            assert ask(kept)
            found.channel.settimeout(CLOSE_LIMIT_MS / 1000 * 0.75)
            found.taken()
            assert made.directory.worker(0).total == 1
            worker = heir(made, found)
            assert all(map(ask, queued))
            assert made.directory.worker(1).total == 20
            for one in (kept, *queued):
                one.close()
        assert made.workers[0].process.wait(5) == 0
        worker.end()


def test_a_pause_lasts_until_the_master_takes_it_back_or_is_gone(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        for is_master_gone in (False, True):
            made.workers[0].tell(Hold(made.next(), True))
            with connect(at) as queued:
                queued.sendall(b"x")
                queued.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    queued.recv(1)
                queued.settimeout(5)
                if is_master_gone:
                    orphan(made)
                else:
                    made.workers[0].tell(Hold(made.next(), False))
                assert receive_exactly(queued, 1) == b"x"


def test_after_a_short_pause_who_is_queued_is_served_at_once(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        took_s = []
        for _ in range(5):
            made.workers[0].tell(Hold(made.next(), True))
            with connect(at) as queued:
                queued.sendall(b"x")
                made.workers[0].tell(Hold(made.next(), False))
                began_s = time.monotonic()
                assert receive_exactly(queued, 1) == b"x"
                took_s.append(time.monotonic() - began_s)
        # as a pause for want of something it would take 100 ms
        assert min(took_s) < 0.05


def test_once_taken_a_pause_is_for_good_even_if_the_successor_leaves_at_once(path: str) -> None:
    # more than are closed in one iteration
    many = 2 * DRAINS_AN_ITERATION + 1
    with Greeter(1) as servers, family(path) as made:
        places = [made.frontend(servers.at)[1] for _ in range(many)]
        orphan(made)
        with successor(path) as found:
            found.take()
            found.say(Pause())
            assert found.hear() == Paused()
            queued = [connect(at) for at in places]
            found.say(Taken())
            found.channel.close()
            assert made.workers[0].process.wait(5) == 0
            assert made.directory.worker(0).total == 0
            for one in queued:
                one.close()


def test_who_was_leaving_when_its_master_died_waits_for_nobody(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        with connect(at) as kept:
            assert ask(kept)
            made.workers[0].tell(Drain(made.next()))
            orphan(made)
            eventually(lambda: is_refused(path))
            assert ask(kept)
        assert made.workers[0].process.wait(5) == 0


def is_refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def test_once_taken_it_waits_for_nobody_and_obeys_resets(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, here = made.frontend([server.at])
        _, there = made.frontend([server.at], host="127.0.0.2")
        with connect(here) as kept, connect(there) as gone:
            assert ask(kept)
            assert ask(gone)
            orphan(made)
            with successor(path) as found:
                found.take()
                found.taken()
                assert is_refused(path)
                found.say(Reset(7, ("127.0.0.2",)))
                assert found.hear() == Done(7)
                with pytest.raises(ConnectionResetError):
                    receive_all(gone)
                assert ask(kept)
            # nor does its end change anything
            time.sleep(0.2)
            assert ask(kept)
            assert is_refused(path)
        assert made.workers[0].process.wait(5) == 0


def test_who_leaves_has_the_whole_time_once_more(path: str) -> None:
    with Server(echo) as server, family(path, orphan_timeout_s=1.5) as made:
        _, at = made.frontend([server.at])
        with connect(at) as kept:
            assert ask(kept)
            orphan(made)
            begun_s = time.monotonic()
            time.sleep(0.4)
            with successor(path) as found:
                found.take()
                found.taken()
                assert receive_all(kept) == b""
            assert time.monotonic() - begun_s > 1.8
        assert made.workers[0].process.wait(5) == 0


def test_one_that_is_leaving_ends_when_it_has_to(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        kept = connect(at)
        assert ask(kept)
        record = made.region.layout.worker(0)
        made.region.words[record + MUST_END] = 1
        time.sleep(1.2)
        assert ask(kept), "it serves"
        orphan(made)
        with successor(path) as found:
            found.take()
            found.taken()
            assert kept.recv(1) == b"", "its end is its connections' end"
        kept.close()


def test_a_master_that_starts_is_handed_over_to(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        with socket.socket(socket.AF_UNIX) as lock:
            lock.bind(NAMES[2])
            lock.listen()
            orphan(made)
            # by then it has seen that one holds the name, and has not said that it serves
            time.sleep(3 * RETRY_MS / 1000)
            with successor(path) as found:
                found.say(OURS)
                assert isinstance(found.hear(), Offer)
        assert serves(at)
        with successor(path) as found:
            found.take()
            found.taken()
        assert made.workers[0].process.wait(5) == 0


def test_who_is_relieved_at_once_hands_nothing_over(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        made.frontend([server.at])
        with socket.socket(socket.AF_UNIX) as lock, successor(path) as found:
            lock.bind(NAMES[2])
            lock.listen()
            found.say(OURS)
            orphan(made)
            lock.settimeout(5)
            lock.accept()[0].close()
            # neither it nor anybody else listens there any more
            with pytest.raises((EOFError, TimeoutError)):
                found.hear()


def test_who_is_relieved_by_another_master_hangs_up(path: str) -> None:
    with Server(echo) as server, family(path) as made:
        _, at = made.frontend([server.at])
        with connect(at) as kept, socket.socket(socket.AF_UNIX) as lock:
            assert ask(kept)
            lock.bind(NAMES[0])
            lock.listen()
            orphan(made)
            with successor(path) as late:
                late.take()
                lock.settimeout(5)
                lock.accept()[0].close()
                assert late.is_dropped()
            assert ask(kept)


# a conversation alone, with a clock of its own


class Listeners:
    """Of an acceptor, so many that are open."""

    def __init__(self, number: int) -> None:
        self.open = [Listening(index, socket.socket().detach()) for index in range(number)]
        self.is_empty = False

    def staying(self) -> "list[Listening]":
        return list(self.open)

    def close(self) -> None:
        for one in self.open:
            os.close(one.descriptor)


@dataclass(frozen=True)
class Listening:
    frontend: int
    descriptor: int


@contextmanager
def conversation(number: int = 1) -> Iterator[tuple[Conversation, Successor, Listeners]]:
    """It has begun at 1000 ms."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with closing(Listeners(number)) as listeners:
        estate = Estate(Configure(0, 3, 4, 0, 0, 1.0), {MEMORY: 0, HANDOVER: 0}, cast(Acceptor, listeners), 0)
        with closing(Conversation(theirs, estate, 1000)) as made, closing(Successor("", ours)) as far:
            yield made, far, listeners


def test_a_successor_has_its_time_but_not_while_nobody_accepts() -> None:
    with conversation() as (made, far, _):
        assert made.deadline_ms == 1000 + SILENCE_MS
        for message, now_ms, deadline_ms in (
            (OURS, 2000, 2000 + SILENCE_MS),
            (Received(), 3000, None),
            (Pause(), 900_000, 900_000 + PAUSE_LIMIT_MS),
            (Taken(), 900_001, None),
        ):
            far.say(message)
            made.receive(now_ms)
            assert made.deadline_ms == deadline_ms
        assert (made.is_paused, made.has_taken) == (True, True)


def test_a_listener_that_is_closed_meanwhile_is_not_handed_over() -> None:
    with conversation(MAX_DESCRIPTORS + 2) as (made, far, listeners):
        far.say(OURS)
        made.receive(1000)
        assert isinstance(far.hear(), Offer)
        far.hear()
        gone = listeners.open.pop()
        os.close(gone.descriptor)
        far.say(Received())
        made.receive(1000)
        assert far.hear() == Sockets(0, (MAX_DESCRIPTORS,))


@pytest.mark.parametrize("number", sorted(NOT_NOW), ids=lambda number: errno.errorcode[number])
def test_what_cannot_be_said_now_is_said_later(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = channel.send

    def short(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with conversation() as (made, far, _):
        far.say(OURS)
        monkeypatch.setattr(channel, "send", short)
        made.receive(1000)
        assert made.is_unsettled
        monkeypatch.setattr(channel, "send", real)
        made.settle()
        assert not made.is_unsettled
        assert isinstance(far.hear(), Offer)
        assert isinstance(far.hear(), Sockets)
