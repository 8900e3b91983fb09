"""Handing over and taking over, both ends in one process: what goes across, and what becomes of a side that fails."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import pytest

from kpf import __version__
from kpf.master import handover, successor
from kpf.master.conversation import Conversation, HandoverError
from kpf.master.handover import Handover, listen_at
from kpf.master.successor import Inheritance, RefusedError, from_master, from_workers
from kpf.net.credentials import network_namespace
from kpf.net.handover import (
    MASTER,
    MEMORY,
    PROTOCOL,
    WORKER,
    Ask,
    Complete,
    Left,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Sockets,
)
from kpf.shm.region import RegionError

OFFER = Offer(PROTOCOL, __version__, MASTER, 1, 3, 2, 0, 0, True, 0, (MEMORY,))


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@dataclass
class FakeEstate:
    """Two frontends, at slots 5 and 9, of two workers; one server. `said`: what became of it."""

    said: list[str] = field(default_factory=list)
    memory: int = field(default_factory=lambda: os.memfd_create("test"))
    groups: dict[int, list[socket.socket]] = field(
        default_factory=lambda: {slot: [listening(), listening()] for slot in (5, 9)}
    )
    health: socket.socket = field(default_factory=listening)

    def offer(self) -> tuple[Offer, list[socket.socket | int]]:
        return OFFER, [self.memory]

    def sockets(self) -> Iterator[tuple[Sockets, Sequence[socket.socket]]]:
        for index in range(2):
            yield Sockets(index, (5, 9)), [self.groups[5][index], self.groups[9][index]]

    def servers(self) -> Mapping[str, socket.socket]:
        return {"tcp 127.0.0.1 10256": self.health}

    async def hold(self) -> None:
        self.said.append("hold")

    async def go_on(self) -> None:
        self.said.append("go on")

    async def pause(self) -> None:
        self.said.append("pause")

    def close(self) -> None:
        os.close(self.memory)
        for one in (self.health, *chain(*self.groups.values())):
            one.close()


@asynccontextmanager
async def served(path: Path, estate: FakeEstate) -> AsyncIterator[Handover]:
    one = Handover(listen_at(path), estate)
    answering = asyncio.create_task(one.answer())
    try:
        yield one
    finally:
        answering.cancel()
        await one.finish()
        estate.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "handover.sock"


def same(one: socket.socket, other: socket.socket) -> bool:
    return os.fstat(one.fileno()).st_ino == os.fstat(other.fileno()).st_ino


def test_everything_goes_across_and_the_end_is_known_to_both(path: Path) -> None:
    async def hand_over() -> None:
        estate = FakeEstate()
        async with served(path, estate) as one:
            found = await from_master(path)
            assert found is not None
            assert found.is_from_master
            assert (found.generation, found.workers) == (3, 2)
            assert os.fstat(found.memory).st_ino == os.fstat(estate.memory).st_ino
            groups = dict(found.places())
            assert groups.keys() == {5, 9}
            for slot in (5, 9):
                for mine, other in zip(groups[slot], estate.groups[slot], strict=True):
                    assert mine is not None
                    with mine:
                        assert same(mine, other)
            assert same(found.servers["tcp 127.0.0.1 10256"], estate.health)
            assert (estate.said, one.taken.is_set()) == (["hold"], False)
            await found.taken()
            assert one.taken.is_set()
            found.close()
        assert estate.said == ["hold"]

    asyncio.run(hand_over())


def test_a_successor_that_fails_half_way_is_as_if_it_had_never_been(path: Path) -> None:
    async def fail() -> None:
        estate = FakeEstate()
        async with served(path, estate) as one:
            for round_ in range(3):
                found = await from_master(path)
                assert found is not None
                if round_:
                    await found.pause()
                found.close()
                await until(lambda: estate.said[-1] == "go on")
            assert estate.said == ["hold", "go on", *["hold", "pause", "go on"] * 2]
            assert not one.taken.is_set()

    asyncio.run(fail())


def test_one_that_ends_while_it_hands_over_does_not_hand_over(path: Path) -> None:
    async def end() -> None:
        estate = FakeEstate()
        async with served(path, estate) as one:
            found = await from_master(path)
            assert found is not None
            await one.finish()
            assert estate.said == ["hold", "go on"]
            with pytest.raises(HandoverError):
                await found.taken()
            assert not one.taken.is_set()
            found.close()
        assert estate.said == ["hold", "go on"]

    asyncio.run(end())


def test_one_that_cannot_go_on_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost() -> None:
        raise RegionError("the memory makes no sense")

    async def fail() -> None:
        estate = FakeEstate()
        monkeypatch.setattr(estate, "go_on", lost)
        one = Handover(listen_at(path), estate)
        answering = asyncio.create_task(one.answer())
        found = await from_master(path)
        assert found is not None
        found.close()
        with pytest.raises(RegionError):
            await asyncio.wait_for(answering, 5.0)
        await one.finish()
        estate.close()

    asyncio.run(fail())


def test_of_two_successors_one_is_refused(path: Path) -> None:
    async def both() -> None:
        async with served(path, FakeEstate()) as one:
            first = await from_master(path)
            assert first is not None
            with pytest.raises(RefusedError, match="another one is taking over"):
                await from_master(path)
            await first.taken()
            assert one.taken.is_set()
            first.close()

    asyncio.run(both())


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Ask(PROTOCOL + 1, "9.0", network_namespace()), "speaks protocol"),
        (Ask(PROTOCOL, "9.0", (1, 2)), "another network namespace"),
    ],
)
def test_who_cannot_take_over_is_told_why(path: Path, asked: Ask, reason: str) -> None:
    async def refuse() -> None:
        estate = FakeEstate()
        async with served(path, estate):
            conversation = await connected(path)
            await conversation.say(asked)
            message, _ = await conversation.hear(patience_s=2.0)
            assert isinstance(message, Refusal)
            assert reason in message.reason
            conversation.close()
        assert estate.said == []

    asyncio.run(refuse())


async def connected(path: Path) -> Conversation:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    return Conversation(sock)


@pytest.mark.parametrize("frame", [b"{}", b"\xff" * 1000, b'["Taken",{}]', b'["Ask",{"protocol":"x"}]'])
def test_garbage_and_silence_cost_nothing(
    path: Path, frame: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover, "ANSWER_S", 0.2)

    async def talk() -> None:
        estate = FakeEstate()
        async with served(path, estate):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as garbage:
                garbage.connect(str(path))
                garbage.send(frame)
                await until(lambda: "has not taken over" in caplog.text)
            found = await from_master(path)
            assert found is not None
            found.close()
            await until(lambda: "go on" in estate.said)

    asyncio.run(talk())


def test_nobody_there_is_no_error(path: Path) -> None:
    async def ask() -> None:
        assert await from_master(path) is None
        listen_at(path).close()
        assert await from_workers(path) is None

    asyncio.run(ask())


class Orphans:
    """Workers that a master has left, as far as a successor sees them: each has its place's sockets."""

    def __init__(self, path: Path, *, places: Sequence[int] = (0, 1), memory: int | None = None) -> None:
        self.estate = FakeEstate()
        self.memory = os.memfd_create("test") if memory is None else memory
        self.listener = listen_at(path)
        self.tasks = [asyncio.create_task(self.serve(place)) for place in places]
        self.left: list[int] = []

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.listener.close()
        self.estate.close()
        os.close(self.memory)

    async def serve(self, index: int) -> None:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        conversation = Conversation(sock)
        with closing(conversation), suppress(HandoverError):
            await conversation.hear(patience_s=5.0)
            await conversation.say(replace(OFFER, role=WORKER, index=index), [self.memory])
            await conversation.say(Sockets(index, (5, 9)), [group[index] for group in self.estate.groups.values()])
            assert isinstance((await conversation.hear(patience_s=5.0))[0], Received)
            await conversation.say(Complete())
            while True:
                message, _ = await conversation.hear(patience_s=5.0)
                if isinstance(message, Pause):
                    await conversation.say(Paused())
                else:
                    self.left.append(index)
                    await conversation.say(Left())


def test_each_worker_that_was_left_has_its_share(path: Path) -> None:
    async def take() -> None:
        orphans = Orphans(path)
        found = await from_workers(path)
        assert found is not None
        assert not found.is_from_master
        assert all(len(group) == 2 for group in found.groups.values())
        await found.pause()
        await found.taken()
        assert sorted(orphans.left) == [0, 1]
        found.close()
        await orphans.close()

    asyncio.run(take())


def test_who_has_died_leaves_a_place_empty(path: Path) -> None:
    async def take() -> None:
        orphans = Orphans(path, places=(1,))
        found = await from_workers(path)
        assert found is not None
        places = dict(found.places())
        assert [[one is not None for one in places[slot]] for slot in (5, 9)] == [[False, True]] * 2
        for _, one in places.values():
            assert one is not None
            one.close()
        found.close()
        await orphans.close()

    asyncio.run(take())


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("memory", "makes no sense"),
        ("socket", "does not listen"),
        ("workers", "makes no sense"),
        ("silence", "nothing was heard"),
    ],
)
def test_what_makes_no_sense_is_not_taken(path: Path, what: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successor, "FIRST_WORKER_S", 0.2)

    async def lie() -> None:
        listener, memory = listen_at(path), os.memfd_create("test")

        async def serve() -> None:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            conversation = Conversation(sock)
            await conversation.hear(patience_s=5.0)
            match what:
                case "memory":
                    await conversation.say(replace(OFFER, descriptors=()))
                case "workers":
                    await conversation.say(replace(OFFER, workers=1 << 40), [memory])
                case "socket":
                    await conversation.say(OFFER, [memory])
                    with socket.socket() as no_listener:
                        await conversation.say(Sockets(0, (5,)), [no_listener])
            with suppress(HandoverError):
                await conversation.hear(patience_s=5.0)
            conversation.close()

        task = asyncio.create_task(serve())
        with pytest.raises(HandoverError, match=why):
            await from_workers(path)
        await asyncio.wait([task])
        listener.close()
        os.close(memory)

    asyncio.run(lie())


def test_a_stale_socket_is_replaced_and_only_its_owner_may_use_it(path: Path) -> None:
    listen_at(path).close()
    with listen_at(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_inheritance_that_nobody_wants_is_given_back() -> None:
    Inheritance().close()
