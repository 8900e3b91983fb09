"""Exactness over real processes, and after any number of them has been killed inside the critical section."""

import fcntl
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.synchronize import Event

import pytest

from kpf.lab.forks import die_with
from kpf.lab.machine import Machine
from kpf.shm import layout, lock
from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import Region, monotonic_ms
from tests.test_shm_adoption import check_books

FORK = multiprocessing.get_context("fork")
WORKERS = 4
# for 300 kills on a machine that has much else to do
PATIENCE_S = 300.0


def members(number: int) -> list[Address]:
    return [Address(b"\0" * 10 + b"\xff\xff\x0a\0\0" + bytes([index]), 80) for index in range(number)]


def pick_many(region: Region, worker: int, slot: int, number: int, client: str, burst: int, go: Event) -> None:
    balancer = Balancer(region, worker)
    go.wait(10)
    for _ in range(0, number, burst):
        if burst == 1:
            choices = [balancer.pick(slot, client, (), monotonic_ms())]
        else:
            choices = balancer.pick_all(slot, [client] * burst, monotonic_ms())
        for choice in choices:
            assert choice is not None
            region.words[choice.total] += 1


def run(region: Region, slot: int, number: int, clients: list[str], burst: int) -> None:
    go = FORK.Event()
    processes = [
        FORK.Process(target=pick_many, args=(region, worker, slot, number, clients[worker], burst, go))
        for worker in range(WORKERS)
    ]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0


@pytest.mark.parametrize("burst", [1, 5])
def test_four_processes_share_the_turn_exactly(burst: int) -> None:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(WORKERS)
    slot = directory.claim(b"")
    directory.set_members(slot, members(3), affinity_timeout_ms=0)
    run(region, slot, 6000, ["10.9.9.9"] * WORKERS, burst)
    assert [view.total for view in directory.members(slot)] == [8000, 8000, 8000]
    assert [view.active for view in directory.members(slot)] == [8000, 8000, 8000]


@pytest.mark.parametrize("burst", [1, 5])
def test_four_processes_pin_a_client_once(burst: int) -> None:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(WORKERS)
    slot = directory.claim(b"")
    directory.set_members(slot, members(5), affinity_timeout_ms=60_000)
    run(region, slot, 1000, ["10.9.9.9"] * WORKERS, burst)
    assert sorted(view.total for view in directory.members(slot)) == [0, 0, 0, 0, 4000]
    view = directory.frontend(slot)
    assert (view.affinity_entries, view.affinity_hits) == (1, 3999)


def pick_until_killed(parent: int, region: Region, worker: int, slot: int) -> None:
    die_with(parent)
    balancer, clients = Balancer(region, worker), random.Random(os.getpid())
    while True:
        client = f"10.0.0.{clients.randrange(200)}"
        choice = balancer.pick(slot, client, (), monotonic_ms())
        assert choice is not None
        if clients.random() < 0.2:
            balancer.failed(slot, choice.identity, client, monotonic_ms())
            balancer.answered(slot, choice.identity, 0)


def hammer_and_kill(region: Region, directory: Directory, slots: list[int], kills: int) -> None:
    """Workers on both frontends; one after another is killed at a random instant and replaced."""
    luck = random.Random(1)

    def spawn(worker: int) -> "multiprocessing.process.BaseProcess":
        process = FORK.Process(target=pick_until_killed, args=(os.getpid(), region, worker, slots[worker % len(slots)]))
        process.start()
        return process

    processes = [spawn(worker) for worker in range(WORKERS)]
    try:
        for number in range(kills):
            time.sleep(luck.random() * 0.004)
            victim = number % WORKERS
            processes[victim].kill()
            processes[victim].join()
            if number % 7 == 0:
                # the master changes the list all the while, and never waits
                try:
                    directory.set_members(slots[0], members(3 + number % 3), affinity_timeout_ms=60_000)
                except lock.LockBusyError:
                    continue
                finally:
                    processes[victim] = spawn(victim)
            else:
                processes[victim] = spawn(victim)
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_killed_at_any_instant_nothing_is_stuck_and_nothing_is_torn() -> None:
    # in a small process: of one that has all tests a fork takes longer than what is forked lives
    Machine().begin(kill_at_any_instant).result(PATIENCE_S)


def kill_at_any_instant() -> None:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(WORKERS)
    pinned, plain = directory.claim(b""), directory.claim(b"")
    directory.set_members(pinned, members(3), affinity_timeout_ms=60_000)
    directory.set_members(plain, members(3), affinity_timeout_ms=0)
    hammer_and_kill(region, directory, [pinned, plain], 300)
    assert directory.lock_holders() == frozenset()
    for slot in (pinned, plain):
        check_whole(region, directory, slot)
    for view in (*directory.members(plain), *directory.members(pinned)):
        Balancer(region, 0).answered(plain, view.identity, 0)
        for worker in range(WORKERS):
            at = region.layout.member_counter(worker, view.identity & layout.SLOT_MASK)
            region.words[at + layout.M_TOTAL] = 0
    run(region, plain, 3000, ["10.9.9.9"] * WORKERS, 1)
    assert [view.total for view in directory.members(plain)] == [4000, 4000, 4000]


def decide_until_killed(parent: int, region: Region, seed: int) -> None:
    """A master that has adopted the memory, and changes everything but the first frontend's being there."""
    die_with(parent)
    directory, luck = Directory.adopt(region), random.Random(seed)
    while True:
        directory.collect()
        slots = sorted(directory.labels())
        try:
            for slot in (slots[0], luck.choice(slots)):
                chosen = sorted(luck.sample(members(9), luck.randrange(1, 9)))
                directory.set_members(slot, chosen, affinity_timeout_ms=luck.choice((0, 60_000)))
        except lock.LockBusyError:
            continue
        if len(slots) < 5:
            directory.claim(b"frontend %d" % luck.randrange(10**9))
        else:
            directory.retire(luck.choice(slots[1:]))


def pick_and_end_until_killed(parent: int, region: Region, worker: int, slot: int) -> None:
    die_with(parent)
    balancer = Balancer(region, worker)
    while True:
        choice = balancer.pick(slot, "10.0.0.7", (), monotonic_ms())
        if choice:
            region.words[choice.active] -= 1


def test_masters_that_are_killed_at_any_instant_follow_each_other() -> None:
    Machine().begin(kill_masters_at_any_instant).result(PATIENCE_S)


def kill_masters_at_any_instant() -> None:
    region = Region.create()
    first = Directory(region)
    taken = first.take_worker_slots(2)
    kept = first.claim(b"kept")
    first.set_members(kept, members(3), affinity_timeout_ms=0)
    workers = [
        FORK.Process(target=pick_and_end_until_killed, args=(os.getpid(), region, worker, kept)) for worker in taken
    ]
    for process in workers:
        process.start()
    luck = random.Random(2)
    try:
        for number in range(60):
            master = FORK.Process(target=decide_until_killed, args=(os.getpid(), region, number))
            master.start()
            time.sleep(0.003 + luck.random() * 0.01)
            # it is there until then: whatever the one before has left, it goes on
            assert master.exitcode is None
            master.kill()
            master.join()
        assert all(process.is_alive() for process in workers)
    finally:
        for process in workers:
            process.kill()
            process.join()
    directory = Directory.adopt(region)
    assert directory.labels()[kept] == b"kept"
    check_whole(region, directory, kept)
    directory.give_worker_slots(taken)
    for slot in directory.labels():
        directory.retire(slot)
    directory.collect()
    check_books(directory)
    assert sorted(directory._places.members.free) == list(range(directory._places.members.used))
    assert sorted(directory._places.frontends.free) == list(range(directory._places.frontends.used))


def check_whole(region: Region, directory: Directory, slot: int) -> None:
    """What is there makes sense, word for word."""
    words, record = region.words, region.layout.frontend(slot)
    views = directory.members(slot)
    word = words[record + layout.LIST]
    count = word >> layout.COUNT_SHIFT & layout.INDEX_MASK
    assert count == len(views)
    assert word & layout.INDEX_MASK <= count
    start = region.layout.arena + (word >> layout.OFFSET_SHIFT & layout.OFFSET_MASK)
    listed = [words[region.layout.member(member) + layout.IDENTITY] for member in words[start : start + count].tolist()]
    assert listed == [view.identity for view in views]
    for identity in listed:
        health = words[region.layout.member(identity & layout.SLOT_MASK) + layout.HEALTH]
        assert health >> layout.UNTIL_SHIFT <= monotonic_ms() + 10_000
        assert health & layout.FOR_MASK in (0, 1000, 2000, 4000, 8000, 10_000)
    table = words[record + layout.AFFINITY_TABLE]
    if table:
        at = region.layout.affinity_table(table - 1)
        entries = words[at : at + layout.AFFINITY_TABLE_WORDS].tolist()
        pins = [entries[index : index + 4] for index in range(0, len(entries), 4) if entries[index + 2] in listed]
        assert all(0 <= low - (0xFFFF0A000000) < 200 and high == 0 for high, low, _, _ in pins)
        assert all(0 < stamp <= monotonic_ms() for *_, stamp in pins)
        assert max(Counter(low for _, low, _, _ in pins).values(), default=1) == 1


def stop_inside(region: Region, slot: int) -> None:
    fcntl.lockf(region.descriptor, fcntl.LOCK_EX, 1, slot)
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_stopped_holder_is_found_and_once_killed_the_others_go_on() -> None:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(WORKERS)
    slot = directory.claim(b"")
    directory.set_members(slot, members(3), affinity_timeout_ms=0)
    holder = FORK.Process(target=stop_inside, args=(region, slot))
    holder.start()
    while not directory.lock_holders():
        time.sleep(0.001)
    go = FORK.Event()
    go.set()
    waiting = [FORK.Process(target=pick_many, args=(region, worker, slot, 300, "::1", 1, go)) for worker in (0, 1)]
    for process in waiting:
        process.start()
    time.sleep(0.1)
    assert directory.lock_holders() == {holder.pid}
    assert sum(view.total for view in directory.members(slot)) == 0
    holder.kill()
    holder.join()
    for process in waiting:
        process.join(10)
    assert [view.total for view in directory.members(slot)] == [200, 200, 200]
