"""Round robin, affinity and health against a slow and obvious model of SEMANTICS sections 3 to 5."""

import itertools
import os
import random
from array import array

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kpf.shm import layout
from kpf.shm.affinity import AffinityEntries, AffinityTable, client_of
from kpf.shm.balancer import Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.health import PROBE_MS, attempt_delay_ms
from kpf.shm.layout import Address
from kpf.shm.region import Region, Words, monotonic_ms
from tests.balancing_model import ADDRESSES, CLIENTS, Model, name_of
from tests.mortal import KilledError, killed_at_each_store, mortal


class Balancing(RuleBasedStateMachine):
    """Two workers and the master on one frontend; what the workers get is what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 5_000_000
        region = Region.create()
        self.directory = Directory(region, clock=lambda: self.now)
        self.directory.take_worker_slots(2)
        self.directory.claim(b"")
        self.slot = self.directory.claim(b"")
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

    @rule(worker=st.integers(0, 1), client=st.sampled_from(CLIENTS), data=st.data())
    def connect_beside(self, worker: int, client: str, data: st.DataObject) -> None:
        """A dial that is slow, and another one beside it: neither the cursor nor an affinity entry moves."""
        first, by_pin = self.model.pick(client, set(), self.now)
        choice = self.workers[worker].pick(self.slot, client, (), self.now)
        assert (name_of(choice) if choice else None) == first
        if first is None or choice is None:
            return
        self.hits += by_pin
        assert self.born.setdefault(choice.identity, first) == first
        self.dialled.append((choice, first, client))
        allowed = self.model.beside({first}, self.now)
        other = self.workers[worker].pick_hedge(self.slot, {choice.identity}, self.now)
        if other is None:
            assert not allowed
            return
        member = name_of(other)
        assert member in allowed
        assert self.born.setdefault(other.identity, member) == member
        self.model.probe(member, self.now)
        self.dialled.append((other, member, client))
        if data.draw(st.booleans()):
            self.workers[worker].suspect(self.slot, choice.identity, self.now + 500)
            self.model.suspect(first, self.now + 500)

    @rule(worker=st.integers(0, 1), client=st.sampled_from(CLIENTS), member=st.sampled_from(ADDRESSES))
    def adopt(self, worker: int, client: str, member: Address) -> None:
        """Who has answered has the client, if nobody else has."""
        views = {view.address: view.identity for view in self.directory.members(self.slot)}
        if member not in views:
            return
        self.workers[worker].adopt(self.slot, views[member], client, self.now)
        if not self.model.timeout:
            return
        pinned, used = self.model.pins.get(client, (None, 0))
        if pinned is None or self.now - used >= self.model.timeout:
            self.model.pins[client] = member, self.now

    @rule(data=st.data(), worker=st.integers(0, 1), works=st.booleans())
    def answer(self, data: st.DataObject, worker: int, works: bool) -> None:
        """A dial ends, perhaps long after its endpoint has left, or has come back as another one."""
        if not self.dialled:
            return
        choice, member, client = self.dialled.pop(data.draw(st.integers(0, len(self.dialled) - 1)))
        self.words[choice.active] -= 1
        same = choice.identity in {view.identity for view in self.directory.members(self.slot)}
        if works:
            self.workers[worker].answered(self.slot, choice.identity, 0)
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
        assert [view.ejected for view in views] == [
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
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(2)
    slot = directory.claim(b"")
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
    balancer.answered(slot, identity, 0)
    balancer.failed(slot, identity, "10.9.9.9", now_ms)
    assert region.words[region.layout.member(identity & layout.SLOT_MASK) + layout.HEALTH] >> 16 == now_ms + 1000


def test_a_flood_of_clients_cannot_grow_the_table() -> None:
    region, directory, slot, _ = frontend_with(2, timeout_ms=10_800_000)
    balancer = Balancer(region, 0)
    now = itertools.count(monotonic_ms() + 1)
    clients = [f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}" for index in range(40_000)]
    for client in clients:
        balancer.pick(slot, client, (), next(now))
    view, room = directory.frontend(slot), layout.BUCKET_ENTRIES << layout.BUCKET_BITS
    assert view.affinity_entries + view.affinity_evictions == 40_000
    assert view.affinity_entries <= room
    assert view.affinity_evictions > 7_000
    # the latest are all there: only the oldest of a bucket is evicted
    for client in clients[-2000:]:
        balancer.pick(slot, client, (), next(now))
    assert directory.frontend(slot).affinity_hits == 2000
    # only a few of the first have lost their place: the hash spreads them
    assert view.affinity_entries > room * 0.9


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
    assert directory.frontend(slot).affinity_entries == 0
    assert balancer.pick(slot, "10.9.9.9", (), monotonic_ms()) != first


def test_the_cache_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpf.shm.balancer.CACHE_LIMIT", 2)
    region, _, slot, _ = frontend_with(5)
    balancer = Balancer(region, 0)
    seen = [balancer.pick(slot, "10.9.9.9", (), 1) for _ in range(20)]
    assert len(balancer._choices) <= 2
    assert len({choice.identity for choice in seen if choice}) == 5


# slow is not dead


def word_of(region: Region, identity: int, word: int) -> int:
    return region.words[region.layout.member(identity & layout.SLOT_MASK) + word]


def chosen(choice: Choice | None) -> Choice:
    assert choice is not None
    return choice


def test_who_is_dialled_beside_moves_neither_turn_nor_pin() -> None:
    region, directory, slot, addresses = frontend_with(4, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    first = chosen(balancer.pick(slot, "10.9.9.1", (), 1))
    besides = [chosen(balancer.pick_hedge(slot, {first.identity}, 1)) for _ in range(30)]
    assert {name_of(one) for one in besides} == set(addresses[1:])
    assert chosen(balancer.pick(slot, "10.9.9.1", (), 2)) == first
    assert name_of(chosen(balancer.pick(slot, "10.9.9.2", (), 2))) == addresses[1]
    assert balancer.pick_hedge(slot, {view.identity for view in directory.members(slot)}, 1) is None


def test_turns_pass_over_a_suspected_member_and_its_clients_do_not() -> None:
    region, _, slot, addresses = frontend_with(2, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    slow = chosen(balancer.pick(slot, "10.9.9.1", (), 1))
    balancer.suspect(slot, slow.identity, 3000)
    assert [name_of(chosen(balancer.pick(slot, f"10.9.8.{number}", (), 2))) for number in (1, 2)] == [addresses[1]] * 2
    assert chosen(balancer.pick(slot, "10.9.9.1", (), 2)) == slow
    # heard out without an answer: now its client is anybody's
    balancer.failed(slot, slow.identity, "10.9.9.1", 3000)
    assert name_of(chosen(balancer.pick(slot, "10.9.9.1", (), 3001))) == addresses[1]
    assert word_of(region, slow.identity, layout.HEALTH) == 4000 << layout.UNTIL_SHIFT | 1000


def test_who_is_shut_out_is_not_made_a_mere_suspect() -> None:
    region, directory, slot, _ = frontend_with(1)
    balancer = Balancer(region, 0)
    identity = directory.members(slot)[0].identity
    balancer.failed(slot, identity, "10.9.9.1", 1000)
    word = word_of(region, identity, layout.HEALTH)
    balancer.suspect(slot, identity, 9000)
    assert word_of(region, identity, layout.HEALTH) == word


def test_a_slow_answer_teaches_all_workers_what_is_normal() -> None:
    region, directory, slot, _ = frontend_with(1)
    identity = directory.members(slot)[0].identity
    taught = []
    for took_ms in (250, 300, 290, 260, 3001, 2000, 100, 1600, 100, 100, 100, 100):
        Balancer(region, 0).answered(slot, identity, took_ms)
        taught.append(word_of(region, identity, layout.CONNECT_TIME))
    # as slow as it was, three seconds at most; halved for each answer that took less than half
    assert taught == [0, 300, 300, 300, 3000, 3000, 1500, 1600, 800, 400, 0, 0]
    assert attempt_delay_ms(0) == 250
    assert attempt_delay_ms(300) == 550


def test_an_endpoint_that_comes_again_is_not_taken_for_the_slow_one_before() -> None:
    region, directory, slot, addresses = frontend_with(2)
    slow, other = (view.identity for view in directory.members(slot))
    balancer = Balancer(region, 0)
    balancer.answered(slot, slow, 900)
    directory.set_members(slot, addresses[1:], affinity_timeout_ms=0)
    directory.collect()
    directory.set_members(slot, addresses, affinity_timeout_ms=0)
    again = directory.members(slot)[0].identity
    assert again & layout.SLOT_MASK == slow & layout.SLOT_MASK
    assert word_of(region, again, layout.CONNECT_TIME) == 0
    # what is still to be told of the one before does not concern it
    balancer.answered(slot, slow, 900)
    balancer.suspect(slot, slow, 9000)
    assert word_of(region, again, layout.CONNECT_TIME) == word_of(region, again, layout.HEALTH) == 0
    assert word_of(region, other, layout.CONNECT_TIME) == 0


# a thousand members


@pytest.mark.parametrize("number", [64, 65, 150])
def test_notes_of_a_long_list_change_no_pick(number: int) -> None:
    region, directory, slot, _ = frontend_with(number)
    balancers, luck, now_ms = [Balancer(region, 0), Balancer(region, 1)], random.Random(number), 1000
    identities = [view.identity for view in directory.members(slot)]
    turn = 0
    for _ in range(250):
        balancer = luck.choice(balancers)
        tried: set[int] = set()
        # seldom enough work that whole stretches are ejected
        while len(tried) < 20:
            untried = [one for one in (*identities[turn:], *identities[:turn]) if one not in tried]
            until_ms = {one: word_of(region, one, layout.HEALTH) >> layout.UNTIL_SHIFT for one in untried}
            expected = next((one for one in untried if until_ms[one] <= now_ms), untried[0])
            choice = chosen(balancer.pick(slot, "10.9.9.9", tried, now_ms))
            assert choice.identity == expected
            turn = (identities.index(expected) + 1) % number
            if luck.random() < 0.1:
                balancer.answered(slot, choice.identity, 0)
                break
            balancer.failed(slot, choice.identity, "10.9.9.9", now_ms)
            tried.add(choice.identity)
        now_ms += luck.choice((0, 1, 1, 10, 300))


def test_what_is_noted_during_a_probe_does_not_outlast_its_failure() -> None:
    """The last of 65 has a note of its own."""
    region, directory, slot, _ = frontend_with(65)
    prober, other = Balancer(region, 0), Balancer(region, 1)
    last = directory.members(slot)[-1].identity

    def picked(balancer: Balancer, now_ms: int) -> bool:
        return last in {chosen(balancer.pick(slot, "10.9.9.9", (), now_ms)).identity for _ in range(65)}

    prober.failed(slot, last, "10.9.9.9", 1000)
    assert picked(prober, 2000)
    assert not picked(other, 2001)
    prober.failed(slot, last, "10.9.9.9", 2002)
    assert not picked(other, 4001)
    assert picked(other, 4002)


def test_a_new_list_has_no_notes_of_the_one_that_had_its_place() -> None:
    region = Region.create()
    region.words[region.layout.arena : region.layout.arena + 512] = memoryview(array("Q", [9999] * 512))
    directory, balancer = Directory(region), Balancer(region, 0)
    slot = directory.claim(b"")
    directory.set_members(slot, members_of(1, 70), affinity_timeout_ms=0)
    first, second = (view.identity for view in directory.members(slot)[:2])
    balancer.failed(slot, first, "10.9.9.9", 1)
    assert chosen(balancer.pick(slot, "10.9.9.9", (), 2)).identity == second


class Counting:
    """The words of a region, which count how often they are read."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self.reads = 0

    def __getitem__(self, at: int) -> int:
        self.reads += 1
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._words[at] = value


@pytest.mark.parametrize("alive", [0, 1])
def test_a_pick_among_a_thousand_that_are_shut_out_reads_few_words(alive: int) -> None:
    region, directory, slot, _ = frontend_with(1000)
    balancer = Balancer(region, 0)
    for view in directory.members(slot)[alive:]:
        balancer.failed(slot, view.identity, "10.9.9.9", 1000)
    # whoever is the first looks at all of them
    balancer.pick(slot, "10.9.9.9", (), 1001)
    counting = Counting(region.words)
    balancer._words = balancer._round_robin._words = counting  # type: ignore[assignment]
    for _ in range(100):
        assert balancer.pick(slot, "10.9.9.9", (), 1001)
    # of its own stretch of 64, up to three words each; of the others, one
    assert counting.reads < 100 * (3 * 64 + 1000 // 64 + 20)


# a holder that is killed at any store


def test_a_pin_that_was_half_stored_is_nobodys() -> None:
    """A table's bucket is full, so the new client's entry was another one's."""

    def act(stores: int) -> bool:
        region, directory, slot, _ = frontend_with(2, timeout_ms=60_000)
        old, new = (view.identity for view in directory.members(slot))
        entries = AffinityEntries(region)
        table = AffinityTable(region.layout.affinity_table(0), 60_000)
        home = entries._bucket(table, client_of("10.0.0.1"))
        clients = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in itertools.count(1))
        neighbours = (client for client in clients if entries._bucket(table, client_of(client)) == home)
        *present, newcomer = itertools.islice(neighbours, layout.BUCKET_ENTRIES + 1)
        for now_ms, client in enumerate(present, 1):
            entries.store(table, client_of(client), old, now_ms=now_ms)
        lives = True
        try:
            AffinityEntries(mortal(region, stores)).store(table, client_of(newcomer), new, now_ms=100)
        except KilledError:
            lives = False
        other = AffinityEntries(region)
        for client in present:
            entry = other.find(table, client_of(client), now_ms=100)
            assert not entry or region.words[entry + layout.ENTRY_IDENTITY] == old
        entry = other.find(table, client_of(newcomer), now_ms=100)
        assert not entry or region.words[entry + layout.ENTRY_IDENTITY] == new
        os.close(region.descriptor)
        return lives

    assert killed_at_each_store(act) == 5


@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3), (3, 0), (65, 70), (70, 65)])
def test_a_list_that_was_half_written_is_nobodys(before: int, after: int) -> None:
    def act(stores: int) -> bool:
        region = Region.create()
        directory = Directory(region)
        slot = directory.claim(b"")
        # what other lists have left in the arena
        start = region.layout.arena
        region.words[start : start + 512] = memoryview(array("Q", [layout.MEMBER_CAPACITY - 1] * 512))
        directory.set_members(slot, members_of(1, before), affinity_timeout_ms=0)
        old = {view.identity for view in directory.members(slot)}
        directory._words = mortal(region, stores).words
        lives = True
        try:
            directory.set_members(slot, members_of(2, after), affinity_timeout_ms=0)
        except KilledError:
            lives = False
        record, words = region.layout.frontend(slot) + layout.LIST, region.words
        count = words[record] >> layout.COUNT_SHIFT & layout.INDEX_MASK
        assert count in (before, after)
        balancer = Balancer(region, 0)
        picks = [balancer.pick(slot, "10.9.9.9", (), 1) for _ in range(count)]
        addresses = {name_of(choice) for choice in picks if choice}
        os.close(region.descriptor)
        assert addresses == set(members_of(1 if {choice.identity for choice in picks if choice} <= old else 2, count))
        return lives

    assert killed_at_each_store(act) > after


def members_of(network: int, number: int) -> list[Address]:
    packed = [b"\0" * 10 + b"\xff\xff\x0a" + bytes([network]) + index.to_bytes(2, "big") for index in range(number)]
    return [Address(one, 80) for one in packed]


def test_a_pin_that_was_not_counted_does_not_make_the_count_negative() -> None:
    """Killed between the two."""
    region, directory, slot, _ = frontend_with(2, timeout_ms=60_000)
    at = region.layout.frontend(slot) + layout.AFFINITY_ENTRIES
    balancer = Balancer(region, 0)
    choice = chosen(balancer.pick(slot, "10.9.9.9", (), 1))
    region.words[at] = 0
    balancer.failed(slot, choice.identity, "10.9.9.9", 2)
    assert directory.frontend(slot).affinity_entries == 0


def test_a_pin_that_is_used_is_lengthened() -> None:
    region, directory, slot, _ = frontend_with(3, timeout_ms=1000)
    balancer = Balancer(region, 0)
    picks = [balancer.pick(slot, "10.9.9.9", (), now_ms) for now_ms in (1, 801, 1601, 2401)]
    assert len(set(picks)) == 1
    assert directory.frontend(slot).affinity_hits == 3
    assert balancer.pick(slot, "10.9.9.9", (), 3401) not in picks


def test_a_pin_to_a_member_that_has_left_is_void() -> None:
    region, directory, slot, addresses = frontend_with(3, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    chosen(balancer.pick(slot, "10.9.9.9", (), 1))
    directory.set_members(slot, addresses[1:], affinity_timeout_ms=60_000)
    # nobody has its place yet: the turn decides
    assert name_of(chosen(balancer.pick(slot, "10.9.9.9", (), 2))) == addresses[1]
    assert directory.frontend(slot).affinity_hits == 0


def test_a_pin_is_void_when_another_member_has_the_place_of_the_one_that_left() -> None:
    region, directory, slot, addresses = frontend_with(3, timeout_ms=60_000)
    balancer = Balancer(region, 0)
    home = chosen(balancer.pick(slot, "10.9.9.9", (), 1))
    region.words[home.active] -= 1
    directory.set_members(slot, addresses[1:], affinity_timeout_ms=60_000)
    directory.collect()
    directory.set_members(slot, addresses, affinity_timeout_ms=60_000)
    again = directory.members(slot)[0]
    assert again.identity & layout.SLOT_MASK == home.identity & layout.SLOT_MASK
    # the same address in the same place is another member all the same, and the turn is the next one's
    assert name_of(chosen(balancer.pick(slot, "10.9.9.9", (), 2))) == addresses[1]
