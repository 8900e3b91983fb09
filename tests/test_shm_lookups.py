"""What is looked up in shared memory for whoever asks: the same as what picks go by."""

from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.lookups import Pin, ejected_at, pin_of
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

    def pin(self, client: str, later_ms: int = 0) -> Pin | None:
        return pin_of(self.region, self.slot, client, now_ms=NOW_MS + later_ms)


def test_a_pin_is_told_until_it_expires() -> None:
    memory = Memory()
    assert memory.pin("192.0.2.1") is None
    for client in ("192.0.2.1", "fd00::1"):
        memory.pick(client)
    assert memory.pin("192.0.2.1", 1_000) == Pin(MEMBERS[0], 2_000)
    assert memory.pin("fd00::1", TIMEOUT_MS - 1) == Pin(MEMBERS[1], 1)
    assert memory.pin("fd00::1", TIMEOUT_MS) is None
    assert memory.pin("192.0.2.2") is None


def test_a_pin_to_a_member_that_has_left_is_none() -> None:
    memory = Memory()
    memory.pick("192.0.2.1")
    memory.directory.set_members(memory.slot, MEMBERS[1:], affinity_timeout_ms=TIMEOUT_MS)
    assert memory.pin("192.0.2.1") is None


def test_without_affinity_there_are_no_pins() -> None:
    memory = Memory(timeout_ms=0)
    memory.pick("192.0.2.1")
    assert memory.pin("192.0.2.1") is None


def test_those_that_are_ejected_are_told_for_as_long_as_they_are() -> None:
    memory = Memory(timeout_ms=0)
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS) == []
    memory.pick("192.0.2.1")
    memory.balancer.failed(memory.slot, memory.pick("192.0.2.1"), "192.0.2.1", NOW_MS)
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS + 999) == [MEMBERS[1]]
    assert ejected_at(memory.region, memory.slot, now_ms=NOW_MS + 1_000) == []
    assert ejected_at(memory.region, 0, now_ms=NOW_MS) == []
