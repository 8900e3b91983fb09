"""Groups of listening sockets: taken over, grown, shrunk and steered; and two generations that share them."""

import asyncio
import errno
import itertools
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import cast

import pytest

from kpf.master import generations, workers
from kpf.master.generations import Generations
from kpf.master.listening import ListeningGroup, ListeningSockets, batches_of
from kpf.master.workers import Workers
from kpf.model.names import EndpointSet, Family, FrontendKey, ServicePortName
from kpf.net import sockets
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.net.messages import Configure
from kpf.plan.allocation import Listener
from kpf.shm.directory import Directory
from kpf.shm.layout import PAUSED
from kpf.shm.region import Region
from tests.values import TCP, at
from tests.worker_driver import Greeter, packed, receive_exactly

PORTS = itertools.count(20_000)
KEY = FrontendKey(ServicePortName("default", "web", "", TCP), Family.IPV4, EndpointSet.CLUSTER)


def listener() -> Listener:
    return Listener(KEY, at(f"127.0.0.1:{next(PORTS)}"))


def spread(where: Listener, group: tuple[socket.socket, ...], connections: int = 100) -> list[int]:
    """How many connections come to each of these."""
    target = (str(where.at.address), where.at.port)
    clients = [socket.create_connection(target, 5.0) for _ in range(connections)]
    taken = [accepted(one) for one in group]
    for client in clients:
        client.close()
    return taken


def accepted(one: socket.socket) -> int:
    number = 0
    with suppress(BlockingIOError):
        while True:
            one.accept()[0].close()
            number += 1
    return number


@pytest.fixture
def group() -> Iterator[tuple[ListeningSockets, Listener]]:
    made, where = ListeningSockets(4), listener()
    made.open(where, 7)
    yield made, where
    made.close(where)


def copies(of: ListeningGroup) -> list[socket.socket]:
    return [one.dup() for one in of.sockets]


def test_the_last_socket_of_a_group_takes_the_place_of_one_that_closes() -> None:
    """The kernel's rule, to which all else here keeps."""
    where = listener()
    ours = [sockets.listening_socket("127.0.0.1", where.at.port, backlog=500) for _ in range(4)]
    ours.pop(1).close()
    in_order = (ours[0], ours[2], ours[1])
    for place in range(3):
        sockets.steer(ours[0], [place])
        assert spread(where, in_order, 20) == [20 * (place == index) for index in range(3)]
    for one in ours:
        one.close()


def test_what_a_predecessor_has_opened_is_steered_by_its_successor() -> None:
    before, after, where = ListeningSockets(4), ListeningSockets(4), listener()
    before.open(where, 7)
    before.steer(frozenset({3}))
    after.adopt(where, 7, copies(before[where]))
    before.close(where)
    ours = after[where].sockets
    assert spread(where, ours) == [0, 0, 0, 100]
    after.steer(frozenset({1}))
    assert spread(where, ours) == [0, 100, 0, 0]
    after.steer(frozenset(range(4)))
    assert all(spread(where, ours))
    assert [batch[0] for batch in after.of_worker(2)] == [(7,)]
    after.close(where)


def test_in_the_place_of_a_worker_that_has_died_after_its_master_a_new_socket_joins() -> None:
    before, after, where = ListeningSockets(3), ListeningSockets(3), listener()
    before.open(where, 7)
    first, second, third = copies(before[where])
    before.close(where)
    second.close()
    after.adopt(where, 7, [first, None, third])
    assert [one is known for one, known in zip(after[where].sockets, (first, None, third), strict=True)] == [1, 0, 1]
    assert all(spread(where, after[where].sockets))
    after.close(where)


def test_new_sockets_get_no_connection_before_somebody_accepts_there(
    group: tuple[ListeningSockets, Listener],
) -> None:
    made, where = group
    made.resize(6)
    later = listener()
    made.open(later, 8)
    assert [spread(one, made[one].sockets)[4:] for one in (where, later)] == [[0, 0], [0, 0]]
    # the generation before knows of no more
    made.steer(frozenset(range(4)))
    assert spread(where, made[where].sockets)[4:] == [0, 0]
    made.steer(frozenset(range(6)))
    assert all(spread(where, made[where].sockets, 200))
    assert all(spread(later, made[later].sockets, 200))
    made.close(later)


def test_a_group_that_cannot_grow_stays_as_it_was(group: tuple[ListeningSockets, Listener]) -> None:
    made, where = group
    later = listener()
    made.open(later, 8)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # room for one and a half
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    resource.setrlimit(
        resource.RLIMIT_NOFILE, ([number for number in range(limits[0]) if number not in used][6], limits[1])
    )
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            made.resize(8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [len(made[one].sockets) for one in (where, later)] == [4, 4]
    assert all(spread(where, made[where].sockets))
    made.close(later)


def test_surplus_sockets_keep_what_they_have_and_get_no_more(group: tuple[ListeningSockets, Listener]) -> None:
    made, where = group
    queued = [socket.create_connection(("127.0.0.1", where.at.port), 5.0) for _ in range(100)]
    made.resize(2)
    # those who are to leave still say how they are
    made.steer(frozenset(range(4)))
    later = listener()
    made.open(later, 8)
    assert [[batch[0] for batch in made.of_worker(index)] for index in (1, 3)] == [[], []]
    made.announce([where, later])
    assert [sorted(next(made.of_worker(index))[0]) for index in (1, 3)] == [[7, 8], [7]]
    ours = made[where].sockets
    before = [accepted(one) for one in ours]
    assert sum(before) == 100
    assert all(before)
    assert spread(where, ours)[2:] == [0, 0]
    made.forget_surplus()
    assert [one.fileno() >= 0 for one in ours] == [True, True, False, False]
    assert all(spread(where, made[where].sockets))
    for place in range(2):
        made.steer(frozenset({place}))
        assert spread(where, made[where].sockets, 20)[place] == 20
    made.steer(frozenset({3}))
    assert all(spread(where, made[where].sockets))
    for client in queued:
        client.close()
    made.close(later)


def test_a_successor_is_handed_all_that_is_open_in_messages_that_are_not_too_long() -> None:
    made, (many, one) = ListeningSockets(2), (socket.socket(), socket.socket())
    groups = [ListeningGroup(slot, (many, one)) for slot in range(MAX_DESCRIPTORS + 1)]
    assert [frontends for frontends, _ in batches_of(1, groups)] == [tuple(range(MAX_DESCRIPTORS)), (MAX_DESCRIPTORS,)]
    assert {sock for _, listening in batches_of(1, groups) for sock in listening} == {one}
    where = listener()
    made.open(where, 3)
    ((frontends, (sock,)),) = made.sockets_of(1)
    assert (frontends, sock) == ((3,), made[where].sockets[1])
    made.close(where)
    for each in (many, one):
        each.close()


class Two:
    """Two generations, on the same sockets."""

    def __init__(self, servers: Greeter, first: int, second: int) -> None:
        self.region = Region.create()
        self.directory = Directory(self.region)
        self.directory.take_worker_slots(first + second)
        self.listeners = ListeningSockets(first)
        self.first = self._generation(range(first), 1, steers=True)
        self.second = self._generation(range(first, first + second), 2, steers=False)
        self.where = listener()
        slot = self.directory.claim(b"shop")
        self.directory.set_members(slot, sorted(map(packed, servers.at)), affinity_timeout_ms=0)
        self.listeners.open(self.where, slot)
        self.listeners.announce([self.where])

    def _generation(self, places: range, number: int, *, steers: bool) -> Workers:
        def newborn(_: int) -> Configure:
            return Configure(0, 0, len(places), os.getuid(), os.getgid(), 1.0)

        return Workers(self.directory, self.listeners, newborn=newborn, slots=places, generation=number, steers=steers)

    def pause(self, place: int) -> None:
        self.region.words[self.region.layout.worker(place) + PAUSED] = 1

    def accepted(self, workers: Workers) -> list[int]:
        return [self.directory.worker(place).total for place in workers.places]


class Master:
    """Changes its number of workers while clients come one after another all the time."""

    def __init__(self, servers: Greeter, count: int) -> None:
        self.directory, self.listeners = Directory(Region.create()), ListeningSockets(count)
        self.handover = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.workers = Generations(
            self.directory,
            self.listeners,
            newborn=lambda _: Configure(0, 0, count, os.getuid(), os.getgid(), 1.0),
            handover=self.handover,
            count=count,
            generation=1,
        )
        self.where = listener()
        slot = self.directory.claim(b"shop")
        self.directory.set_members(slot, sorted(map(packed, servers.at)), affinity_timeout_ms=0)
        self.listeners.open(self.where, slot)
        self.listeners.announce([self.where])
        self.served, self.is_over = 0, False

    def accepted(self, workers: Workers) -> list[int]:
        return [workers.accepted([index]) for index in range(len(workers.places))]

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_over:
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", self.where.at.port))
                assert await asyncio.wait_for(loop.sock_recv(sock, 1), 5.0)
            self.served += 1

    async def more(self) -> None:
        served = self.served
        while self.served < served + 200:
            await asyncio.sleep(0.01)

    async def play(self, act: Callable[["Master"], Awaitable[None]]) -> None:
        await self.workers.start()
        tasks = [asyncio.create_task(self._client()) for _ in range(4)]
        supervising = asyncio.create_task(self.workers.supervise())
        try:
            await act(self)
        finally:
            self.is_over = True
            await asyncio.gather(*tasks)
            supervising.cancel()
            await self.workers.abort()
            self.listeners.close(self.where)
            self.handover.close()


@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 3), (3, 1)])
def test_a_generation_takes_the_place_of_another_and_no_client_notices(first: int, second: int) -> None:
    async def change(made: Master) -> None:
        before = made.workers.serving
        await made.workers.change(second)
        while not before.is_over:
            await asyncio.sleep(0.01)
        seen = made.accepted(before)
        await made.more()
        assert made.accepted(before) == seen
        assert len(made.listeners[made.where].sockets) == second
        assert all(made.accepted(made.workers.serving))

    with Greeter(2) as servers:
        asyncio.run(Master(servers, first).play(change))


def test_a_generation_that_cannot_start_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def change(made: Master) -> None:
        before, places = made.workers.serving, made.directory.worker_slots()
        monkeypatch.setattr(workers, "START_S", 0.0)
        with pytest.raises(TimeoutError):
            await made.workers.change(3)
        assert made.workers.serving is before
        assert made.directory.worker_slots() == places
        assert len(made.listeners[made.where].sockets) == 1
        await made.more()

    with Greeter(2) as servers:
        asyncio.run(Master(servers, 1).play(change))


def test_surplus_sockets_are_watched_until_nothing_comes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "QUIET_S", 0.05)
    counts, seen = itertools.chain((1, 2, 3), itertools.repeat(4)), list[int]()

    class Accepting:
        def accepted(self, _: range) -> int:
            seen.append(next(counts))
            return seen[-1]

    asyncio.run(Generations._quiet(cast(Generations, None), cast(Workers, Accepting()), range(2, 4)))
    assert seen[:5] == [1, 2, 3, 4, 4]


def test_only_those_who_serve_steer() -> None:
    with Greeter(1) as servers:
        made = Two(servers, 2, 2)

        def accepted_after(connections: int) -> list[int]:
            """By index, whichever generation takes them."""
            before = made.accepted(made.first) + made.accepted(made.second)
            for _ in range(connections):
                with socket.create_connection(("127.0.0.1", made.where.at.port), 5.0) as sock:
                    assert receive_exactly(sock, 1)
            after = made.accepted(made.first) + made.accepted(made.second)
            taken = [now - then for now, then in zip(after, before, strict=True)]
            return [taken[0] + taken[2], taken[1] + taken[3]]

        async def play() -> None:
            try:
                await made.first.start()
                await made.second.start()
                made.pause(made.second.places[0])
                made.second.tick()
                assert all(accepted_after(40))
                made.second.serve()
                assert accepted_after(40) == [0, 40]
                # those who leave have no word any more
                made.first.leave()
                made.pause(made.first.places[1])
                made.first.tick()
                assert accepted_after(40) == [0, 40]
            finally:
                await made.first.abort()
                await made.second.abort()
                made.listeners.close(made.where)

        asyncio.run(play())
