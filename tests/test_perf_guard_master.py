"""What a change costs between the master, the kernel and the workers, counted in what does not depend on the machine.

Netlink messages and bytes are counted where they enter the kernel, frames of the channel and words of shared memory
where they are written. A change costs the same among few services and among many.
"""

import asyncio
import functools
import itertools
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from kpf.master import effects, schedule, workers
from kpf.master.effects import Effects
from kpf.master.listening import ListeningSockets
from kpf.master.reconcile import Reconciler
from kpf.master.workers import Workers
from kpf.model.endpoint import EndpointPort, EndpointSlice
from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, ServicePortName, SocketAddress
from kpf.model.rules import Forward, Rules
from kpf.model.service import Service, ServicePort
from kpf.model.snapshot import Snapshot
from kpf.net.messages import Configure
from kpf.netlink import conntrack
from kpf.netlink.socket import frames
from kpf.nft.batch import difference
from kpf.nft.kernel import Kernel
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.plan.transition import FlowsKept, Forget, InForce, Step, UpdateFrontends, WriteRules, transition
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from kpf.uapi.nf_tables import NFT_MSG
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH, NFNL_SUBSYS
from kpf.uapi.rtnetlink import RTM
from tests import budget
from tests.stage import own_namespace
from tests.values import TCP, UDP, endpoints, service, snapshot

WORKERS = 2
SIZES = (10, 500)

CHANGES = (
    "an endpoint is replaced",
    "a Service is added",
    "a node port is changed",
    "a Service is removed",
    "a direct Service is added",
    "a direct endpoint is replaced",
    "a direct Service is removed",
)
CHANGES_OF_ALL = ("all but five Services are added", "a full sync")
# In columns, by change, on nodes of 10 and of 500 Services alike. Netlink messages by kind, bytes and send() calls;
# the channel's frames and bytes, both ways, for two workers; words of shared memory that the master has written.
# fmt: off
OF_A_CHANGE = {
    #                     endpoint  Service  node port  Service   direct:  endpoint  Service
    #                     replaced  added    changed    removed   added    replaced  removed
    "netlink sends":      (      0,       3,         3,       2,       2,        2,       2),
    "netlink bytes":      (      0,     492,       360,     444,    1224,      884,     736),
    "transaction begins": (      0,       1,         1,       2,       1,        1,       1),
    "new set":            (      0,       0,         0,       0,       1,        1,       0),
    "new chain":          (      0,       0,         0,       0,       1,        0,       0),
    "delete chain":       (      0,       0,         0,       0,       0,        0,       1),
    "delete rules":       (      0,       0,         0,       0,       0,        1,       1),
    "new rule":           (      0,       0,         0,       0,       1,        1,       0),
    "delete elements":    (      0,       0,         1,       4,       0,        1,       4),
    "new elements":       (      0,       4,         1,       0,       5,        2,       0),
    "transaction ends":   (      0,       1,         1,       2,       1,        1,       1),
    "address dumps":      (      0,       1,         1,       0,       0,        0,       0),
    "conntrack dumps":    (      0,       1,         1,       0,       1,        1,       1),
    "channel frames":     (      0,       4,         0,       4,       0,        0,       0),
    "channel bytes":      (      0,     128,         0,     126,       0,        0,       0),
    "words written":      (     14,      45,         0,       1,       0,        0,       0),
}
OF_ALL = {
    #                        added     full sync
    #                       5    495     10    500
    "netlink sends":      (  2,     2,     2,     2),
    "netlink bytes":      (736, 47776, 31664, 78704),
    "transaction begins": (  1,     1,     1,     1),
    "new table":          (  0,     0,     1,     1),
    "new set":            (  0,     0,    40,    40),
    "new chain":          (  0,     0,    22,    22),
    "delete rules":       (  0,     0,     1,     1),
    "delete elements":    (  0,     0,    40,    40),
    "new rule":           (  0,     0,    73,    73),
    "new elements":       (  3,     3,     5,     5),
    "transaction ends":   (  1,     1,     1,     1),
    "conntrack dumps":    (  1,     1,     1,     1),
    "channel frames":     (  4,     8,     0,     0),
    "channel bytes":      (160,  4200,     0,     0),
    "words written":      (225, 22275,     0,     0),
}
# fmt: on

NFTABLES = NFNL_SUBSYS.NFTABLES << 8
KINDS = {
    int(NFNL_MSG_BATCH.BEGIN): "transaction begins",
    int(NFNL_MSG_BATCH.END): "transaction ends",
    NFTABLES | NFT_MSG.NEWTABLE: "new table",
    NFTABLES | NFT_MSG.NEWCHAIN: "new chain",
    NFTABLES | NFT_MSG.DELCHAIN: "delete chain",
    NFTABLES | NFT_MSG.NEWRULE: "new rule",
    NFTABLES | NFT_MSG.DELRULE: "delete rules",
    NFTABLES | NFT_MSG.NEWSET: "new set",
    NFTABLES | NFT_MSG.NEWSETELEM: "new elements",
    NFTABLES | NFT_MSG.DELSETELEM: "delete elements",
    conntrack.GET: "conntrack dumps",
    int(RTM.GETADDR): "address dumps",
}
FACTS = NodeFacts(
    name="node-1",
    proxy_addresses={Family.IPV4: ip_address("127.0.0.1")},
    local_addresses=frozenset({ip_address("127.0.0.1")}),
    worker_uid=70_000,
)
PORTS = ProxyPorts(range(20000, 29999), 1000, lambda _: True)

# so that numbers in messages to workers have as many digits among few Services as among many
SLOTS_IN_USE, SYNCS_BEFORE = 100, 5


def count_writes(patch: pytest.MonkeyPatch, cost: Counter[str]) -> None:
    """Everything that any socket of this process sends to netlink, or sends and receives as a channel."""

    def write(sock: socket.socket, data: bytes) -> None:
        if sock.family == socket.AF_NETLINK:
            cost["netlink sends"] += 1
            cost["netlink bytes"] += len(data)
            cost.update(KINDS.get(frame.kind, f"netlink message {frame.kind:#x}") for frame in frames(data))
        elif sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
            cost["channel frames"] += 1
            cost["channel bytes"] += len(data)

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(sock: socket.socket, data: Any, *rest: Any) -> Any:
            result = real(sock, data, *rest)
            if name == "recvmsg":
                write(sock, result[0])
            else:
                write(sock, b"".join(data) if name == "sendmsg" else bytes(data))
            return result

        return call

    for name in ("send", "sendall", "sendto", "sendmsg", "recvmsg"):
        patch.setattr(socket.socket, name, counted(name, getattr(socket.socket, name)))


class CountingWords:
    """Shared memory that counts the words that are written to it."""

    def __init__(self, words: memoryview, cost: Counter[str]) -> None:
        self._words, self._cost = words, cost

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int | slice, value: Any) -> None:
        self._words[at] = value
        self._cost["words written"] += len(value) if isinstance(at, slice) else 1


class Node:
    """A master without its sources, its workers, and the kernel of this namespace. `cost`: of what is counted."""

    def __init__(self, cost: Counter[str]) -> None:
        self.cost = cost
        self._running: asyncio.Task[None] | None = None
        self.services: dict[int, tuple[Service, EndpointSlice]] = {}
        region = Region.create()
        region.words = cast(memoryview, CountingWords(region.words, cost))
        # the clock of tidying up, which takes a second and does not belong to any change
        directory = Directory(region, clock=lambda: 0)
        directory.take_worker_slots(WORKERS)
        for _ in range(SLOTS_IN_USE):
            directory.claim(b"")
        self.listeners = ListeningSockets(WORKERS)
        self.workers = Workers(directory, self.listeners, newborn=newborn, slots=range(WORKERS))
        self.kernel = Kernel()
        self.effects = Effects(directory, self.listeners, self.workers, self.kernel)
        self.reconciler = Reconciler(
            self.effects, read=self.read, facts=lambda _: FACTS, port_range=range(20000, 29999), capacity=1000
        )

    def read(self) -> Snapshot:
        return snapshot(*(one for objects in self.services.values() for one in objects))

    async def start(self) -> None:
        await self.workers.start()
        self._running = asyncio.create_task(self.reconciler.run())

    async def sync(self, *, full: bool = False) -> Counter[str]:
        """What it costs to bring the services into force, to the last thing that follows from it."""
        before, generation = self.cost.copy(), self.reconciler.progress.generation
        self.reconciler.request(full=full)

        def is_settled() -> bool:
            progress = self.reconciler.progress
            return progress.generation > generation and progress.waiting_since_s is None and not self.effects.closing

        async with asyncio.timeout(20.0):
            while not is_settled():
                await asyncio.sleep(0.005)
        return self.cost - before

    async def close(self) -> None:
        if self._running:
            self._running.cancel()
        await self.workers.abort()
        await self.effects.finish()
        await self.kernel.delete()
        self.kernel.close()
        for listener in (*self.effects.now.frontends, *self.effects.closing):
            self.listeners.close(listener)


def newborn(slot: int) -> Configure:
    return Configure(0, slot, WORKERS, os.getuid(), os.getgid(), 1.0)


def web(number: int, *, pods: Sequence[int] = (1, 2, 3), node_port: int = 0) -> tuple[Service, EndpointSlice]:
    name, network = f"service-{number:03}", f"{number // 250}.{number % 250}"
    port = ServicePort("", TCP, 80, node_port=node_port)
    return (
        service(name, cluster_ips=(f"10.96.{network}",), ports=(port,)),
        endpoints(*(f"10.{128 + number // 250}.{number % 250}.{pod}" for pod in pods), of=name),
    )


def dns(number: int, *, pods: Sequence[int] = (1, 2, 3)) -> tuple[Service, EndpointSlice]:
    """A Service that the kernel forwards."""
    made, slices = web(number, pods=pods)
    port = ServicePort("", UDP, 53)
    return replace(made, ports=(port,)), replace(slices, ports=(EndpointPort("", UDP, 5353),))


async def costs_among(size: int) -> dict[str, Counter[str]]:
    """What each change costs on a node with so many Services."""
    cost, found = Counter[str](), dict[str, Counter[str]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "MIN_INTERVAL_S", 0.0)
        patch.setattr(effects, "QUIET_S", 0.02)
        patch.setattr(workers, "ACKNOWLEDGE_S", 10.0)
        node = Node(cost)
        try:
            await node.start()
            count_writes(patch, cost)
            for number in range(SYNCS_BEFORE):
                node.services[number] = web(number)
                await node.sync()
            node.services |= {number: web(number) for number in range(SYNCS_BEFORE, size)}
            found["all but five Services are added"] = await node.sync()
            node.services[0] = web(0, pods=(1, 2, 4))
            found["an endpoint is replaced"] = await node.sync()
            node.services[size] = web(size, node_port=30080)
            found["a Service is added"] = await node.sync()
            node.services[size] = web(size, node_port=30081)
            found["a node port is changed"] = await node.sync()
            del node.services[size]
            found["a Service is removed"] = await node.sync()
            node.services[size] = dns(size)
            found["a direct Service is added"] = await node.sync()
            node.services[size] = dns(size, pods=(1, 2, 4))
            found["a direct endpoint is replaced"] = await node.sync()
            del node.services[size]
            found["a direct Service is removed"] = await node.sync()
            found["a full sync"] = await node.sync(full=True)
        finally:
            await node.close()
    return found


@functools.cache
def costs(size: int) -> dict[str, Counter[str]]:
    # where no earlier test has left entries in conntrack, which would have to be deleted
    with own_namespace():
        return asyncio.run(costs_among(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change(change: str, size: int) -> None:
    budget.check(f"{change}, among {size} Services", OF_A_CHANGE, CHANGES.index(change), costs(size)[change])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", CHANGES_OF_ALL)
def test_a_change_of_all(change: str, size: int) -> None:
    column = CHANGES_OF_ALL.index(change) * len(SIZES) + SIZES.index(size)
    budget.check(f"{change}, of {size} Services", OF_ALL, column, costs(size)[change])


# what an endpoint's coming and going costs in Python, which at 5,000 Services is felt first
ENDPOINT_CHANGES: dict[str, tuple[int, ...]] = {
    "another endpoint": (1, 2, 4),
    "one more": (1, 2, 4, 5),
    "none is left": (),
    "the first one": (1,),
}


# kinds of Services, and the steps that a change of their endpoints may take
KINDS_OF_SERVICE = {"proxied": (web, {UpdateFrontends, WriteRules}), "direct": (dns, {WriteRules, Forget})}


@functools.cache
def instructions(size: int, kind: str) -> dict[str, int]:
    """What each change of one Service among so many takes to plan, to compare and to encode, in bytecode."""
    make, allowed = KINDS_OF_SERVICE[kind]
    objects = {number: make(number) for number in range(size)}
    planner, state, now, found = Planner(), DesiredState(), InForce(), dict[str, int]()
    serials = itertools.count(1)

    def read() -> Snapshot:
        made, serial = snapshot(*(one for pair in objects.values() for one in pair)), next(serials)
        return replace(made, serial=serial, previous=serial - 1, touched=frozenset({objects[1][0].name}))

    def plan(read: Snapshot) -> tuple[DesiredState, list[Step]]:
        plans, ownership = planner.plan(read, FACTS)
        allocation = allocate(
            ownership,
            FACTS,
            PORTS,
            before=state.allocation,
            open_now=now.frontends,
            still_open=frozenset(now.frontends),
        )
        desired = desired_state(plans, allocation, state)
        steps = list(transition(now, state.rules, desired))
        for step in steps:
            if isinstance(step, WriteRules):
                difference(step.old or Rules(), step.new)
        return desired, steps

    def carry_out() -> None:
        now.frontends = dict(state.frontends)
        now.flows = FlowsKept(state.captured, state.flows_kept)

    state, _ = plan(read())
    carry_out()
    # the second time, when what is looked up once for all has been looked up
    for change, pods in (*ENDPOINT_CHANGES.items(), *ENDPOINT_CHANGES.items()):
        objects[1] = (objects[1][0], make(1, pods=pods)[1])
        newest = read()
        # a random number takes a random number of attempts
        random.seed(0)
        with counted_instructions() as count:
            state, steps = plan(newest)
        found[change] = count()
        assert {type(step) for step in steps} <= allowed
        carry_out()
    return found


@contextmanager
def counted_instructions() -> Iterator[Callable[[], int]]:
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("kind", KINDS_OF_SERVICE)
@pytest.mark.parametrize("change", ENDPOINT_CHANGES)
def test_a_change_of_endpoints_is_planned_without_a_look_at_other_services(change: str, kind: str) -> None:
    few, many = (instructions(size, kind)[change] for size in SIZES)
    assert few == many > 0


# 20 frontends of 10 endpoints: sets of affinity entries that say how large they may become would take 400 MiB
PINNED, SLAB_LIMIT_KB = 20, 100 << 10


def test_pins_take_no_room_in_the_kernel_before_there_are_any() -> None:
    pods = tuple(SocketAddress(ip_address(f"10.128.0.{pod}"), 53) for pod in range(1, 11))
    names = (ServicePortName("default", f"service-{number}", "", UDP) for number in range(PINNED))
    forwards = {
        FrontendKey(name, Family.IPV4, EndpointSet.CLUSTER, Forwarding.DIRECT): Forward(pods, 600) for name in names
    }

    async def taken_kb() -> int:
        kernel, before_kb = Kernel(), slab_kb()
        try:
            await kernel.replace(Rules(forwards=forwards))
            return slab_kb() - before_kb
        finally:
            kernel.close()

    with own_namespace():
        assert asyncio.run(taken_kb()) < SLAB_LIMIT_KB


def slab_kb() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))
