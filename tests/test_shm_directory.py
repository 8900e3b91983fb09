"""The master's books: slots, lists, capacities, what is used again and when."""

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.shm import layout
from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.extents import Extents, order_of
from kpf.shm.layout import MUST_END, Address, Reason
from kpf.shm.lock import LockBusyError
from kpf.shm.region import Region, RegionError, monotonic_ms
from kpf.shm.slots import CapacityError
from kpf.shm.worker_slots import begin

FORK = multiprocessing.get_context("fork")


def addresses(*hosts: int) -> list[Address]:
    return [Address(b"\0" * 10 + b"\xff\xff\x0a\0\0" + bytes([host]), 80) for host in hosts]


@pytest.fixture
def region() -> Region:
    """Of two workers."""
    made = Region.create()
    Directory(made).take_worker_slots(2)
    return made


def hosts_picked(balancer: Balancer, slot: int, number: int) -> list[int]:
    picked = []
    for _ in range(number):
        choice = balancer.pick(slot, "10.9.9.9", (), monotonic_ms())
        assert choice is not None
        picked.append(int(choice.address[0].rsplit(".", 1)[1]))
    return picked


def test_the_memory_is_sparse(region: Region) -> None:
    directory = Directory(region)
    for _ in range(500):
        directory.set_members(directory.claim(b""), addresses(1, 2, 3), affinity_timeout_ms=1000)
    assert os.fstat(region.descriptor).st_blocks * 512 < 1 << 20


def test_a_region_cannot_be_shrunk_and_knows_its_version(region: Region, tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(region.descriptor, 4096)
    for content in (b"", b"\0" * 8192):
        path = tmp_path / "other"
        path.write_bytes(content)
        other = os.open(path, os.O_RDWR)
        with pytest.raises(RegionError):
            Region.attach(other)
        os.close(other)


def test_a_changed_list_goes_on_after_the_last_served(region: Region) -> None:
    directory, balancer = Directory(region), Balancer(region, 0)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1, 2, 3, 4), affinity_timeout_ms=0)
    assert hosts_picked(balancer, slot, 2) == [1, 2]
    directory.set_members(slot, addresses(1, 2, 3, 4), affinity_timeout_ms=0)
    directory.set_members(slot, addresses(1, 3, 4), affinity_timeout_ms=0)
    # 2 was the last one, although it is not there any more
    directory.set_members(slot, addresses(1, 4), affinity_timeout_ms=0)
    directory.set_members(slot, [], affinity_timeout_ms=0)
    assert balancer.pick(slot, "10.9.9.9", (), 0) is None
    directory.set_members(slot, addresses(1, 3, 4), affinity_timeout_ms=0)
    assert hosts_picked(balancer, slot, 4) == [3, 4, 1, 3]


def test_a_turn_at_the_end_wraps(region: Region) -> None:
    directory, balancer = Directory(region), Balancer(region, 0)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1, 2, 3), affinity_timeout_ms=0)
    assert hosts_picked(balancer, slot, 3) == [1, 2, 3]
    directory.set_members(slot, addresses(1, 2), affinity_timeout_ms=0)
    assert hosts_picked(balancer, slot, 3) == [1, 2, 1]


def test_members_that_stay_keep_identity_and_health(region: Region) -> None:
    directory, balancer = Directory(region), Balancer(region, 0)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1, 2, 3), affinity_timeout_ms=0)
    before = directory.members(slot)
    balancer.failed(slot, before[1].identity, "10.9.9.9", monotonic_ms())
    directory.set_members(slot, addresses(2, 3, 4), affinity_timeout_ms=0)
    after = directory.members(slot)
    assert [view.identity for view in after[:2]] == [view.identity for view in before[1:]]
    assert [view.ejected for view in after] == [True, False, False]
    directory.set_members(slot, addresses(1, 2, 3, 4), affinity_timeout_ms=0)
    assert directory.members(slot)[0].identity not in {view.identity for view in before}


def test_a_place_is_used_again_only_when_nobody_is_there(region: Region) -> None:
    directory, balancer = Directory(region), Balancer(region, 1)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1), affinity_timeout_ms=60_000)
    choice = balancer.pick(slot, "10.9.9.9", (), monotonic_ms())
    assert choice is not None
    counters = region.layout.frontend_counter(1, slot)
    region.words[counters + layout.F_TOTAL] += 1
    directory.retire(slot)
    directory.collect()
    assert directory.claim(b"") != slot
    region.words[counters + layout.F_ENDED] += 1
    directory.collect()
    other = directory.claim(b"")
    assert other == slot
    # the session is gone, its member's count is not yet: the member's place stays taken
    directory.set_members(other, addresses(2), affinity_timeout_ms=0)
    assert directory.members(other)[0].identity & layout.SLOT_MASK != choice.identity & layout.SLOT_MASK
    assert directory.members(other)[0].active == 0
    region.words[choice.active] -= 1
    directory.collect()
    directory.set_members(other, addresses(2, 3), affinity_timeout_ms=60_000)
    again = directory.members(other)[1].identity
    assert again & layout.SLOT_MASK == choice.identity & layout.SLOT_MASK
    assert again != choice.identity
    assert directory.frontend(other).affinity_entries == 0


def test_counts_are_sums_over_workers_and_start_at_nought(region: Region) -> None:
    directory = Directory(region)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1), affinity_timeout_ms=0)
    (member,) = directory.members(slot)
    for worker in (0, 1):
        counters = region.layout.frontend_counter(worker, slot)
        region.words[counters + layout.F_TOTAL] = region.words[counters + layout.F_ENDED] = 5 + worker
        region.words[counters + layout.F_FAILED + Reason.PORTS] = 1
        counters = region.layout.member_counter(worker, member.identity & layout.SLOT_MASK)
        region.words[counters + layout.M_FAILURES + Reason.REFUSED] = 2
    assert directory.frontend(slot).total == 11
    assert directory.frontend(slot).failed[Reason.PORTS] == 2
    assert directory.members(slot)[0].dial_failures == 4
    directory.retire(slot)
    directory.collect()
    assert directory.claim(b"") == slot
    directory.set_members(slot, addresses(1), affinity_timeout_ms=0)
    assert directory.frontend(slot).total == directory.members(slot)[0].dial_failures == 0


def test_full_means_an_error_and_nothing_changed(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpf.shm.places.MEMBER_CAPACITY", 4)
    monkeypatch.setattr("kpf.shm.places.FRONTEND_CAPACITY", 2)
    monkeypatch.setattr("kpf.shm.places.AFFINITY_TABLES", 1)
    directory = Directory(region)
    first, second = directory.claim(b""), directory.claim(b"")
    with pytest.raises(CapacityError):
        directory.claim(b"")
    directory.set_members(first, addresses(1, 2, 3), affinity_timeout_ms=1000)
    for members, timeout_ms in ((addresses(1, 2), 0), (addresses(1), 1000)):
        with pytest.raises(CapacityError):
            directory.set_members(second, members, affinity_timeout_ms=timeout_ms)
        assert directory.members(second) == ()
    directory.set_members(second, addresses(1), affinity_timeout_ms=0)
    directory.retire(first)
    directory.collect()
    directory.collect()
    directory.set_members(second, addresses(1, 2, 3, 4), affinity_timeout_ms=1000)


def test_what_a_dead_session_kept_is_void_for_the_next_frontend(region: Region) -> None:
    directory, balancer = Directory(region), Balancer(region, 0)
    slot = directory.claim(b"")
    directory.set_members(slot, addresses(1, 2), affinity_timeout_ms=60_000)
    hosts_picked(balancer, slot, 1)
    directory.retire(slot)
    region.words[region.layout.frontend(slot) + layout.AFFINITY_ENTRIES] = 1
    for choice in balancer._choices.values():
        region.words[choice.active] = 0
    directory.collect()
    assert directory.claim(b"") == slot
    directory.set_members(slot, addresses(1, 2), affinity_timeout_ms=60_000)
    assert hosts_picked(balancer, slot, 3) == [1, 1, 1]
    assert directory.frontend(slot).affinity_hits == 2


def hold(region: Region, slot: int) -> None:
    fcntl.lockf(region.descriptor, fcntl.LOCK_EX, 1, slot)
    signal.pause()


def test_a_held_lock_is_reported_with_its_holder_and_changes_nothing(region: Region) -> None:
    directory = Directory(region)
    slot, other = directory.claim(b""), directory.claim(b"")
    directory.set_members(slot, addresses(1), affinity_timeout_ms=0)
    holders = [FORK.Process(target=hold, args=(region, held)) for held in (slot, 77, 60_000)]
    waiter = FORK.Process(target=hold, args=(region, slot))
    for process in holders:
        process.start()
    pids = {process.pid for process in holders}
    try:
        deadline_s = time.monotonic() + 5
        while directory.lock_holders() != pids and time.monotonic() < deadline_s:
            time.sleep(0.01)
        waiter.start()
        time.sleep(0.05)
        assert directory.lock_holders() == pids
        for members, timeout_ms in ((addresses(1, 2), 0), (addresses(1), 1000)):
            with pytest.raises(LockBusyError):
                directory.set_members(slot, members, affinity_timeout_ms=timeout_ms)
        assert [view.address for view in directory.members(slot)] == addresses(1)
        directory.set_members(other, addresses(1, 2), affinity_timeout_ms=0)
        # when the holder dies, the one that waited has it
        holders[0].kill()
        holders[0].join()
        while waiter.pid not in directory.lock_holders() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert waiter.pid in directory.lock_holders()
    finally:
        for process in (*holders, waiter):
            if process.pid:
                process.kill()
                process.join()
    directory.set_members(slot, addresses(1, 2), affinity_timeout_ms=1000)
    assert directory.lock_holders() == frozenset()


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100)), max_size=80))
def test_extents_never_overlap_and_all_come_back(steps: list[tuple[bool, int]]) -> None:
    extents, taken = Extents(9), [(0, 0)]
    taken.clear()
    for wants, number in steps:
        if wants or not taken:
            offset = extents.take(number)
            size = 1 << order_of(number)
            if offset is None:
                assert sum(1 << order_of(length) for _, length in taken) + size > 512 - 128
                continue
            assert offset + size <= 512
            assert all(offset + size <= at or at + (1 << order_of(n)) <= offset for at, n in taken)
            taken.append((offset, number))
        else:
            extents.give(*taken.pop(number % len(taken)))
    for one in taken:
        extents.give(*one)
    assert extents.take(512) == 0


def test_of_many_generations_the_oldest_are_to_end(region: Region) -> None:
    directory = Directory(region)
    taken = [directory.take_worker_slots(2) for _ in range(4)]
    for generation, slots in enumerate(taken, 1):
        for slot in slots:
            begin(region, slot, generation=generation, pid=1)
    directory.give_worker_slots(taken[1])
    assert directory.workers.end_all_but(3) == 0
    assert directory.workers.end_all_but(2) == 2
    told = [slot for slots in taken for slot in slots if region.words[region.layout.worker(slot) + MUST_END]]
    assert told == [*taken[0]]
    # whoever comes there later is not meant
    directory.give_worker_slots(taken[0])
    again = directory.take_worker_slots(2)
    assert not any(region.words[region.layout.worker(slot) + MUST_END] for slot in again)
