"""A master that is killed at any store, and the next one, which has nothing but shared memory."""

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.shm import layout, lock
from kpf.shm.adoption import read_books
from kpf.shm.balancer import Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.extents import Extents, order_of
from kpf.shm.layout import Address, Layout, notes_of
from kpf.shm.region import Region, RegionError
from kpf.shm.slots import CapacityError
from kpf.shm.worker_slots import STALE_MS, begin
from tests.balancing_model import ADDRESSES, CLIENTS, Model, name_of
from tests.mortal import KilledError, MortalRegion, killed_at_each_store

FORK = multiprocessing.get_context("fork")
START_MS = 5_000_000
CLIENT = CLIENTS[0]


@dataclass
class Served:
    """A frontend as it should be, and where it is."""

    slot: int
    model: Model = field(default_factory=Model)


@dataclass
class World:
    """A master with books, workers of theirs, and what should be so; the master is killed after so many stores."""

    region: Region = field(default_factory=Region.create)
    now: int = START_MS
    frontends: dict[bytes, Served] = field(default_factory=dict)
    sessions: list[tuple[int, int, Choice]] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=itertools.count)
    born: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        Directory(self.region, clock=lambda: START_MS).take_worker_slots(2)
        self.workers = [Balancer(self.region, 0), Balancer(self.region, 1)]
        self.life = MortalRegion(self.region)
        self.directory = Directory(self.life, clock=lambda: self.now)

    def limit(self, stores: float) -> None:
        self.life.life.left = stores

    def succeed(self) -> None:
        """The master is gone; another one takes over."""
        self.life = MortalRegion(self.region)
        self.directory = Directory.adopt(self.life, clock=lambda: self.now)

    # what a master does; each copes with being killed in it

    def claim(self) -> None:
        label = b"frontend %d" % next(self.names)
        try:
            self.frontends[label] = Served(self.directory.claim(label))
        except KilledError:
            self.succeed()
            found = {one: slot for slot, one in self.directory.labels().items()}
            slot = found[label] if label in found else self.directory.claim(label)
            self.frontends[label] = Served(slot)

    def change(self, which: int, members: list[Address], timeout: int) -> None:
        if not self.frontends:
            return
        served = self.nth(which)
        try:
            self.directory.set_members(served.slot, members, affinity_timeout_ms=timeout)
        except KilledError:
            self.succeed()
            found = list(self.directory.addresses(served.slot)), self.directory.affinity_timeout_ms(served.slot)
            assert found[0] in (served.model.members, members)
            assert found[1] in (served.model.timeout, timeout)
            served.model.change(*found)
            self.check()
            self.directory.set_members(served.slot, members, affinity_timeout_ms=timeout)
        served.model.change(members, timeout)

    def retire(self, which: int) -> None:
        if not self.frontends:
            return
        served = self.nth(which)
        label = next(name for name, one in self.frontends.items() if one is served)
        try:
            self.directory.retire(served.slot)
        except KilledError:
            self.succeed()
            if label in self.directory.labels().values():
                self.directory.retire(served.slot)
        del self.frontends[label]

    def collect(self) -> None:
        self.now += 1
        try:
            self.directory.collect()
        except KilledError:
            self.succeed()

    # what workers do

    def connect(self, which: int, client: str) -> None:
        if not self.frontends:
            return
        served = self.nth(which)
        worker = which % 2
        expected, _ = served.model.pick(client, set(), self.now)
        choice = self.workers[worker].pick(served.slot, client, (), self.now)
        assert (name_of(choice) if choice else None) == expected
        if choice:
            self.region.words[self.region.layout.frontend_counter(worker, served.slot) + layout.F_TOTAL] += 1
            self.sessions.append((worker, served.slot, choice))

    def disconnect(self, which: int) -> None:
        if self.sessions:
            worker, slot, choice = self.sessions.pop(which % len(self.sessions))
            self.region.words[self.region.layout.frontend_counter(worker, slot) + layout.F_ENDED] += 1
            self.region.words[choice.active] -= 1

    def nth(self, which: int) -> Served:
        return list(self.frontends.values())[which % len(self.frontends)]

    # what must be so

    def check(self) -> None:
        """The books are whole, and what the next master would make of the memory is the same."""
        directory = self.directory
        assert directory.labels() == {served.slot: label for label, served in self.frontends.items()}
        for served in self.frontends.values():
            views = directory.members(served.slot)
            assert [view.address for view in views] == served.model.members
            active = [view.active for view in views]
            assert active == [sum(one.identity == view.identity for *_, one in self.sessions) for view in views]
        check_books(directory)
        again = read_books(self.region)
        assert (again.live, again.retired) == (directory._frontends, directory._retired)
        assert set(again.places.frontends.free) == set(directory._places.frontends.free)
        assert again.places.extents._free == directory._places.extents._free

    def end(self) -> None:
        """All sessions end, all frontends go: then all places are free again, and clean."""
        self.limit(float("inf"))
        while self.sessions:
            self.disconnect(0)
        while self.frontends:
            self.retire(0)
        self.collect()
        self.collect()
        directory, places = self.directory, self.directory._places
        assert not directory._frontends
        assert not directory._retired
        assert not directory._departed
        for slots in (places.frontends, places.members, places.tables):
            assert sorted(slots.free) == list(range(slots.used))
        assert places.extents._free == Extents(layout.ARENA_WORDS.bit_length() - 1)._free
        self.check_clean()
        os.close(self.region.descriptor)

    def check_clean(self) -> None:
        words, where = self.region.words, self.region.layout
        frontends, members = words[layout.FRONTENDS_USED_AT], words[layout.MEMBERS_USED_AT]
        assert not any(words[where.frontend(0) : where.frontend(frontends)])
        for worker in range(2):
            assert not any(words[where.frontend_counter(worker, 0) : where.frontend_counter(worker, frontends)])
            assert not any(words[where.member_counter(worker, 0) : where.member_counter(worker, members)])
        for member in range(members):
            assert words[where.member(member) + layout.CONNECT_TIME] == 0
        # there is no memory behind any table, and they are the last
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(self.region.descriptor, where.affinity_tables * layout.WORD, os.SEEK_DATA)


def check_books(directory: Directory) -> None:
    """No place is both free and used, or neither."""
    places = directory._places
    frontends = directory._frontends | directory._retired
    assert sorted([*frontends, *places.frontends.free]) == list(range(places.frontends.used))
    listed = [member for frontend in frontends.values() for member in frontend.slots]
    assert sorted([*listed, *directory._departed, *places.members.free]) == list(range(places.members.used))
    tables = [frontend.table for frontend in frontends.values() if frontend.table is not None]
    assert sorted([*tables, *places.tables.free]) == list(range(places.tables.used))
    lengths = [len(one.slots) + notes_of(len(one.slots)) for one in frontends.values() if one.slots]
    taken = sum(1 << order_of(length) for length in lengths)
    free = sum(len(extents) << order for order, extents in enumerate(places.extents._free))
    assert taken + free == layout.ARENA_WORDS


def live(world: World) -> None:
    """Everything that a master does, with turns, pins, anchors, and places that are used again."""
    few, most = list(ADDRESSES[1:3]), list(ADDRESSES)
    world.claim()
    world.change(0, most[:3], 0)
    for _ in range(2):
        world.connect(0, CLIENT)
    world.claim()
    world.change(1, most, 3000)
    for client in CLIENTS:
        world.connect(1, client)
    # the last one served goes, and then the one after it
    world.change(0, [most[0], *most[2:]], 0)
    world.change(0, [most[0], *most[3:]], 0)
    world.change(1, few, 3000)
    world.connect(0, CLIENT)
    world.change(1, few, 0)
    world.change(1, few, 5000)
    world.connect(1, CLIENTS[1])
    world.change(0, [], 0)
    world.change(0, most[:2], 2000)
    world.connect(0, CLIENTS[2])
    world.retire(0)
    world.collect()
    for _ in range(4):
        world.disconnect(0)
    world.now += 1000
    world.claim()
    world.change(1, most, 1000)
    world.connect(1, CLIENTS[3])
    for _ in range(6):
        world.disconnect(0)
    world.collect()
    world.claim()
    world.change(2, most[::2], 0)


def test_killed_at_any_store_a_master_leaves_all_that_the_next_one_needs() -> None:
    def act(stores: int) -> bool:
        world = World()
        world.limit(stores)
        first = world.directory
        live(world)
        world.check()
        lives = world.directory is first
        world.end()
        return lives

    assert killed_at_each_store(act) > 200


steps = st.one_of(
    st.tuples(st.just("claim")),
    st.tuples(
        st.just("change"),
        st.integers(0, 3),
        st.sets(st.sampled_from(ADDRESSES)).map(sorted),
        st.sampled_from((0, 0, 1000, 3000)),
    ),
    st.tuples(st.just("connect"), st.integers(0, 3), st.sampled_from(CLIENTS)),
    st.tuples(st.just("disconnect"), st.integers(0, 9)),
    st.tuples(st.just("retire"), st.integers(0, 3)),
    st.tuples(st.just("collect")),
)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 60), steps), max_size=40))
def test_masters_that_follow_each_other_in_the_middle_of_anything(script: list[tuple[int, tuple]]) -> None:  # type: ignore[type-arg] # each has its own
    world = World()
    for stores, (name, *arguments) in script:
        world.limit(stores)
        getattr(world, name)(*arguments)
        world.limit(float("inf"))
        world.check()
    world.end()


# what a master finds


def filled(frontends: int, members: int) -> tuple[Region, Directory]:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(8)
    for number in range(frontends):
        packed = [
            b"\0" * 10 + b"\xff\xff\x0a" + (number * members + index).to_bytes(3, "big") for index in range(members)
        ]
        slot = directory.claim(b"frontend %d" % number)
        directory.set_members(slot, [Address(one, 80) for one in packed], affinity_timeout_ms=0)
    return region, directory


def test_five_thousand_frontends_are_adopted_quickly() -> None:
    region, directory = filled(5000, 10)
    for slot in range(0, 5000, 7):
        Balancer(region, slot % 8).pick(slot, CLIENT, (), START_MS)
    took_s = []
    # what else a machine does makes it longer, nothing makes it shorter
    for _ in range(3):
        began_s = time.process_time()
        adopted = Directory.adopt(region)
        took_s.append(time.process_time() - began_s)
    print(f"5,000 frontends with 10 members each are adopted in {min(took_s) * 1000:.0f} ms")
    assert min(took_s) < 0.5
    assert adopted.labels() == directory.labels()
    assert adopted.addresses(4999) == directory.addresses(4999)
    assert adopted.members(7)[0].active == 1


def test_everything_of_a_frontend_is_known_again() -> None:
    region = Region.create()
    directory = Directory(region)
    slot = directory.claim(b"web")
    directory.set_members(slot, ADDRESSES, affinity_timeout_ms=7000)
    directory.set_may_loop(slot, True)
    other, last = directory.claim(b""), directory.claim(b"x" * layout.LABEL_LIMIT)
    with pytest.raises(ValueError, match="505 bytes"):
        directory.claim(b"x" * (layout.LABEL_LIMIT + 1))
    adopted = Directory.adopt(region)
    assert adopted.labels() == {slot: b"web", other: b"", last: b"x" * layout.LABEL_LIMIT}
    assert adopted.addresses(slot) == ADDRESSES
    assert [adopted.affinity_timeout_ms(one) for one in (slot, other)] == [7000, 0]
    assert [adopted.may_loop(one) for one in (slot, other)] == [True, False]


def test_identities_are_never_used_again_by_whichever_master() -> None:
    region = Region.create()
    directory = Directory(region)
    slot = directory.claim(b"web")
    seen: set[int] = set()
    for _ in range(5):
        for members in (ADDRESSES, ()):
            directory.set_members(slot, members, affinity_timeout_ms=0)
            found = {view.identity for view in directory.members(slot)}
            assert not found & seen
            seen |= found
        directory = Directory.adopt(region)
    # all of them have had the same places
    assert len({identity & layout.SLOT_MASK for identity in seen}) == len(ADDRESSES)


def test_a_member_that_a_dead_master_had_taken_out_keeps_no_client() -> None:
    """The list was written, and it was killed before its identity was void."""
    region = Region.create()
    life = MortalRegion(region)
    directory, balancer = Directory(life), Balancer(region, 0)
    directory.take_worker_slots(1)
    slot = directory.claim(b"web")
    directory.set_members(slot, ADDRESSES[:2], affinity_timeout_ms=60_000)
    home = balancer.pick(slot, CLIENT, (), 1)
    assert home is not None
    # its client has left before the dial was answered: nothing was counted
    region.words[home.active] -= 1
    # table, time-out, anchor, list, list word
    life.life.left = 1 + 1 + 3 + 1 + 1
    with pytest.raises(KilledError):
        directory.set_members(slot, ADDRESSES[1:2], affinity_timeout_ms=60_000)
    # its record is older than the list: while a worker holds the lock, it may be looking at it
    assert region.words[region.layout.member(home.identity & layout.SLOT_MASK) + layout.IDENTITY] == home.identity
    holder = hold(region, slot)
    adopted = Directory.adopt(region)
    assert adopted.addresses(slot) == ADDRESSES[1:2]
    assert region.words[region.layout.member(home.identity & layout.SLOT_MASK) + layout.IDENTITY] == home.identity
    holder.kill()
    holder.join()
    adopted.collect()
    assert region.words[region.layout.member(home.identity & layout.SLOT_MASK) + layout.IDENTITY] == 0
    again = balancer.pick(slot, CLIENT, (), 2)
    assert again is not None
    assert name_of(again) == ADDRESSES[1]


def hold(region: Region, slot: int) -> "multiprocessing.process.BaseProcess":
    """Another process that has the frontend's lock, from when this returns."""
    process = FORK.Process(target=_hold, args=(region.descriptor, slot))
    process.start()
    while not lock.holders(region.descriptor, slots=layout.FRONTEND_CAPACITY):
        time.sleep(0.001)
    return process


def _hold(descriptor: int, slot: int) -> None:
    lock.try_acquire(descriptor, slot)
    signal.pause()


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (lambda _: layout.FRONTENDS_USED_AT, layout.FRONTEND_CAPACITY + 1),
        (lambda _: layout.MEMBERS_USED_AT, 1),
        (lambda _: layout.MEMBERS_USED_AT, layout.MEMBER_CAPACITY + 1),
        (lambda _: layout.WORKERS_USED_AT, layout.WORKER_SLOTS + 1),
        (lambda where: where.frontend(1) + layout.STATE, 17),
        (
            lambda where: where.frontend(1) + layout.LIST,
            layout.OFFSET_MASK << layout.OFFSET_SHIFT | 1 << layout.COUNT_SHIFT,
        ),
        (lambda where: where.frontend(1) + layout.LIST, 6 << layout.COUNT_SHIFT),
        (lambda where: where.frontend(1) + layout.AFFINITY_TABLE, layout.AFFINITY_TABLES + 1),
        (lambda where: where.frontend(1) + layout.AFFINITY_TABLE, 1),
        (lambda where: where.label(1), layout.LABEL_LIMIT + 1),
        (lambda where: where.arena, layout.MEMBER_CAPACITY),
        (lambda where: where.arena, 1),
        (lambda where: where.member(6) + layout.OWNER, layout.FRONTEND_CAPACITY),
    ],
)
def test_a_memory_that_makes_no_sense_is_refused(at: Callable[[Layout], int], value: int) -> None:
    region = Region.create()
    directory = Directory(region)
    directory.set_members(directory.claim(b"a"), ADDRESSES[:3], affinity_timeout_ms=1000)
    directory.set_members(directory.claim(b"b"), ADDRESSES[:4], affinity_timeout_ms=0)
    directory.set_members(1, ADDRESSES[:3], affinity_timeout_ms=0)
    region.words[at(region.layout)] = value
    with pytest.raises(RegionError):
        Directory.adopt(region)


# places of workers


def test_a_worker_slot_is_free_when_it_is_given_back_or_nobody_has_been_heard_of_for_a_minute() -> None:
    region, now = Region.create(), START_MS
    first = Directory(region, clock=lambda: now)
    assert first.take_worker_slots(3) == (0, 1, 2)
    second = Directory.adopt(region, clock=lambda: now)
    assert second.take_worker_slots(2) == (3, 4)
    first.give_worker_slots([1])
    assert second.take_worker_slots(2) == (1, 5)
    now += STALE_MS
    region.words[region.layout.worker(2) + layout.HEARTBEAT] = now
    third = Directory.adopt(region, clock=lambda: now)
    assert third.take_worker_slots(1) == (6,)
    now += 1
    # its own are its own, however long they say nothing
    assert second.take_worker_slots(2) == (0, 7)
    assert third.take_worker_slots(3) == (1, 3, 4)
    with pytest.raises(CapacityError):
        third.take_worker_slots(layout.WORKER_SLOTS)
    assert region.words[layout.WORKERS_USED_AT] == 8


def test_what_a_worker_leaves_behind_is_not_active_any_more() -> None:
    """Whether its slot is given back, taken by another worker, or just never heard of again."""
    for how in ("given back", "begun again", "expired"):
        now = START_MS
        region = Region.create()
        directory = Directory(region, clock=lambda: now)  # noqa: B023 # called in this iteration only
        first, second = directory.take_worker_slots(2)
        begin(region, first, generation=3, pid=77)
        assert (directory.worker(first).generation, directory.worker(first).pid) == (3, 77)
        slot = directory.claim(b"web")
        directory.set_members(slot, ADDRESSES[:1], affinity_timeout_ms=0)
        for worker in (first, second):
            assert Balancer(region, worker).pick(slot, CLIENT, (), now)
            region.words[region.layout.frontend_counter(worker, slot) + layout.F_TOTAL] = 5
            region.words[region.layout.worker(worker) + layout.ACTIVE] = 1
        if how == "given back":
            directory.give_worker_slots([first])
        elif how == "begun again":
            begin(region, first, generation=4, pid=78)
        else:
            now += STALE_MS + 1
            region.words[region.layout.worker(second) + layout.HEARTBEAT] = now
            directory = Directory.adopt(region, clock=lambda: now)  # noqa: B023
        assert (directory.worker(first).active, directory.worker(second).active) == (0, 1)
        view = directory.frontend(slot)
        assert (view.total, view.active) == (10, 5)
        assert directory.members(slot)[0].active == 1


def test_sums_cost_what_the_workers_do_that_there_have_been() -> None:
    """No memory for slots that were never in use, however many there may be."""
    region, directory = filled(300, 3)
    before = os.fstat(region.descriptor).st_blocks
    assert [directory.frontend(slot).active for slot in range(300)] == [0] * 300
    Directory.adopt(region)
    assert os.fstat(region.descriptor).st_blocks - before <= 8 * (300 * layout.FRONTEND_COUNTERS // 512 + 2) * 8


@settings(max_examples=100)
@given(st.lists(st.integers(1, 100), max_size=20), st.sets(st.integers(0, 19)))
def test_extents_that_are_reserved_are_those_that_were_taken(lengths: list[int], kept: set[int]) -> None:
    before, after = Extents(9), Extents(9)
    taken = [(offset, length) for length in lengths if (offset := before.take(length)) is not None]
    for index, (offset, length) in enumerate(taken):
        if index in kept:
            after.reserve(offset, length)
            with pytest.raises(ValueError, match="not free"):
                after.reserve(offset, length)
        else:
            before.give(offset, length)
    assert before._free == after._free
    with pytest.raises(ValueError, match="begins"):
        Extents(9).reserve(8, 9)
