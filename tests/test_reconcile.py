"""The reconciler with its effects: what one bad frontend, a full node, a failed transaction or a late request does."""

import asyncio
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest

from kpf.master import effects, schedule
from kpf.master.effects import Effects
from kpf.master.listening import ListeningGroup, ListeningSockets
from kpf.master.reconcile import Reconciler
from kpf.master.workers import Workers
from kpf.model.endpoint import EndpointSlice
from kpf.model.names import Family
from kpf.model.rules import Action, Portal, Rules, Verdict
from kpf.model.service import Service, ServicePort
from kpf.model.snapshot import Snapshot
from kpf.net import sockets
from kpf.netlink.conntrack import Stale
from kpf.nft.elements import all_elements
from kpf.nft.kernel import Kernel
from kpf.plan.node import NodeFacts
from kpf.shm import directory, places
from kpf.shm.directory import Directory
from kpf.shm.lock import LockBusyError
from kpf.shm.region import Region
from tests.nft_fake import FakeKernel
from tests.values import TCP, at, endpoints, service, snapshot

FACTS = NodeFacts(name="node-1", proxy_addresses={Family.IPV4: ip_address("127.0.0.1")})
PORTS = range(23100, 23110)


class NoWorkers:
    """Workers that answer at once, or when they are let: `pause` for what is announced, `answer` for what is closed."""

    def __init__(self) -> None:
        self.announced: list[ListeningGroup] = []
        self.withdrawn: list[int] = []
        self.pause, self.answer = asyncio.Event(), asyncio.Event()
        self.pause.set()
        self.answer.set()

    async def announce(self, groups: Sequence[ListeningGroup]) -> None:
        self.announced += groups
        await self.pause.wait()

    async def withdraw(self, frontends: Sequence[int]) -> None:
        assert all(any(group.frontend_slot == slot for group in self.announced) for slot in frontends)
        self.withdrawn += frontends
        await self.answer.wait()


class RefusingKernel(FakeKernel):
    """`tries`: when a transaction was tried; each fails while it `refuses`."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses, self.tries = False, list[float]()

    def _begin(self) -> None:
        self.tries.append(time.monotonic())
        self.fail_next = self.fail_next or self.refuses
        super()._begin()

    def has(self, rules: Rules | None) -> bool:
        return rules is not None and self.elements == dict(all_elements(rules))


class Node:
    """A reconciler that runs; `objects` is what the source has."""

    def __init__(self, *, port_range: range = PORTS) -> None:
        self.objects: list[Service | EndpointSlice] = []
        self.reads, self.knows_enough, self.readable = 0, True, True
        self.facts = FACTS
        self.kernel, self.workers = RefusingKernel(), NoWorkers()
        self.directory, self.listeners = Directory(Region.create()), ListeningSockets(1)
        self.effects = Effects(self.directory, self.listeners, cast(Workers, self.workers), cast(Kernel, self.kernel))
        self.reconciler = Reconciler(
            self.effects,
            read=self.read,
            facts=lambda _: self.facts,
            port_range=port_range,
            capacity=100,
        )

    def read(self) -> Snapshot | None:
        self.reads += 1
        if not self.readable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return snapshot(*self.objects) if self.knows_enough else None

    def serve(self, name: str, number: int, count: int = 1, **fields: object) -> None:
        self.forget(name)
        self.objects.append(service(name, cluster_ips=(f"10.96.0.{number}",), **fields))
        self.objects.append(endpoints(*(f"10.0.{number}.{pod}" for pod in range(1, count + 1)), of=name))

    def forget(self, name: str) -> None:
        self.objects = [
            one for one in self.objects if (one.name if isinstance(one, Service) else one.service).name != name
        ]

    async def sync(self, *, full: bool = False) -> None:
        generation = self.reconciler.progress.generation
        self.reconciler.request(full=full)
        await until(lambda: self.reconciler.progress.generation > generation)

    def action(self, number: int) -> Action | None:
        rules = self.effects.rules
        assert rules is not None
        return rules.portals.get(Portal(ip_address(f"10.96.0.{number}"), TCP, 80))

    def answers(self, number: int) -> bool:
        """Its portal leads to a port that listens."""
        port = self.action(number)
        return isinstance(port, int) and not sockets.port_is_free("127.0.0.1", port)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.005)


def scene(play: Callable[[Node], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        node = Node(**options)
        running = asyncio.create_task(node.reconciler.run())
        try:
            await asyncio.wait_for(play(node), 20.0)
            assert not running.done()
        finally:
            running.cancel()
            await node.effects.finish()
            for listener in list(node.effects.now.frontends) + list(node.effects.closing):
                node.listeners.close(listener)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MIN_INTERVAL_S", 0.0)


def test_one_frontend_that_cannot_be_opened_concerns_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, short = sockets.listening_socket, [True]

    def listening_socket(address: str, port: int, *, backlog: int, address_may_go: bool) -> socket.socket:
        if short[0] and port == bad_port[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(address, port, backlog=backlog, address_may_go=address_may_go)

    bad_port = [0]
    monkeypatch.setattr(sockets, "listening_socket", listening_socket)

    async def play(node: Node) -> None:
        node.serve("bad", 1)
        await node.sync()
        bad_port[0] = cast(int, node.action(1))
        node.forget("bad")
        await node.sync()
        await until(lambda: not node.effects.closing)
        node.serve("bad", 1)
        node.serve("good", 2)
        await node.sync()
        assert node.answers(2)
        assert node.action(1) is Verdict.REFUSE
        assert "default/bad/TCP (IPv4) cannot be served: 127.0.0.1:" in caplog.text
        assert os.strerror(errno.EMFILE) in caplog.text
        short[0] = False
        # tried again by itself
        await until(lambda: node.answers(1))

    scene(play)


def test_a_full_table_of_pins_leaves_out_what_needs_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "AFFINITY_TABLES", 1)

    async def play(node: Node) -> None:
        node.serve("first", 1, affinity_timeout_s=10)
        await node.sync()
        node.serve("second", 2, affinity_timeout_s=10)
        node.serve("third", 3)
        await node.sync()
        assert (node.answers(1), node.action(2), node.answers(3)) == (True, Verdict.REFUSE, True)
        node.serve("third", 3, 2)
        await node.sync()
        assert len(node.directory.members(node.effects.slots()[next(iter(node.effects.now.frontends))])) == 1
        assert sorted(len(one.endpoints) for one in node.effects.now.frontends.values()) == [1, 2]
        node.forget("first")
        await node.sync()
        await until(lambda: node.answers(2))

    scene(play)


def test_ports_that_are_used_up_become_free_for_those_who_wait() -> None:
    async def play(node: Node) -> None:
        for number in (1, 2, 3):
            node.serve(f"s{number}", number)
        await node.sync()
        left_out = next(number for number in (1, 2, 3) if not node.answers(number))
        assert node.action(left_out) is Verdict.REFUSE
        node.forget(f"s{left_out % 3 + 1}")
        await node.sync()
        await until(lambda: node.answers(left_out))

    scene(play, port_range=range(23120, 23122))


def test_at_another_address_a_port_is_asked_for_again() -> None:
    async def play(node: Node) -> None:
        node.serve("shop", 1)
        await node.sync()
        before = cast(int, node.action(1))
        with socket.socket() as stranger:
            # of the same user, and willing to share: its clients must stay its own
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stranger.bind(("127.0.0.2", before))
            stranger.listen()
            node.facts = replace(FACTS, proxy_addresses={Family.IPV4: ip_address("127.0.0.2")})
            await node.sync()
            assert node.action(1) not in (before, None)
            assert {str(one.at.address) for one in node.effects.now.frontends} == {"127.0.0.2"}

    scene(play)


def test_an_address_that_has_gone_leaves_everything_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async def play(node: Node) -> None:
        node.serve("shop", 1)
        await node.sync()
        node.facts = replace(FACTS, proxy_addresses={Family.IPV4: ip_address("192.0.2.1")})
        node.reconciler.request()
        await until(lambda: "what was in force stays so" in caplog.text)
        assert node.reconciler.progress.waiting_since_s is not None
        assert len(node.effects.now.frontends) == 1
        node.facts = FACTS
        await until(lambda: node.reconciler.progress.waiting_since_s is None)
        assert node.answers(1)

    scene(play)


def test_a_sync_that_stands_still_is_seen_and_one_that_is_over_is_none() -> None:
    async def play(node: Node) -> None:
        progress = node.reconciler.progress
        assert progress.standing_s == 0.0
        node.workers.pause.clear()
        node.serve("shop", 1)
        node.reconciler.request()
        await until(lambda: node.workers.announced != [])
        before_s = progress.standing_s
        await asyncio.sleep(0.05)
        assert before_s < 0.05 <= progress.standing_s
        node.workers.pause.set()
        await until(lambda: progress.generation > 0 and progress.standing_s == 0.0)
        node.readable = False
        node.reconciler.request()
        await until(lambda: node.reads > 1)
        # a failure is an end, too
        await until(lambda: progress.standing_s == 0.0)

    scene(play)


def test_a_sync_that_comes_further_step_by_step_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(node: Node) -> None:
        stood_s, real = list[float](), node.effects.perform

        async def slow(step: Any) -> None:
            await asyncio.sleep(0.03)
            stood_s.append(node.reconciler.progress.standing_s)
            await real(step)

        monkeypatch.setattr(node.effects, "perform", slow)
        node.serve("shop", 1)
        await node.sync()
        assert len(stood_s) > 2
        assert stood_s[-1] < sum(stood_s[:2])

    scene(play)


def test_a_listener_is_guarded_until_it_is_closed_and_not_longer() -> None:
    async def play(node: Node) -> None:
        node.serve("shop", 1)
        node.serve("other", 2)
        await node.sync()
        node.forget("shop")
        await node.sync()
        assert node.effects.rules is not None
        assert len(node.effects.rules.listening) == 2
        await until(lambda: not node.effects.closing)
        await until(lambda: node.effects.rules is not None and len(node.effects.rules.listening) == 1)

    scene(play)


def test_what_comes_during_a_sync_is_not_lost_and_a_sync_that_hangs_is_a_change_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "MIN_INTERVAL_S", 0.3)

    async def play(node: Node) -> None:
        node.workers.pause.clear()
        node.serve("first", 1)
        node.reconciler.request()
        await until(lambda: node.workers.announced != [])
        waiting_since_s = node.reconciler.progress.waiting_since_s
        assert waiting_since_s is not None
        node.serve("second", 2)
        node.reconciler.request(full=True)
        assert node.reconciler.progress.waiting_since_s == waiting_since_s
        node.workers.pause.set()
        await until(lambda: node.reconciler.progress.generation == 1)
        newer_since_s = node.reconciler.progress.waiting_since_s
        assert newer_since_s is not None
        assert newer_since_s > waiting_since_s
        await until(lambda: node.reconciler.progress.generation == 2)
        assert node.answers(1)
        assert node.answers(2)
        assert node.reconciler.progress.waiting_since_s is None

    scene(play)


@pytest.mark.parametrize("is_touched", [False, True])
def test_a_full_sync_that_is_wanted_during_another_sync_comes_after_it(
    monkeypatch: pytest.MonkeyPatch, *, is_touched: bool
) -> None:
    monkeypatch.setattr(schedule, "MIN_INTERVAL_S", 0.05)

    async def play(node: Node) -> None:
        node.serve("first", 1)
        await node.sync()
        node.workers.pause.clear()
        node.serve("second", 2)
        node.reconciler.request()
        await until(lambda: len(node.workers.announced) == 2)
        transactions = node.kernel.transactions
        if is_touched:
            node.effects.distrust_table()
        node.reconciler.request(full=True)
        node.workers.pause.set()
        await until(lambda: node.kernel.transactions == transactions + 1)
        node.kernel.elements = {}
        await until(lambda: node.kernel.transactions == transactions + 2)
        await until(lambda: node.reconciler.progress.generation == 3)
        assert node.kernel.has(node.effects.rules)

    scene(play)


@pytest.mark.parametrize("failure", ["transaction", "defect"])
def test_after_a_failure_everything_is_written_anew(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play(node: Node) -> None:
        node.serve("shop", 1)
        await node.sync()
        node.serve("shop", 1, 0)
        if failure == "transaction":
            node.kernel.fail_next = True
        else:
            node.objects.append(cast(Service, endpoints("10.0.0.1", of="shop", name="x", port=cast(int, "80"))))
        node.reconciler.request()
        await until(lambda: "what was in force stays so" in caplog.text)
        assert node.reconciler.progress.waiting_since_s is not None
        assert all(one.endpoints for one in node.effects.now.frontends.values())
        node.objects = [one for one in node.objects if not (isinstance(one, EndpointSlice) and one.name.name == "x")]
        await until(lambda: node.action(1) is Verdict.REFUSE if node.effects.rules else False)
        # what the kernel has, whatever we believe of it
        assert node.kernel.has(node.reconciler.desired.rules)

    scene(play)


def _pauses(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


async def _refused(node: Node, monkeypatch: pytest.MonkeyPatch, *, first_s: float) -> None:
    """Services 1 and 2 are served, and the transaction for 3 has just been refused."""
    node.serve("one", 1, 2)
    node.serve("two", 2)
    await node.sync()
    monkeypatch.setattr(schedule, "RETRY_FIRST_S", first_s)
    node.kernel.refuses = True
    node.kernel.tries.clear()
    node.serve("three", 3)
    node.reconciler.request()
    await until(lambda: node.kernel.tries != [])


def test_a_transaction_that_fails_is_tried_again_at_growing_intervals_whatever_is_requested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "RETRY_ASKED_S", 0.01)

    async def play(node: Node) -> None:
        await _refused(node, monkeypatch, first_s=0.1)
        while len(node.kernel.tries) < 4:
            node.serve("one", 1, len(node.kernel.tries))
            node.reconciler.request()
            await asyncio.sleep(0.01)
        for pause_s, least_s in zip(_pauses(node.kernel.tries), (0.1, 0.2, 0.4), strict=True):
            assert pause_s >= least_s
        node.kernel.refuses = False
        await until(lambda: node.kernel.has(node.effects.rules))
        assert node.answers(3)

    scene(play)


def test_endpoints_follow_while_the_rules_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RETRY_ASKED_S", 0.01)

    async def play(node: Node) -> None:
        await _refused(node, monkeypatch, first_s=60.0)
        for count in (3, 1, 4):
            node.serve("one", 1, count)
            node.reconciler.request()
            (slot,) = (slot for one, slot in node.effects.slots().items() if one.frontend.port.service == "one")
            await until(lambda slot=slot, count=count: len(node.directory.members(slot)) == count)  # type: ignore[misc]
        assert len(node.kernel.tries) == 1
        assert node.reconciler.progress.waiting_since_s is not None

    scene(play)


def test_what_may_be_the_remedy_is_tried_soon_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RETRY_ASKED_S", 0.3)

    async def play(node: Node) -> None:
        await _refused(node, monkeypatch, first_s=60.0)
        for number in itertools.takewhile(lambda _: len(node.kernel.tries) < 3, itertools.count(4)):
            node.serve("three", number % 250)
            node.reconciler.request()
            await asyncio.sleep(0.01)
        assert min(_pauses(node.kernel.tries)) > 0.15
        node.kernel.refuses = False
        node.forget("three")
        node.reconciler.request()
        await until(lambda: node.kernel.has(node.effects.rules))
        await until(lambda: node.reconciler.progress.waiting_since_s is None)

    scene(play)


def test_a_source_that_cannot_be_read_is_asked_again_at_intervals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schedule, "RETRY_ASKED_S", 0.3)

    def failures() -> list[float]:
        return [one.created for one in caplog.records if "what was in force stays so" in one.message]

    async def play(node: Node) -> None:
        node.serve("one", 1)
        await node.sync()
        monkeypatch.setattr(schedule, "RETRY_FIRST_S", 60.0)
        transactions, node.readable = node.kernel.transactions, False
        while len(failures()) < 3:
            node.reconciler.request()
            await asyncio.sleep(0.01)
        assert min(_pauses(failures())) > 0.15
        node.readable = True
        await node.sync()
        # nothing is wrong with the table
        assert node.kernel.transactions == transactions

    scene(play)


def test_a_slot_is_used_again_only_when_all_workers_have_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "QUIET_S", 0.0)
    monkeypatch.setattr(directory, "COLLECT_MS", 0)

    async def play(node: Node) -> None:
        node.serve("old", 1)
        await node.sync()
        ((listener, slot),) = node.effects.slots().items()
        node.workers.answer.clear()
        node.forget("old")
        await node.sync()
        await until(lambda: node.workers.withdrawn == [slot])
        for number in (2, 3):
            node.serve(f"new-{number}", number)
            await node.sync()
        assert slot not in node.effects.slots().values()
        assert node.effects.closing == {listener}
        assert not sockets.port_is_free("127.0.0.1", listener.at.port)
        node.workers.answer.set()
        await until(lambda: not node.effects.closing)
        node.serve("new-4", 4)
        await node.sync()
        assert slot in node.effects.slots().values()

    scene(play)


def test_a_source_that_does_not_know_enough_yet_is_not_asked_again_and_again() -> None:
    async def play(node: Node) -> None:
        node.knows_enough = False
        node.reconciler.request(full=True)
        await until(lambda: node.reads == 1)
        await asyncio.sleep(0.05)
        assert node.reads == 1
        assert node.effects.rules is None
        assert not node.reconciler.progress.synced
        node.serve("web", 1)
        node.knows_enough = True
        await node.sync()
        assert node.reconciler.first_sync.is_set()
        assert node.answers(1)

    scene(play)


def test_there_is_a_full_sync_now_and_then_also_when_changes_never_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "FULL_SYNC_INTERVAL_S", 0.3)

    async def play(node: Node) -> None:
        node.serve("shop", 1)
        await node.sync()
        node.kernel.elements = {}
        for _ in range(60):
            await asyncio.sleep(0.01)
            node.reconciler.request()
        assert node.kernel.elements

    scene(play)


def test_a_lock_that_is_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(node: Node) -> None:
        node.serve("shop", 1)
        await node.sync()
        real, refusals = node.directory.set_members, iter(range(5))

        def busy(*args: Any, **fields: Any) -> None:
            if next(refusals, None) is not None:
                raise LockBusyError("taken")
            real(*args, **fields)

        monkeypatch.setattr(node.directory, "set_members", busy)
        node.serve("shop", 1, 3)
        await node.sync()
        assert [len(node.directory.members(slot)) for slot in node.effects.slots().values()] == [3]

    scene(play)


def test_services_that_swap_their_addresses_swap_in_one_transaction() -> None:
    async def play(node: Node) -> None:
        node.serve("a", 1)
        node.serve("b", 2)
        await node.sync()
        before, transactions = (node.action(1), node.action(2)), node.kernel.transactions
        node.serve("a", 2)
        node.serve("b", 1)
        # the endpoints change too: their addresses follow the number
        await node.sync()
        assert (node.action(2), node.action(1)) == before
        assert node.kernel.transactions == transactions + 1

    scene(play)


def test_a_node_port_that_a_proxy_port_has_moves_the_proxy_port() -> None:
    async def play(node: Node) -> None:
        node.serve("a", 1)
        await node.sync()
        port = cast(int, node.action(1))
        node.serve("b", 2, ports=(ServicePort("", TCP, 80, node_port=port),))
        await node.sync()
        assert node.answers(1)
        assert node.action(1) != port
        assert node.answers(2)

    scene(play)


def test_what_could_not_be_forgotten_is_tried_again_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Stale] = []

    async def forget(stale: Stale) -> int:
        asked.append(stale)
        if len(asked) < 3:
            raise OSError(errno.ENOBUFS, "told to fail")
        return 0

    async def play(node: Node) -> None:
        node.serve("a", 1)
        await node.sync()
        await until(lambda: len(asked) == 3)
        await until(lambda: not node.effects.now.unreplied)
        assert [stale.tcp for stale in asked] == [{at("10.96.0.1:80")}] * 3
        assert sum("may go on with what they had" in one.message for one in caplog.records) == 1

    monkeypatch.setattr(effects, "forget", forget)
    monkeypatch.setattr(schedule, "RETRY_FIRST_S", 0.01)
    scene(play)


def test_what_becomes_of_services_is_told_once_it_is_in_force(caplog: pytest.LogCaptureFixture) -> None:
    """What there is at the start is told in sum."""

    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if " default/" in one.getMessage()]

    async def play(node: Node) -> None:
        caplog.set_level(logging.INFO, "kpf")
        node.serve("web", 1)
        await node.sync()
        assert told() == []
        node.kernel.refuses = True
        node.serve("more", 2, count=3)
        node.reconciler.request()
        await until(lambda: "what was in force stays so" in caplog.text)
        assert told() == []
        node.kernel.refuses = False
        come = "Service default/more has come: 10.96.0.2:80/TCP; 3 endpoints"
        await until(lambda: told() == [come])
        node.serve("rival", 1)
        await node.sync()
        (_, problem) = told()
        assert "10.96.0.1:80/TCP is already claimed by Service default/web" in problem
        node.forget("rival")
        await node.sync()
        assert told()[2:] == [f"solved, of 1 problems 0 are left: {problem}"]

    scene(play)
