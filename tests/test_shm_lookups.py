"""What is looked up in shared memory for whoever asks: the same as what picks go by."""

from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.lookups import AffinityEntry, affinity_entry_of, ejected_at
from kpf.shm.region import Region

NOW_MS, TIMEOUT_MS = 5_000_000, 3_000
MEMBERS = [Address(bytes([0] * 10 + [0xFF, 0xFF, 10, 0, 0, number]), 80) for number in (1, 2, 3)]


class Memory:
    def __init__(self, timeout_ms: int = TIMEOUT_MS) -> None:
        self.region = Region.create()
        self.directory = Directory(self.region, clock=lambda: NOW_MS)
        self.directory.take_worker_slots(1)
        # the place 0 is that of another frontend
        self.directory.claim(b"")
        self.slot = self.directory.claim(b"")
        self.directory.set_members(self.slot, MEMBERS, affinity_timeout_ms=timeout_ms)
        self.balancer = Balancer(self.region, 0)

    def pick(self, client: str) -> int:
        choice = self.balancer.pick(self.slot, client, (), NOW_MS)
        assert choice is not None
        return choice.identity

    def entry(self, client: str, later_ms: int = 0) -> AffinityEntry | None:
        return affinity_entry_of(self.region, self.slot, client, now_ms=NOW_MS + later_ms)


def test_an_entry_is_told_until_it_expires() -> None:
    memory = Memory()
    assert memory.entry("192.0.2.1") is None
    for client in ("192.0.2.1", "fd00::1"):
        memory.pick(client)
    assert memory.entry("192.0.2.1", 1_000) == AffinityEntry(MEMBERS[0], 2_000, is_out=False)
    assert memory.entry("fd00::1", TIMEOUT_MS - 1) == AffinityEntry(MEMBERS[1], 1, is_out=False)
    assert memory.entry("fd00::1", TIMEOUT_MS) is None
    assert memory.entry("192.0.2.2") is None


def test_an_entry_of_a_member_that_has_left_is_none() -> None:
    memory = Memory()
    memory.pick("192.0.2.1")
    memory.directory.set_members(memory.slot, MEMBERS[1:], affinity_timeout_ms=TIMEOUT_MS)
    assert memory.entry("192.0.2.1") is None


def test_an_entry_of_a_member_that_is_ejected_is_told_as_such_and_of_one_that_is_suspected_counts() -> None:
    memory = Memory()
    suspected, ejected = memory.pick("192.0.2.1"), memory.pick("192.0.2.2")
    memory.balancer.suspect(memory.slot, suspected, NOW_MS + 500)
    # somebody else's dial, so the client's entry stays
    memory.balancer.failed(memory.slot, ejected, "192.0.2.9", NOW_MS)
    entries = [memory.entry(client) for client in ("192.0.2.1", "192.0.2.2")]
    assert [entry and entry.is_out for entry in entries] == [False, True]
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS) == MEMBERS[:2]


def test_without_affinity_there_are_no_entries() -> None:
    memory = Memory(timeout_ms=0)
    memory.pick("192.0.2.1")
    assert memory.entry("192.0.2.1") is None


def test_those_that_are_ejected_are_told_for_as_long_as_they_are() -> None:
    memory = Memory(timeout_ms=0)
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS) == []
    memory.pick("192.0.2.1")
    memory.balancer.failed(memory.slot, memory.pick("192.0.2.1"), "192.0.2.1", NOW_MS)
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS + 999) == [MEMBERS[1]]
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS + 1_000) == []
    assert ejected_at(memory.region, 0, now_ms=NOW_MS) == []
