"""The workers of all slots: carries out what the supervisor decides, and speaks to those who live.

A newborn is told the whole state before anything else, so every later message finds it up to date.
"""

import asyncio
import errno
import itertools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from kpf.master.listening import ListeningGroup, ListeningSockets
from kpf.master.process import WorkerProcess
from kpf.master.supervisor import (
    LATE_S,
    BecameReady,
    Event,
    Exited,
    Kill,
    Observed,
    Slot,
    Spawn,
    Spawned,
    Steer,
    StopRequested,
    Supervisor,
)
from kpf.model.names import IPAddress
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.net.messages import Close, Configure, Drain, Listen, Reset
from kpf.shm.directory import Directory

log = logging.getLogger("kpf")

TICK_S = 0.1
ACKNOWLEDGE_S = 1.0
START_S = 30.0


class Workers:
    """All worker processes. `newborn(slot)` makes a Configure message, number 0."""

    def __init__(
        self, directory: Directory, listeners: ListeningSockets, *, newborn: Callable[[int], Configure], count: int
    ) -> None:
        self._directory, self._listeners, self._newborn = directory, listeners, newborn
        self._supervisor = Supervisor(count)
        self._processes: dict[int, WorkerProcess] = {}
        self._number = itertools.count(1)
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def slots(self) -> Sequence[Slot]:
        """The supervisor's, by number; their fields change with each event."""
        return self._supervisor.slots

    @property
    def alive(self) -> int:
        """How many have become ready, and are not known to be stuck."""
        return sum(slot.accepts and not slot.killed for slot in self.slots)

    def privileges(self, slot: int) -> str:
        """What its worker could not give up and why, or "none"; "" while nobody is in the slot, or it is not ready."""
        process = self._processes.get(slot)
        return process.privileges if process else ""

    def uid(self) -> int | None:
        """Whose all of their dials are, once they are ready; None if they are not all the same user's."""
        found = {process.uid for process in self._processes.values()}
        return found.pop() if len(found) == 1 else None

    async def start(self) -> None:
        """Spawn all and wait until each is ready, `START_S` at most. Raises TimeoutError."""
        deadline_s = time.monotonic() + START_S
        self.tick()
        while not all(slot.accepts for slot in self.slots):
            if time.monotonic() > deadline_s:
                raise TimeoutError(errno.ETIMEDOUT, f"the workers were not ready within {START_S:g} s")
            await asyncio.sleep(TICK_S / 10)
            self.tick()

    async def supervise(self) -> None:
        """Watch over them, for ever, every `TICK_S`."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Look at all heartbeats, and do what the supervisor makes of them.

        Who holds locks is asked of the kernel only while somebody is late for `LATE_S`.
        """
        ages, paused = zip(*map(self._observe, range(len(self.slots))), strict=True)
        stuck = any(age > LATE_S for age in ages)
        self._handle(Observed(ages, paused, self._directory.lock_holders() if stuck else frozenset()))

    def _observe(self, worker: int) -> tuple[float, bool]:
        seen = self._directory.worker(worker)
        return time.monotonic() - seen.heartbeat_ms / 1000, seen.paused

    def _handle(self, event: Event) -> None:
        for action in self._supervisor.handle(event, time.monotonic()):
            match action:
                case Spawn(slot):
                    self._spawn(slot)
                case Kill(slot, reason):
                    log.warning("worker %d (pid %d) is killed: %s", slot, self._processes[slot].pid, reason)
                    self._processes[slot].kill()
                case Steer(healthy):
                    self._steer(healthy)
        self._changed.set()

    def _steer(self, healthy: frozenset[int]) -> None:
        if self._stopping:
            return
        try:
            if not self._listeners.steer(healthy):
                return
        except OSError as error:
            log.error("new connections cannot be steered, they go to all workers: %s", error)
            return
        if len(healthy) < len(self.slots):
            log.info("new connections go to workers %s only", sorted(healthy))
        else:
            log.info("new connections go to all workers")

    def _spawn(self, slot: int) -> None:
        try:
            process = WorkerProcess(slot, on_ready=self._on_ready, on_exit=self._on_exit)
        except OSError as error:
            log.error("worker %d cannot be started: %s", slot, error)
            self._handle(Exited(slot))
            return
        self._processes[slot] = process
        process.send(self._newborn(slot), [self._directory.descriptor])
        for frontends, sockets in _batches(self._listeners.of_worker(slot)):
            process.send(Listen(next(self._number), frontends), sockets)
        self._handle(Spawned(slot, process.pid))

    def _on_ready(self, process: WorkerProcess) -> None:
        log.info("worker %d (pid %d) is ready", process.slot, process.pid)
        self._handle(BecameReady(process.slot))

    def _on_exit(self, process: WorkerProcess, status: int) -> None:
        del self._processes[process.slot]
        active = self._directory.worker(process.slot).active
        # while we stop, an end is news only if it has cut somebody off
        if active or not self._stopping:
            cause = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
            log.warning(
                "worker %d (pid %d) died by %s with %d active connections", process.slot, process.pid, cause, active
            )
        self._handle(Exited(process.slot))

    async def announce(self, groups: Sequence[ListeningGroup]) -> None:
        """Hand out listeners; wait until all who live accept on them, `ACKNOWLEDGE_S` at most."""
        answers = [
            process.send(Listen(next(self._number), frontends), sockets)
            for slot, process in self._processes.items()
            for frontends, sockets in _batches((group.frontend_slot, group.sockets[slot]) for group in groups)
        ]
        # they listen already: who is late delays connections and loses none
        if answers:
            await asyncio.wait(answers, timeout=ACKNOWLEDGE_S)

    async def withdraw(self, frontends: Sequence[int]) -> None:
        """Make all workers close these listeners; return once each has answered, or died.

        Until then one that is late may still have to be told of them, and takes connections by their frontends' slots.
        """
        answers = [
            process.send(Close(next(self._number), tuple(batch)))
            for process in self._processes.values()
            for batch in _chunks(frontends)
        ]
        if answers:
            await asyncio.wait(answers)

    def reset(self, addresses: Iterable[IPAddress]) -> None:
        """Make all workers end the connections that have come to these."""
        shown = tuple(map(str, addresses))
        for process in self._processes.values():
            process.send(Reset(next(self._number), shown))

    async def drain(self) -> None:
        """Replace nobody any more, let all finish what they have, and return when the last has ended.

        Who is stuck is killed all the same: others may wait for a lock that it holds.
        """
        self._stopping = True
        self._handle(StopRequested())
        for process in self._processes.values():
            process.send(Drain(next(self._number)))
        supervising = asyncio.create_task(self.supervise())
        try:
            await self._until(lambda: not self._processes)
        finally:
            supervising.cancel()

    async def abort(self) -> None:
        """Kill all that are left, and return when the last has ended."""
        self._stopping = True
        self._handle(StopRequested())
        for process in self._processes.values():
            process.kill()
        await self._until(lambda: not self._processes)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def _chunks(items: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), MAX_DESCRIPTORS):
        yield items[start : start + MAX_DESCRIPTORS]


def _batches(
    listeners: Iterable[tuple[int, socket.socket]],
) -> Iterator[tuple[tuple[int, ...], tuple[socket.socket, ...]]]:
    iterator = iter(listeners)
    while batch := list(itertools.islice(iterator, MAX_DESCRIPTORS)):
        frontends, sockets = zip(*batch, strict=True)
        yield frontends, sockets
