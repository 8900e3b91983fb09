"""From one layout of shared memory to another, both ways, while workers go on; and memories that are none of ours."""

import fcntl
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpf.shm import layout
from kpf.shm.carry import Carrier
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import OtherLayoutError, Region, RegionError
from kpf.shm.slots import CapacityError
from tests.balancing_model import ADDRESSES, CLIENTS
from tests.other_layout import Version, other_version, version

NOW_MS = 5_000_000
OURS = version()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return other_version(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module", params=["upgrade", "downgrade", "same"])
def versions(request: pytest.FixtureRequest, other: Version) -> tuple[Version, Version]:
    """From which to which."""
    return {"upgrade": (OURS, other), "downgrade": (other, OURS), "same": (OURS, OURS)}[request.param]


@dataclass
class Memory:
    """A memory with what reads it, of one version."""

    version: Version
    region: Any
    directory: Any
    workers: list[Any] = field(default_factory=list)
    now: int = NOW_MS

    @classmethod
    def fresh(cls, of: Version) -> "Memory":
        region = of.region.Region.create()
        made = cls(of, region, None)
        made.directory = of.directory.Directory(region, clock=lambda: made.now)
        made.workers = [of.balancer.Balancer(region, slot) for slot in made.directory.take_worker_slots(2)]
        return made

    @classmethod
    def carried(cls, of: Version, carrier: Any) -> "Memory":
        """The new one. Its workers have slots of their own."""
        made = cls(of, of.region.Region.attach(os.dup(carrier.directory.descriptor)), carrier.directory)
        made.workers = [of.balancer.Balancer(made.region, slot) for slot in carrier.directory.take_worker_slots(2)]
        return made

    def serve(self, label: bytes, members: list[Address], timeout_ms: int = 0) -> int:
        slot: int = self.directory.claim(label)
        self.directory.set_members(slot, members, affinity_timeout_ms=timeout_ms)
        return slot

    def pick(self, slot: int, client: str, worker: int = 0) -> Any:
        """A connection that begins."""
        choice = self.workers[worker].pick(slot, client, (), self.now)
        if choice:
            self.count(slot, worker, "F_TOTAL")
        return choice

    def count(self, slot: int, worker: int, what: str, by: int = 1, index: int = 0) -> None:
        at = self.region.layout.frontend_counter(worker, slot) + getattr(self.version.layout, what) + index
        self.region.words[at] += by

    def seen(self) -> dict[bytes, Any]:
        """All that there is of each frontend, by label."""
        return {label: self._frontend(slot) for slot, label in self.directory.labels().items()}

    def _frontend(self, slot: int) -> dict[str, Any]:
        words, where, of = self.region.words, self.region.layout, self.version.layout
        record = where.frontend(slot)
        word, count = words[record + of.LIST], len(self.directory.addresses(slot))
        anchored = bool(word & of.ANCHORED)
        view = self.directory.frontend(slot)
        return {
            "cursor": (word & of.INDEX_MASK, anchored, count),
            "anchor": words[record + of.ANCHOR : record + of.ANCHOR_PORT + 1].tolist() if anchored else None,
            "members": [self._member(one) for one in self.directory.members(slot)],
            "timeout": self.directory.affinity_timeout_ms(slot),
            "may loop": self.directory.may_loop(slot),
            "counts": tuple(view._replace(failed=dict(view.failed))),
            "pins": self.pins(slot),
        }

    def _member(self, view: Any) -> tuple[Any, ...]:
        words, of = self.region.words, self.version.layout
        at = self.region.layout.member(view.identity & of.SLOT_MASK)
        health = words[at + of.HEALTH]
        state = health >> of.UNTIL_SHIFT, bool(health & of.PROBING), health & of.FOR_MASK, words[at + of.CONNECT_TIME]
        return tuple(view.address), state, view.total, view.active, view.ejected, sorted(view.failures.items())

    def pins(self, slot: int) -> dict[tuple[int, int], tuple[Address, int]]:
        """Who stays with whom, and was there last when."""
        words, where, of = self.region.words, self.region.layout, self.version.layout
        record = where.frontend(slot)
        if not (timeout_ms := words[record + of.TIMEOUT]):
            return {}
        start, homes = where.affinity_table(words[record + of.AFFINITY_TABLE] - 1), {}
        known = {view.identity: view.address for view in self.directory.members(slot)}
        content = self.region.read(start, of.AFFINITY_TABLE_WORDS).tolist()
        for at in range(0, len(content), of.ENTRY_WORDS):
            identity, stamp = content[at + of.ENTRY_IDENTITY], content[at + of.ENTRY_STAMP]
            if identity in known and self.now - stamp < timeout_ms:
                homes[content[at], content[at + 1]] = known[identity], stamp
        return homes


def everything(memory: Memory) -> dict[bytes, int]:
    """Frontends in each state that there is."""
    most = list(ADDRESSES)
    slots = {
        b"never served": memory.serve(b"never served", most),
        b"in the middle": memory.serve(b"in the middle", most),
        b"x" * 504: memory.serve(b"x" * 504, most[:1]),
        b"anchored": memory.serve(b"anchored", most),
        b"empty": memory.serve(b"empty", most),
        b"gone": memory.serve(b"gone", most),
        b"pinned": memory.serve(b"pinned", most, 60_000),
        b"no pins": memory.serve(b"no pins", most, 60_000),
    }
    for label in (b"in the middle", b"anchored", b"empty", b"gone"):
        for client in CLIENTS[:2]:
            memory.pick(slots[label], client)
    memory.directory.set_members(slots[b"anchored"], [most[0], *most[2:]], affinity_timeout_ms=0)
    memory.directory.set_members(slots[b"empty"], [], affinity_timeout_ms=0)
    memory.directory.set_may_loop(slots[b"anchored"], True)
    memory.directory.retire(slots.pop(b"gone"))
    for number, client in enumerate(CLIENTS * 2):
        memory.now += 1
        memory.pick(slots[b"pinned"], client, number % 2)
    one, two, three, *_ = memory.directory.members(slots[b"never served"])
    first, second = memory.workers
    first.failed(slots[b"never served"], one.identity, CLIENTS[0], memory.now)
    second.suspect(slots[b"never served"], two.identity, memory.now + 700)
    second.answered(slots[b"never served"], three.identity, 800)
    for number, counter in enumerate(("F_TOTAL", "F_ENDED", "F_BYTES_IN", "F_BYTES_OUT", "F_RETRIES", "F_HITS"), 5):
        memory.count(slots[b"in the middle"], 0, counter, number << 40)
        memory.count(slots[b"in the middle"], 1, counter, number)
    memory.count(slots[b"in the middle"], 1, "F_FAILED", 3)
    for number, (counter, length) in enumerate(
        (("F_DIALS_MS", 1), ("F_DIALS", 10), ("F_LASTED_MS", 1), ("F_LASTED", 14))
    ):
        for index in range(length):
            memory.count(slots[b"in the middle"], 0, counter, 100 * number + index + 1, index)
    return slots


def test_all_there_is_of_a_frontend_is_carried_over(versions: tuple[Version, Version]) -> None:
    old = Memory.fresh(versions[0])
    slots = everything(old)
    carrier = versions[1].carry.Carrier(old.region.descriptor, clock=lambda: old.now)
    carrier.first_pass()
    carrier.catch_up()
    new = Memory.carried(versions[1], carrier)
    new.now = old.now
    assert new.seen() == old.seen()
    assert set(new.seen()) == set(slots)
    assert {label: carrier.slots[slot] for label, slot in slots.items()} == {
        label: slot for slot, label in new.directory.labels().items()
    }
    # and they go on alike: whoever is next, and whoever has a home
    for label, slot in slots.items():
        for client in (*CLIENTS, "10.7.7.7", *CLIENTS):
            old.now += 1
            new.now = old.now
            then, now = old.pick(slot, client), new.pick(carrier.slots[slot], client)
            assert (then and then.address) == (now and now.address), label


steps = st.one_of(
    st.tuples(st.just("connect"), st.integers(0, 2), st.sampled_from(CLIENTS), st.integers(0, 1)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("answer"), st.integers(0, 9), st.sampled_from((0, 300, 900))),
    st.tuples(st.just("wait"), st.sampled_from((1, 999, 3000))),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(passes=st.lists(st.lists(steps, max_size=12), min_size=2, max_size=4))
def test_what_workers_do_between_the_passes_is_carried_over_too(
    versions: tuple[Version, Version], passes: list[list[tuple[Any, ...]]]
) -> None:
    old = Memory.fresh(versions[0])
    slots = [old.serve(b"a", list(ADDRESSES)), old.serve(b"b", list(ADDRESSES), 10_000), old.serve(b"c", [], 1000)]
    dialled: list[tuple[int, int, str, Any]] = []

    def play(name: str, *arguments: Any) -> None:
        match name:
            case "wait":
                old.now += arguments[0]
            case "connect":
                which, client, worker = arguments
                if choice := old.pick(slots[which], client, worker):
                    dialled.append((slots[which], worker, client, choice))
            case _ if dialled:
                slot, worker, client, choice = dialled.pop(arguments[0] % len(dialled))
                old.count(slot, worker, "F_ENDED")
                old.region.words[choice.active] -= 1
                if name == "fail":
                    old.workers[worker].failed(slot, choice.identity, client, old.now)
                    old.region.words[choice.failures] += 1
                else:
                    old.workers[worker].answered(slot, choice.identity, arguments[1])
                    old.region.words[choice.total] += 1

    carrier = versions[1].carry.Carrier(old.region.descriptor, clock=lambda: old.now)
    for number, script in enumerate(passes):
        for step in script:
            play(*step)
        carrier.catch_up() if number else carrier.first_pass()
    new = Memory.carried(versions[1], carrier)
    new.now = old.now
    seen, was = new.seen(), old.seen()
    for side in (seen, was):
        for one in side.values():
            # expired entries count in a table until somebody needs their place: not carried over
            one["counts"] = one["counts"][:-2]
    assert seen == was
    os.close(old.region.descriptor)
    os.close(carrier.directory.descriptor)


def test_a_client_that_gets_a_home_after_its_connection_was_counted(versions: tuple[Version, Version]) -> None:
    """A pass has seen the count, and nothing is counted when the dial is answered, in the place of an old entry."""
    old = Memory.fresh(versions[0])
    slot = old.serve(b"web", list(ADDRESSES), 1000)
    old.pick(slot, CLIENTS[0])
    carrier = versions[1].carry.Carrier(old.region.descriptor, clock=lambda: old.now)
    carrier.first_pass()
    carrier.catch_up()
    old.now += 2000
    old.count(slot, 0, "F_TOTAL")
    carrier.catch_up()
    old.workers[0].adopt(slot, old.directory.members(slot)[3].identity, CLIENTS[0], old.now)
    carrier.catch_up()
    new = Memory.carried(versions[1], carrier)
    new.now = old.now
    assert list(new.pins(carrier.slots[slot]).values()) == [(ADDRESSES[3], old.now)]


def test_a_home_that_is_lost_between_the_passes_is_lost(versions: tuple[Version, Version]) -> None:
    old = Memory.fresh(versions[0])
    slot = old.serve(b"web", list(ADDRESSES), 60_000)
    lost, _ = old.pick(slot, CLIENTS[0]), old.pick(slot, CLIENTS[1])
    carrier = versions[1].carry.Carrier(old.region.descriptor, clock=lambda: old.now)
    carrier.first_pass()
    old.workers[0].failed(slot, lost.identity, CLIENTS[0], old.now)
    carrier.catch_up()
    new = Memory.carried(versions[1], carrier)
    assert list(new.pins(carrier.slots[slot]).values()) == [(ADDRESSES[1], old.now)]
    assert new.directory.frontend(carrier.slots[slot]).affinity_entries == 1


def test_connections_that_are_still_open_count_once_until_they_end(versions: tuple[Version, Version]) -> None:
    old = Memory.fresh(versions[0])
    slot = old.serve(b"web", list(ADDRESSES))
    open_ones = [old.pick(slot, CLIENTS[0], worker) for worker in (0, 1, 0)]
    old.region.words[old.region.layout.worker(1) + versions[0].layout.ACTIVE] = 3
    carrier = versions[1].carry.Carrier(old.region.descriptor, clock=lambda: old.now)
    carrier.first_pass()
    new = Memory.carried(versions[1], carrier)

    def counts() -> tuple[int, int, int]:
        view = new.directory.frontend(carrier.slots[slot])
        return view.total, view.active, sum(one.active for one in new.directory.members(carrier.slots[slot]))

    assert counts() == (3, 3, 3)
    assert new.directory.worker(0).active == 3
    new.pick(carrier.slots[slot], CLIENTS[1], 1)
    # the workers that we have replaced go on counting where we do not look by ourselves
    for worker, choice in zip((0, 1), open_ones, strict=False):
        old.count(slot, worker, "F_ENDED")
        old.region.words[choice.active] -= 1
    old.now += 30_000
    carrier.refresh()
    assert counts() == (4, 2, 2)
    assert new.directory.worker(0).heartbeat_ms == old.now
    # the last one is cut off
    carrier.end()
    assert counts() == (4, 1, 1)
    assert new.directory.worker(0).active == 0
    assert new.directory.take_worker_slots(1) == (0,)


def test_a_member_that_has_left_is_not_mistaken_for_who_has_its_place_now() -> None:
    old = Memory.fresh(OURS)
    slot = old.serve(b"web", list(ADDRESSES[:2]))
    choice = old.pick(slot, CLIENTS[0])
    old.region.words[choice.active] -= 1
    carrier = Carrier(old.region.descriptor)
    carrier.first_pass()
    carrier.directory.set_members(carrier.slots[slot], ADDRESSES[1:2], affinity_timeout_ms=0)
    carrier.directory.collect()
    carrier.directory.set_members(carrier.slots[slot], ADDRESSES[1:3], affinity_timeout_ms=0)
    old.region.words[choice.total] += 1
    carrier.refresh()
    assert [view.total for view in carrier.directory.members(carrier.slots[slot])] == [0, 0]


def test_somebody_who_changes_a_list_meanwhile_is_noticed() -> None:
    old = Memory.fresh(OURS)
    slot = old.serve(b"web", list(ADDRESSES))
    carrier = Carrier(old.region.descriptor)
    carrier.first_pass()
    old.directory.set_members(slot, ADDRESSES[1:], affinity_timeout_ms=0)
    with pytest.raises(RegionError, match="while it is carried over"):
        carrier.catch_up()


def test_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Memory.fresh(OURS)
    for label in (b"a", b"b"):
        old.serve(label, list(ADDRESSES))
    monkeypatch.setattr("kpf.shm.places.MEMBER_CAPACITY", 7)
    with pytest.raises(CapacityError):
        Carrier(old.region.descriptor).first_pass()


# figures


def filled(frontends: int, members: int, clients: int) -> Memory:
    memory = Memory.fresh(OURS)
    for number in range(frontends):
        packed = [b"\0" * 10 + b"\xff\xff\x0a" + (number * members + one).to_bytes(3, "big") for one in range(members)]
        slot = memory.serve(b"%0130d" % number, [Address(one, 80) for one in packed], 10_800_000)
        for client in range(clients):
            memory.pick(slot, f"10.200.0.{client}", client % 2)
    return memory


def test_two_thousand_frontends_are_carried_over_while_workers_go_on() -> None:
    """What was done since the pass before is what the last one costs; those of nobody's time count alone."""
    memory = filled(2000, 10, 3)
    memory.directory.take_worker_slots(6)
    carrier = Carrier(memory.region.descriptor, clock=lambda: memory.now)
    began_s = time.process_time()
    carrier.first_pass()
    first_s = time.process_time() - began_s
    carrier.catch_up()
    took_s = []
    for number in range(5):
        for slot in random.Random(number).sample(range(2000), 15):
            memory.now += 1
            memory.pick(slot, f"10.201.0.{number}", 1)
        began_s = time.process_time()
        carrier.catch_up()
        took_s.append(time.process_time() - began_s)
    print(f"2,000 frontends, 20,000 members, 6,000 affinity entries: first pass {first_s * 1000:.0f} ms,", end=" ")
    print(f"later ones with 15 of them busy {min(took_s) * 1000:.1f} to {max(took_s) * 1000:.1f} ms")
    assert first_s < 4.0
    assert min(took_s) < 0.03


# what is none of ours


def sealed(content: bytes, size: int, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def header(region: Region) -> bytes:
    return os.pread(region.descriptor, layout.HEADER_WORDS * layout.WORD, 0)


@pytest.fixture
def ours() -> Region:
    return Region.create()


def strangers(region: Region, folder: Path) -> Iterator[int]:
    size, whole = os.fstat(region.descriptor).st_size, header(region)
    path = folder / "file"
    path.write_bytes(whole)
    os.truncate(path, size)
    yield os.open(path, os.O_RDWR)
    yield socket.socket().detach()
    yield sealed(b"", 0)
    yield sealed(whole[:64], 64)
    yield sealed(b"\0" * 4096, size)
    # a memory that can shrink kills who looks at it
    yield sealed(whole, size, 0)
    yield sealed(whole, size, fcntl.F_SEAL_GROW)
    # smaller than it says
    yield sealed(whole, len(whole))
    yield sealed(whole, size - 8)
    at = layout.DESCRIPTION_AT * layout.WORD
    # version 2 did not say what is where
    yield sealed(whole[:at] + bytes(len(whole) - at), size)
    yield sealed(whole[: at + 8] + b"[" * (len(whole) - at - 8), size)
    yield sealed(whole[:at] + b"\xff" * 8 + whole[at + 8 :], size)


def test_what_is_no_memory_of_ours_is_refused(ours: Region, tmp_path: Path) -> None:
    for number, descriptor in enumerate(strangers(ours, tmp_path)):
        for open_it in (Region.attach, Carrier):
            try:
                open_it(descriptor)
            except RegionError:
                continue
            pytest.fail(f"{open_it} takes number {number}")
        os.close(descriptor)


def test_another_layout_is_told_from_what_is_no_memory_at_all(ours: Region, other: Version) -> None:
    theirs = other.region.Region.create()
    with pytest.raises(OtherLayoutError, match="version of kpf"):
        Region.attach(theirs.descriptor)
    with pytest.raises(other.region.OtherLayoutError):
        other.region.Region.attach(ours.descriptor)
    # the same version, from a tree in between
    size, changed = os.fstat(ours.descriptor).st_size, header(ours).replace(b'"retries"', b'"tries"  ', 1)
    with pytest.raises(OtherLayoutError):
        Region.attach(sealed(changed, size))


@settings(max_examples=150)
@given(st.data())
def test_whatever_a_header_says_is_carried_over_or_refused(data: st.DataObject) -> None:
    """One number of it is anything, or a field has gone."""
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(2)
    directory.set_members(directory.claim(b"web"), ADDRESSES, affinity_timeout_ms=1000)
    at = layout.DESCRIPTION_AT
    said = orjson.loads(region.words[at + 1 : layout.HEADER_WORDS].tobytes()[: region.words[at]])
    area = said[data.draw(st.sampled_from(sorted(said)))]
    number: st.SearchStrategy[Any] = st.sampled_from(
        (0, 1, -1, 2, 63, 64, 65, 128, 1 << 20, 1 << 31, 1 << 62, 1 << 64, None, "1", 0.5, [], {})
    )
    fields = area[3]
    if not fields or data.draw(st.booleans()):
        area[data.draw(st.integers(0, 3))] = data.draw(number)
    elif data.draw(st.booleans()):
        fields[data.draw(st.sampled_from(sorted(fields)))][data.draw(st.integers(0, 2))] = data.draw(number)
    else:
        del fields[data.draw(st.sampled_from(sorted(fields)))]
    text = orjson.dumps(said) if not _too_big(said) else b"{}"
    region.words[at] = len(text)
    padded = memoryview(text + bytes(-len(text) % 8)).cast("Q")
    region.words[at + 1 : at + 1 + len(padded)] = padded
    with suppress(RegionError, CapacityError):
        carrier = Carrier(region.descriptor)
        carrier.first_pass()
        carrier.catch_up()
    os.close(region.descriptor)


def _too_big(said: object) -> bool:
    try:
        orjson.dumps(said)
    except TypeError:
        return True
    return False


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (lambda _: layout.FRONTENDS_USED_AT, layout.FRONTEND_CAPACITY + 1),
        (lambda _: layout.MEMBERS_USED_AT, 3),
        (lambda _: layout.WORKERS_USED_AT, layout.WORKER_SLOTS + 1),
        (lambda where: where.frontend(0) + layout.LIST, (6 << layout.COUNT_SHIFT) + 7),
        (lambda where: where.frontend(0) + layout.LIST, layout.ANCHORED | (6 << layout.COUNT_SHIFT) + 6),
        (lambda where: where.frontend(0) + layout.LIST, 7 << layout.COUNT_SHIFT),
        (
            lambda where: where.frontend(0) + layout.LIST,
            layout.OFFSET_MASK << layout.OFFSET_SHIFT | 9 << layout.COUNT_SHIFT,
        ),
        (lambda where: where.frontend(0) + layout.AFFINITY_TABLE, layout.AFFINITY_TABLES + 1),
        (lambda where: where.arena, layout.MEMBER_CAPACITY),
        (lambda where: where.arena, 1),
        (lambda where: where.label(0), 505),
        (lambda where: where.member(1) + layout.PORT, 1 << 63),
    ],
)
def test_records_that_make_no_sense_are_refused(at: Any, value: int) -> None:
    region = Region.create()
    directory = Directory(region)
    directory.set_members(directory.claim(b"web"), ADDRESSES, affinity_timeout_ms=1000)
    region.words[at(region.layout)] = value
    with pytest.raises(RegionError):
        Carrier(region.descriptor).first_pass()
