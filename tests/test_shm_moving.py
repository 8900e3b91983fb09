"""A frontend gets another slot: whose turn it is, and who stays with whom, go along."""

import pytest

from kpf.shm.balancer import Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import Region


def address(number: int) -> Address:
    return Address(b"\0" * 10 + b"\xff\xff" + bytes((10, 0, 0, number)), 80)


MEMBERS = [address(number) for number in range(1, 6)]


class Memory:
    def __init__(self) -> None:
        region = Region.create()
        self.directory, self.balancer = Directory(region), Balancer(region, 0)

    def frontend(self, members: list[Address] = MEMBERS, *, timeout_ms: int = 0) -> int:
        slot = self.directory.claim(b"shop")
        self.directory.set_members(slot, members, affinity_timeout_ms=timeout_ms)
        return slot

    def pick(self, slot: int, client: str = "10.1.1.1") -> str:
        choice = self.balancer.pick(slot, client, (), 1000)
        assert isinstance(choice, Choice)
        return choice.address[0]


@pytest.mark.parametrize("picks", range(7))
def test_the_turn_goes_on(picks: int) -> None:
    memory, whole = Memory(), Memory()
    before, other = memory.frontend(), whole.frontend()
    for _ in range(picks):
        assert memory.pick(before) == whole.pick(other)
    after = memory.frontend()
    memory.directory.move(before, after)
    assert [memory.pick(after) for _ in range(6)] == [whole.pick(other) for _ in range(6)]


def test_the_turn_goes_on_behind_one_that_has_left() -> None:
    memory = Memory()
    before = memory.frontend()
    assert [memory.pick(before) for _ in range(2)] == ["10.0.0.1", "10.0.0.2"]
    left = [one for one in MEMBERS if one != address(2)]
    memory.directory.set_members(before, left, affinity_timeout_ms=0)
    after = memory.frontend(left)
    memory.directory.move(before, after)
    memory.directory.set_members(after, MEMBERS, affinity_timeout_ms=0)
    assert memory.pick(after) == "10.0.0.3"


def test_clients_stay_with_their_members() -> None:
    memory = Memory()
    before = memory.frontend(timeout_ms=60_000)
    clients = [f"10.2.{number // 250}.{number % 250}" for number in range(500)]
    had = {client: memory.pick(before, client) for client in clients}
    after = memory.frontend([*MEMBERS[1:], address(9)], timeout_ms=60_000)
    memory.directory.move(before, after)
    # its members go, and with them what names them
    memory.directory.retire(before)
    memory.directory.collect()
    stay = [client for client in clients if had[client] != "10.0.0.1"]
    assert {client: memory.pick(after, client) for client in stay} == {client: had[client] for client in stay}
    assert memory.directory.frontend(after).affinity_entries == len(stay)


def test_without_affinity_nobody_is_kept() -> None:
    memory = Memory()
    before = memory.frontend(timeout_ms=60_000)
    memory.pick(before)
    after = memory.frontend()
    memory.directory.move(before, after)
    assert [memory.pick(after) for _ in range(2)] == ["10.0.0.2", "10.0.0.3"]
