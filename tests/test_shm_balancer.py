"""Turns, pins and health against a slow and obvious model of SEMANTICS sections 3 to 5."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kpf.shm import layout
from kpf.shm.balancer import PROBE_MS, Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import Region, monotonic_ms

CLIENTS = ("10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2")
ADDRESSES = tuple(
    Address(b"\0" * 10 + b"\xff\xff" + bytes((10, 0, 0, host)), port) for host in (1, 2, 10) for port in (80, 8080)
)


def name_of(choice: Choice) -> Address:
    host, port = choice.address
    return Address(b"\0" * 10 + b"\xff\xff" + bytes(map(int, host.split("."))), port)


@dataclass
class Health:
    until: int = 0
    out_for: int = 0
    probing: bool = False


@dataclass
class Model:
    """One frontend, in the words of the rules."""

    members: list[Address] = field(default_factory=list)
    last: Address | None = None
    health: dict[Address, Health] = field(default_factory=dict)
    timeout: int = 0
    pins: dict[str, tuple[Address, int]] = field(default_factory=dict)

    def change(self, members: list[Address], timeout: int) -> None:
        for gone in set(self.members) - set(members):
            del self.health[gone]
            self.pins = {client: pin for client, pin in self.pins.items() if pin[0] != gone}
        for new in set(members) - set(self.members):
            self.health[new] = Health()
        if timeout and not self.timeout:
            self.pins.clear()
        self.members, self.timeout = members, timeout

    def pick(self, client: str, tried: set[Address], now: int) -> tuple[Address | None, bool]:
        """Who it is, and whether a pin led there."""
        untried = [one for one in self.members if one not in tried]
        usable = [one for one in untried if self.health[one].until <= now] or untried
        if self.timeout and client in self.pins:
            pinned, used = self.pins[client]
            if now - used < self.timeout and pinned in usable:
                self.pins[client] = pinned, now
                self.probe(pinned, now)
                return pinned, True
        if not usable:
            return None, False
        after = [one for one in usable if self.last is not None and one > self.last]
        self.last = (after or usable)[0]
        self.probe(self.last, now)
        if self.timeout:
            self.pins[client] = self.last, now
        return self.last, False

    def probe(self, member: Address, now: int) -> None:
        health = self.health[member]
        if health.out_for and health.until <= now:
            health.until, health.probing = now + PROBE_MS, True

    def failed(self, member: Address, client: str, now: int) -> None:
        if self.timeout and self.pins.get(client, (None, 0))[0] == member:
            del self.pins[client]
        health = self.health.get(member)
        if health and (health.until <= now or health.probing):
            health.out_for = min(max(2 * health.out_for, 1000), 10_000)
            health.until, health.probing = now + health.out_for, False

    def succeeded(self, member: Address) -> None:
        if member in self.health:
            self.health[member] = Health()


class Balancing(RuleBasedStateMachine):
    """Two workers and the master on one frontend; what the workers get is what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 5_000_000
        region = Region.create(2)
        self.directory = Directory(region, clock=lambda: self.now)
        self.directory.claim()
        self.slot = self.directory.claim()
        self.workers = [Balancer(region, 0), Balancer(region, 1)]
        self.words = region.words
        self.model = Model()
        self.dialled: list[tuple[Choice, Address, str]] = []
        self.hits = 0
        self.born: dict[int, Address] = {}

    @initialize(members=st.sets(st.sampled_from(ADDRESSES), min_size=1), timeout=st.sampled_from((0, 3000)))
    def begin(self, members: set[Address], timeout: int) -> None:
        self.change(members, timeout)

    @rule(members=st.sets(st.sampled_from(ADDRESSES)), timeout=st.sampled_from((0, 1, 3000, 10_000)))
    def change(self, members: set[Address], timeout: int) -> None:
        self.model.change(sorted(members), timeout)
        self.directory.set_members(self.slot, sorted(members), affinity_timeout_ms=timeout)

    @rule(ms=st.sampled_from((1, 999, 1000, 2250, 3000, 20_000)))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule(worker=st.integers(0, 1), client=st.sampled_from(CLIENTS), tries=st.integers(1, 7))
    def connect(self, worker: int, client: str, tries: int) -> None:
        """A connection whose dials all fail, but for the last."""
        tried: list[int] = []
        for attempt in range(tries):
            expected, by_pin = self.model.pick(client, {self.born[identity] for identity in tried}, self.now)
            choice = self.workers[worker].pick(self.slot, client, tried, self.now)
            assert (name_of(choice) if choice else None) == expected
            if choice is None or expected is None:
                return
            assert self.born.setdefault(choice.identity, expected) == expected
            self.hits += by_pin
            if attempt == tries - 1:
                self.dialled.append((choice, expected, client))
                return
            self.words[choice.active] -= 1
            self.workers[worker].failed(self.slot, choice.identity, client, self.now)
            self.model.failed(expected, client, self.now)
            tried.append(choice.identity)

    @rule(data=st.data(), worker=st.integers(0, 1), works=st.booleans())
    def answer(self, data: st.DataObject, worker: int, works: bool) -> None:
        """A dial ends, perhaps long after its endpoint has left, or has come back as another one."""
        if not self.dialled:
            return
        choice, member, client = self.dialled.pop(data.draw(st.integers(0, len(self.dialled) - 1)))
        self.words[choice.active] -= 1
        same = choice.identity in {view.identity for view in self.directory.members(self.slot)}
        if works:
            self.workers[worker].succeeded(self.slot, choice.identity)
            if same:
                self.model.succeeded(member)
        else:
            self.workers[worker].failed(self.slot, choice.identity, client, self.now)
            if same:
                self.model.failed(member, client, self.now)

    @invariant()
    def agrees(self) -> None:
        views = self.directory.members(self.slot)
        assert [view.address for view in views] == self.model.members
        assert [view.shut_out for view in views] == [
            self.model.health[member].until > self.now for member in self.model.members
        ]
        active = {view.identity: view.active for view in views}
        for choice, _, _ in self.dialled:
            if choice.identity in active:
                active[choice.identity] -= 1
        assert not any(active.values())
        assert self.directory.frontend(self.slot).affinity_hits == self.hits


TestBalancing = pytest.mark.filterwarnings("ignore::ResourceWarning")(Balancing.TestCase)
TestBalancing.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def frontend_with(members: int, *, timeout_ms: int = 0) -> tuple[Region, Directory, int, list[Address]]:
    region = Region.create(2)
    directory = Directory(region)
    slot = directory.claim()
    addresses = [Address(b"\0" * 10 + b"\xff\xff\x0a\0" + index.to_bytes(2, "big"), 80) for index in range(members)]
    directory.set_members(slot, addresses, affinity_timeout_ms=timeout_ms)
    return region, directory, slot, addresses


def test_a_probe_is_one_connection_and_not_a_burst() -> None:
    region, _, slot, addresses = frontend_with(2)
    balancer = Balancer(region, 0)
    choice = balancer.pick(slot, "10.9.9.9", (), 1000)
    assert choice is not None
    assert name_of(choice) == addresses[0]
    balancer.failed(slot, choice.identity, "10.9.9.9", 1000)
    picks = [balancer.pick(slot, "10.9.9.9", (), now_ms) for now_ms in (1999, 2000, *[2001] * 20, 2000 + PROBE_MS)]
    at = [index for index, pick in enumerate(picks) if pick and pick.identity == choice.identity]
    assert at == [1, len(picks) - 1]


def test_shutting_out_doubles_from_one_to_ten_seconds() -> None:
    region, directory, slot, _ = frontend_with(1)
    balancer = Balancer(region, 0)
    identity = directory.members(slot)[0].identity
    now_ms, lengths = 1_000_000, []
    for _ in range(6):
        balancer.failed(slot, identity, "10.9.9.9", now_ms)
        # those that were under way are the same failure
        balancer.failed(slot, identity, "10.9.9.9", now_ms + 10)
        until_ms = region.words[region.layout.member(identity & layout.SLOT_MASK) + layout.HEALTH] >> 16
        lengths.append(until_ms - now_ms)
        now_ms = until_ms
    assert lengths == [1000, 2000, 4000, 8000, 10_000, 10_000]
    balancer.succeeded(slot, identity)
    balancer.failed(slot, identity, "10.9.9.9", now_ms)
    assert region.words[region.layout.member(identity & layout.SLOT_MASK) + layout.HEALTH] >> 16 == now_ms + 1000


def test_a_flood_of_clients_cannot_grow_the_table() -> None:
    region, directory, slot, _ = frontend_with(2, timeout_ms=10_800_000)
    balancer = Balancer(region, 0)
    now = itertools.count(monotonic_ms() + 1)
    clients = [f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}" for index in range(40_000)]
    for client in clients:
        balancer.pick(slot, client, (), next(now))
    view = directory.frontend(slot)
    assert view.pins + view.pin_evictions == 40_000
    assert view.pins <= layout.PIN_TABLE_ENTRIES
    assert view.pin_evictions > 7_000
    # the latest are all there: only the oldest of a bucket is evicted
    for client in clients[-2000:]:
        balancer.pick(slot, client, (), next(now))
    assert directory.frontend(slot).affinity_hits == 2000
    # only a few of the first have lost their place: the hash spreads them
    assert view.pins > layout.PIN_TABLE_ENTRIES * 0.9


def test_several_picks_at_once_are_as_many_one_by_one() -> None:
    region, directory, slot, addresses = frontend_with(3)
    balancer = Balancer(region, 0)
    together = balancer.pick_all(slot, ["10.9.9.9"] * 7, 1)
    assert [name_of(choice) for choice in together if choice] == [*addresses * 2, addresses[0]]
    following = balancer.pick(slot, "10.9.9.9", (), 1)
    assert following is not None
    assert name_of(following) == addresses[1]
    assert [view.active for view in directory.members(slot)] == [3, 3, 2]
    directory.set_members(slot, [], affinity_timeout_ms=0)
    assert balancer.pick_all(slot, ["10.9.9.9"] * 2, 1) == [None, None]


def test_several_picks_at_once_keep_to_the_pins() -> None:
    region, _, slot, _ = frontend_with(3, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    clients = ["10.9.9.1", "10.9.9.2", "10.9.9.1", "10.9.9.3", "10.9.9.2", "10.9.9.1"]
    picked = balancer.pick_all(slot, clients, 1)
    homes: dict[str, set[int]] = {client: set() for client in clients}
    for client, choice in zip(clients, picked, strict=True):
        assert choice is not None
        homes[client].add(choice.identity)
    assert [len(home) for home in homes.values()] == [1, 1, 1]
    assert len(set.union(*homes.values())) == 3


def test_no_pins_from_before_affinity_was_switched_on() -> None:
    region, directory, slot, addresses = frontend_with(3, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    first = balancer.pick(slot, "10.9.9.9", (), monotonic_ms())
    for timeout_ms in (0, 60_000):
        directory.set_members(slot, addresses, affinity_timeout_ms=timeout_ms)
    assert directory.frontend(slot).pins == 0
    assert balancer.pick(slot, "10.9.9.9", (), monotonic_ms()) != first


def test_the_cache_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpf.shm.balancer.CACHE_LIMIT", 2)
    region, _, slot, _ = frontend_with(5)
    balancer = Balancer(region, 0)
    seen = [balancer.pick(slot, "10.9.9.9", (), 1) for _ in range(20)]
    assert len(balancer._choices) <= 2
    assert len({choice.identity for choice in seen if choice}) == 5
