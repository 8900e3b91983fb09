"""The worker process: start, one loop, end. Puts the parts together and obeys the master.

Everything is imported before privileges are dropped: an interpreter below a 0700 home cannot be read afterwards.
"""

import contextlib
import gc
import os
import resource
import select
import socket
from collections.abc import Mapping
from time import monotonic_ns

from kpf.named import call_process
from kpf.net import channel
from kpf.net.handover import HANDOVER, MEMORY
from kpf.net.messages import Close, Configure, Drain, Hold, Listen, Reset, Tell
from kpf.shm import worker_slots
from kpf.shm.balancer import Balancer
from kpf.shm.layout import HEARTBEAT, MUST_END
from kpf.shm.region import Region, monotonic_ms
from kpf.worker import privileges
from kpf.worker.acceptor import Acceptor
from kpf.worker.clock import Clock
from kpf.worker.conversation import Estate
from kpf.worker.dialer import Dialer
from kpf.worker.inventory import Inventory
from kpf.worker.orders import Orders
from kpf.worker.orphan import Orphan
from kpf.worker.pipes import PipePool
from kpf.worker.relay import Relay
from kpf.worker.resets import Resets
from kpf.worker.sessions import Sessions
from kpf.worker.sweeper import Sweeper

BATCH = 256
# the master takes a worker whose heartbeat is late for stuck
HEARTBEAT_MS = 500
# of 1000: a worker is replaced, and others go on meanwhile; so it goes before the master, which has more memory
OOM_SCORE_ADJ_ABOVE_MASTER = 100


def main(descriptor: int) -> int:
    """Serve the master at the other end of this socket. Returns the exit status.

    Raises `ChannelError` if it says anything before Configure, `RegionError`, OSError, and what `Worker.run` raises.
    """
    master = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    try:
        message, descriptors = channel.receive(master)
    except EOFError:
        return 0
    if not isinstance(message, Configure):
        raise channel.ChannelError(f"{type(message).__name__} before Configure")
    # not as another user, to whom /proc/self is not
    call_process(f"kpf: worker {message.slot}")
    _raise_descriptor_limit()
    _die_before_the_master()
    kept = privileges.drop(message.uid, message.gid)
    orders = Orders(master)
    worker = Worker(orders, message, dict(zip(message.descriptors, descriptors, strict=True)))
    gc.collect()
    gc.disable()
    gc.freeze()
    orders.ready(kept, os.getpid(), os.geteuid())
    orders.answer(message)
    worker.run()
    worker.end()
    return 0


class Worker:
    """One slot's process: its epoll, and the parts that it is made of.

    The master's channel is `orders`; `descriptors` are those that came with `configuration`, by name. Raises
    `RegionError`, OSError.
    """

    def __init__(self, orders: Orders, configuration: Configure, descriptors: Mapping[str, int]) -> None:
        region = Region.attach(descriptors[MEMORY])
        slot, record = configuration.slot, region.layout.worker(configuration.slot)
        self._orders, self._configuration = orders, configuration
        self._words, self._record = region.words, record
        worker_slots.begin(region, slot, generation=configuration.generation, pid=os.getpid())
        self._epoll = select.epoll()
        pipes = PipePool(configuration.workers)
        self._clock = Clock(monotonic_ms())
        self._sessions = Sessions(self._epoll, region.words, record, pipes, self._clock)
        self._relay = Relay(self._sessions, region.words, pipes)
        self._resets = Resets(self._sessions, self._relay)
        self._dialer = Dialer(self._sessions, self._relay, Balancer(region, slot), region.words, self._clock)
        self._acceptor = Acceptor(self._sessions, self._dialer, self._clock, region, worker=slot, pipes=pipes.limit)
        self._inventory = Inventory(self._sessions, self._dialer, self._clock, region.layout, worker=slot)
        self._sweeper = Sweeper(self._sessions, self._relay, self._clock, pipes)
        self._estate = Estate(configuration, descriptors, self._acceptor, self._clock.now_ms)
        self._handover = socket.socket(fileno=descriptors[HANDOVER]) if HANDOVER in descriptors else None
        self._orphan: Orphan | None = None
        self._unanswered: Close | Drain | None = None
        self._leaving = self._is_over = False
        self._sessions.make_room(orders.descriptor)
        self._epoll.register(orders.descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Accept, dial and relay until there is nothing left to do. Raises `ChannelError` for what no master says."""
        relay, sessions, clock = self._relay, self._sessions, self._clock
        words, heartbeat = self._words, self._record + HEARTBEAT
        carry, poll = relay.carry, self._epoll.poll
        listeners, accept = self._acceptor.listeners, self._acceptor.ready
        more = False
        # CPython 3.11 specialises a loop that jumps back without a condition, and no other
        while True:
            wait_ms = 0 if more else clock.due_ms - clock.now_ms
            batch = poll(wait_ms / 1000 if wait_ms > 0 else 0, BATCH)
            clock.now_ms = words[heartbeat] = monotonic_ns() // 1_000_000
            clock.iteration += 1
            for descriptor in carry(batch):
                if descriptor in listeners:
                    accept(listeners[descriptor])
                else:
                    self._other_ready(descriptor)
            more = clock.is_restless or clock.now_ms >= clock.due_ms
            if more:
                more = self._look_around()
                if self._is_over:
                    return
            if relay.again or sessions.ends or sessions.dead:
                more = relay.settle() or more

    def end(self) -> None:
        """Its place in shared memory may be another's from now on."""
        self._words[self._record + HEARTBEAT] = 0

    def _look_around(self) -> bool:
        """What is due now and then. True if there is more to do at once."""
        clock, acceptor = self._clock, self._acceptor
        clock.due_ms = clock.now_ms + HEARTBEAT_MS
        self._dialer.expire()
        self._sweeper.sweep()
        if self._sessions.unwatched:
            self._relay.watch_again(clock.now_ms)
        # both have to be called
        more = self._resets.settle() | acceptor.settle()
        if self._unanswered and not acceptor.is_closing:
            self._orders.answer(self._unanswered)
            self._unanswered = None
        if self._orders.is_unsettled:
            self._orders.settle()
        if self._orphan:
            self._orphan.tick(clock.now_ms)
            self._follow(self._orphan)
        over_time = self._orphan is not None and clock.now_ms >= self._orphan.deadline_ms
        is_done = (not self._sessions.active and acceptor.is_empty) or self._words[self._record + MUST_END]
        self._is_over = over_time or (self._leaving and bool(is_done))
        clock.is_restless = self._leaving or acceptor.is_unsettled or bool(self._resets.due)
        return more

    def _other_ready(self, descriptor: int) -> None:
        """The master, this one or another; or a socket that was closed earlier in the batch."""
        if self._orphan is not None:
            self._orphan.ready(descriptor, self._clock.now_ms)
            self._follow(self._orphan)
        elif descriptor == self._orders.descriptor:
            self._obey()

    def _follow(self, orphan: Orphan) -> None:
        """Do what others want of an orphan."""
        self._acceptor.hold(orphan.is_paused)
        for addresses in orphan.resets():
            self._resets.order(addresses)
            self._clock.is_restless = True
        if orphan.is_relieved and not self._leaving:
            self._leave()
        if self._leaving and not self._acceptor.is_closing:
            orphan.left()
        self._clock.at(orphan.due_ms)

    def _obey(self) -> None:
        try:
            order = self._orders.next()
        except EOFError:
            self._master_is_gone()
            return
        self._acceptor.lack(self._orders.lacks_listeners)
        if order is None:
            self._orders.settle()
            return
        message, descriptors = order
        match message:
            case Listen(frontends=frontends):
                for descriptor, frontend in zip(descriptors, frontends, strict=True):
                    self._acceptor.open(descriptor, frontend)
                self._orders.answer(message)
            case Close(frontends=frontends):
                self._acceptor.close(set(frontends))
                self._unanswered = message
                self._clock.is_restless = True
            case Reset(addresses=addresses):
                self._resets.order(addresses)
                self._clock.is_restless = True
                self._orders.answer(message)
            case Hold(is_held=is_held):
                self._acceptor.hold(is_held)
                self._orders.answer(message)
            case Tell():
                self._orders.tell(self._inventory.some(message))
            case Drain():
                self._unanswered = message
                self._leave()
            case _:
                raise channel.ChannelError(f"the master sent {type(message).__name__}")

    def _leave(self) -> None:
        """Accept what is queued, and be over with the last session."""
        self._acceptor.close()
        self._leaving = self._clock.is_restless = True

    def _master_is_gone(self) -> None:
        self._clock.is_restless = True
        self._epoll.unregister(self._orders.descriptor)
        self._orders.close()
        self._acceptor.lack(False)
        self._orphan = Orphan(
            self._sessions,
            self._estate,
            self._handover,
            master_uid=self._orders.master_uid,
            now_ms=self._clock.now_ms,
            timeout_ms=int(self._configuration.orphan_timeout_s * 1000),
            is_relieved=self._leaving,
        )


def _die_before_the_master() -> None:
    """When memory runs out."""
    # a sandbox may hide it: then it is as it was
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        score = min(int(file.read()) + OOM_SCORE_ADJ_ABOVE_MASTER, 1000)
        file.seek(0)
        file.write(str(score))


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
