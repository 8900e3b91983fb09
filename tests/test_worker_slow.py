"""Slow is not dead: endpoints behind long wires, networks that are away, queues that overflow, all of them real."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute

from kpf.lab.hosts import add_addresses
from kpf.lab.wire import DistantHost
from kpf.shm import layout
from kpf.shm.layout import Reason
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
)

FAR_S = 0.3
# the answer of a greeter that is far; one that is near says 0
FAR = 10


def greeting(at: Target, *, source: str | None = None) -> int:
    with connect(at, source=source) as sock:
        return receive_all(sock)[0]


class Far:
    """A host behind a wire of its own, with greeters on it; neighbours know each other."""

    def __init__(self, number: int, delay_s: float, *, greeters: int = 1) -> None:
        network = f"172.30.{number}"
        self.host = f"{network}.2"
        self.wire = DistantHost(f"far{number}", ours=[f"{network}.1/24"], theirs=[f"{self.host}/24"], delay_s=0.0)
        with self.wire.inside():
            self.servers = Greeter(greeters, host=self.host, first=FAR)
        for at in self.servers.at:
            greeting(at)
        self.servers.counts[:] = [0] * greeters
        self.wire.delay_s = delay_s

    def __enter__(self) -> "Far":
        return self

    def __exit__(self, *_: object) -> None:
        self.servers.close()
        self.wire.close()


def connect_time_ms(made: Node, slot: int) -> list[int]:
    """What is normal for each member."""
    identities = [view.identity for view in made.directory.members(slot)]
    places = [made.region.layout.member(identity & layout.SLOT_MASK) for identity in identities]
    return [made.region.words[at + layout.CONNECT_TIME] for at in places]


def test_near_and_far_share_evenly() -> None:
    with Greeter(1) as near, Far(21, FAR_S) as far, node(2) as made:
        slot, at = made.frontend([*near.at, *far.servers.at])
        for _ in range(2):
            greeting(at)
        with ThreadPoolExecutor(16) as clients:
            assert Counter(clients.map(lambda _: greeting(at), range(16))) == {0: 8, FAR: 8}
        eventually(made.is_quiet)
        assert [view.dial_failures for view in made.directory.members(slot)] == [0, 0]
        assert FAR_S * 1000 <= max(connect_time_ms(made, slot)) < 400
        assert min(connect_time_ms(made, slot)) == 0


def test_two_far_endpoints_keep_affinity() -> None:
    with Far(22, FAR_S, greeters=2) as far, node() as made:
        slot, at = made.frontend(far.servers.at, affinity_s=60)
        sources = ("127.0.0.2", "127.0.0.3")
        with ThreadPoolExecutor(2) as clients:
            homes = list(clients.map(lambda source: {greeting(at, source=source) for _ in range(4)}, sources))
        assert sorted(homes, key=min) == [{FAR}, {FAR + 1}]
        eventually(made.is_quiet)
        view = made.directory.frontend(slot)
        assert (view.affinity_entries, view.affinity_hits) == (2, 6)
        assert not any(member.dial_failures for member in made.directory.members(slot))


def test_who_is_kept_at_a_far_one_stays_when_a_near_one_answers_first() -> None:
    with Greeter(1) as near, Far(23, FAR_S) as far, node() as made:
        _, at = made.frontend([*near.at, *far.servers.at], affinity_s=60)
        first = {source: greeting(at, source=source) for source in ("127.0.0.2", "127.0.0.3")}
        # both by the near one: once in its turn, once beside the far one
        assert set(first.values()) == {0}
        eventually(made.is_quiet)
        homes = [{greeting(at, source=source) for _ in range(3)} for source in first]
        assert sorted(homes, key=min) == [{0}, {FAR}]


# what takes seconds, all at the same time


def timed(at: Target) -> tuple[int, float]:
    began_s = time.monotonic()
    return greeting(at), time.monotonic() - began_s


@pytest.fixture(scope="module")
def waiting() -> Iterator[dict[str, "Future[tuple[int, float]]"]]:
    with ExitStack() as stack:
        made = stack.enter_context(node())
        one, two, away = (
            stack.enter_context(Far(24, 2.5)),
            stack.enter_context(Far(25, 2.5, greeters=2)),
            stack.enter_context(Far(26, 0.0)),
        )
        portals = {"one": one.servers.at, "two": two.servers.at, "away": away.servers.at}
        pool = stack.enter_context(ThreadPoolExecutor(len(portals)))
        away.wire.is_away = True
        began_s = time.monotonic()
        futures = {name: pool.submit(timed, made.frontend(targets)[1]) for name, targets in portals.items()}

        def come_back() -> tuple[int, float]:
            time.sleep(max(began_s + 5 - time.monotonic(), 0))
            away.wire.is_away = False
            return 0, 0.0

        futures["back"] = pool.submit(come_back)
        yield futures


@pytest.mark.parametrize("endpoints", ["one", "two"])
def test_a_round_trip_of_two_and_a_half_seconds(
    waiting: dict[str, "Future[tuple[int, float]]"], endpoints: str
) -> None:
    number, took_s = waiting[endpoints].result(15)
    assert number >= FAR
    # a round trip for the dial, and one for the greeting: it was the first SYN that was answered
    assert 2.5 <= took_s < 6


def test_a_network_that_is_away_for_five_seconds(waiting: dict[str, "Future[tuple[int, float]]"]) -> None:
    number, took_s = waiting["away"].result(20)
    assert number == FAR
    assert took_s >= 5


# what looks like slowness, and is no failure


def test_a_black_hole_among_three() -> None:
    with Greeter(2) as servers, BlackHole() as hole, node() as made:
        slot, at = made.frontend([*servers.at, hole.at])
        times_s = []
        for _ in range(60):
            began_s = time.monotonic()
            greeting(at)
            times_s.append(time.monotonic() - began_s)
        assert max(times_s) <= 0.3
        assert not any(made.directory.frontend(slot).failed.values())
        eventually(made.is_quiet)
        hole_view = next(view for view in made.directory.members(slot) if view.address.port == hole.at[1])
        assert hole_view.ejected
        assert hole_view.failures[Reason.TIMEOUT] == hole_view.dial_failures == sum(time_s > 0.2 for time_s in times_s)


def test_a_neighbour_that_is_looked_for_is_no_failure() -> None:
    """The first SYN waits until it is found, here for longer than the dial's patience."""
    with Greeter(1) as near, Far(27, 0.0) as far, node() as made:
        other = far.host[:-1] + "3"
        with far.wire.inside(), IPRoute() as ip:
            add_addresses(ip, "eth0", [f"{other}/24"])
            server = Greeter(1, host=other, first=FAR)
        far.wire.delay_s = FAR_S
        with server:
            slot, at = made.frontend([*near.at, *server.at])
            assert [greeting(at) for _ in range(2)] == [0, 0]
            eventually(made.is_quiet)
            assert [view.dial_failures for view in made.directory.members(slot)] == [0, 0]
            assert not any(view.ejected for view in made.directory.members(slot))


def test_a_syn_that_was_lost_is_no_failure_and_not_what_is_normal() -> None:
    with Greeter(1) as near, Far(28, 0.0) as far, node() as made:
        slot, at = made.frontend([*near.at, *far.servers.at])
        far.wire.is_away = True
        assert [greeting(at) for _ in range(2)] == [0, 0]
        far.wire.is_away = False
        eventually(made.is_quiet)
        assert [view.dial_failures for view in made.directory.members(slot)] == [0, 0]
        assert not any(view.ejected for view in made.directory.members(slot))
        assert connect_time_ms(made, slot) == [0, 0]
        assert Counter(greeting(at) for _ in range(4)) == {0: 2, FAR: 2}


def test_a_queue_that_overflows_is_no_failure() -> None:
    with Greeter(1) as near, BlackHole() as full, node() as made:
        slot, at = made.frontend([*near.at, full.at])
        assert [greeting(at) for _ in range(2)] == [0, 0]
        full.open_up()
        with full.accept(within_s=3) as dialled:
            dialled.settimeout(5)
            # it has lost: it sees no byte, and a reset
            with pytest.raises(ConnectionResetError):
                dialled.recv(1)
        eventually(made.is_quiet)
        assert [view.dial_failures for view in made.directory.members(slot)] == [0, 0]
        assert not any(view.ejected for view in made.directory.members(slot))


def test_who_loses_sees_no_byte() -> None:
    heard: list[bytes | None] = []

    def listen(connection: socket.socket) -> None:
        try:
            heard.append(receive_all(connection))
        except ConnectionResetError:
            heard.append(None)

    def echo(connection: socket.socket) -> None:
        connection.sendall(receive_exactly(connection, 5))

    with Server(echo) as near, Far(29, FAR_S) as far, node() as made:
        with far.wire.inside():
            loser = Server(listen, host=far.host)
        with loser:
            _, at = made.frontend([near.at, loser.at])
            for _ in range(2):
                with connect(at) as sock:
                    sock.sendall(b"early")
                    assert receive_exactly(sock, 5) == b"early"
            eventually(lambda: heard)
            assert heard == [None]
            eventually(made.is_quiet)
