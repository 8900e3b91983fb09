"""A generation of workers: carries out what the supervisor decides, and speaks to those who live.

A newborn is told the whole state before anything else, so every later message finds it up to date. While there are two
generations, both accept on the same sockets, each worker on those of its index; only one of them steers.
"""

import asyncio
import errno
import itertools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from kpf.master.listening import ListeningGroup, ListeningSockets, batches_of
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
from kpf.named import Named
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.net.handover import HANDOVER, MEMORY
from kpf.net.messages import Close, Configure, Drain, Hold, Listen, Reset, Told
from kpf.shm.directory import Directory

log = logging.getLogger("kpf")

TICK_S = 0.1
ACKNOWLEDGE_S = 1.0
START_S = 30.0


class Workers:
    """All worker processes of a generation. `newborn(index)` makes a Configure message, number 0, for one of them.

    What it says of slot, index, generation and descriptors is said here. `slots`: their places in shared memory, by
    index. `handover`: the listening socket at which they wait for a successor if the master is gone. `steers`: whether
    they have the word about who gets new connections; else `serve` gives it to them. `is_held`: they accept nothing.
    """

    def __init__(
        self,
        directory: Directory,
        listeners: ListeningSockets,
        *,
        newborn: Callable[[int], Configure],
        slots: Sequence[int],
        generation: int = 0,
        handover: socket.socket | None = None,
        steers: bool = True,
    ) -> None:
        self._directory, self._listeners, self._newborn = directory, listeners, newborn
        self.places, self.generation = tuple(slots), generation
        self._handover, self._steers = handover, steers
        self._supervisor = Supervisor(len(slots))
        self._healthy = frozenset(range(len(slots)))
        self._processes: dict[int, WorkerProcess] = {}
        self._number = itertools.count(1)
        self._changed = asyncio.Event()
        self._stopping = self.is_held = False
        self._aborted_for = ""
        self._drained: list[asyncio.Future[Told | None]] = []

    @property
    def slots(self) -> Sequence[Slot]:
        """The supervisor's, by index; their fields change with each event."""
        return self._supervisor.slots

    @property
    def alive(self) -> int:
        """How many have become ready, and are not known to be stuck."""
        return sum(slot.accepts and not slot.killed for slot in self.slots)

    @property
    def is_over(self) -> bool:
        """They were told to leave, and all have ended."""
        return self._stopping and not self._processes

    def accepted(self, indexes: Iterable[int]) -> int:
        """Connections that these have accepted so far, and those before them in their places."""
        return sum(self._directory.worker(self.places[index]).total for index in indexes)

    def privileges(self, index: int) -> str:
        """What this worker could not give up and why, or "none"; "" while there is nobody, or it is not ready."""
        process = self._processes.get(index)
        return process.privileges if process else ""

    def processes(self) -> list[tuple[int, WorkerProcess]]:
        """Those that live, each with its place in shared memory."""
        return [(self.places[index], process) for index, process in self._processes.items()]

    def uid(self) -> int | None:
        """Whose all of their dials are, once they are ready; None if they are not all the same user's."""
        found = {process.uid for process in self._processes.values()}
        return found.pop() if len(found) == 1 else None

    async def start(self) -> None:
        """Spawn all and wait until each is ready, `START_S` at most. Raises TimeoutError.

        And until they accept on all that is announced, `ACKNOWLEDGE_S` at most: who is late is short of something.
        """
        deadline_s = time.monotonic() + START_S
        self.tick()
        while not all(slot.accepts for slot in self.slots):
            if time.monotonic() > deadline_s:
                raise TimeoutError(errno.ETIMEDOUT, f"the workers were not ready within {START_S:g} s")
            await asyncio.sleep(TICK_S / 10)
            self.tick()
        answers = [process.answered for process in self._processes.values()]
        if answers:
            await asyncio.wait(answers, timeout=ACKNOWLEDGE_S)

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

    def _observe(self, index: int) -> tuple[float, bool]:
        seen = self._directory.worker(self.places[index])
        return time.monotonic() - seen.heartbeat_ms / 1000, seen.paused

    def _handle(self, event: Event) -> None:
        for action in self._supervisor.handle(event, time.monotonic()):
            match action:
                case Spawn(index):
                    self._spawn(index)
                case Kill(index, reason):
                    log.warning("%s is killed: %s", self._processes[index].named, Named(reason, reason=reason))
                    self._processes[index].kill()
                case Steer(healthy):
                    self._healthy = healthy
                    if self._steers and not self._stopping:
                        self._steer()
        self._changed.set()

    def serve(self) -> None:
        """From now on new connections go where these workers say, whatever others have said before."""
        self._steers = True
        self._steer()

    def _steer(self) -> None:
        try:
            if not self._listeners.steer(self._healthy):
                return
        except OSError as error:
            log.error("new connections cannot be steered, they go to all workers: %s", error)
            return
        if len(self._healthy) < len(self.slots):
            log.info("new connections go to workers %s only", [self.places[index] for index in sorted(self._healthy)])
        else:
            log.info("new connections go to all workers")

    def _spawn(self, index: int) -> None:
        try:
            process = WorkerProcess(index, self.places[index], on_ready=self._on_ready, on_exit=self._on_exit)
        except OSError as error:
            slot = self.places[index]
            log.error("%s cannot be started: %s", Named(f"worker {slot}", worker=slot), error)
            self._handle(Exited(index))
            return
        self._processes[index] = process
        process.send(*self._configuration(index))
        if self.is_held:
            process.send(Hold(next(self._number), True))
        for frontends, sockets in self._listeners.of_worker(index):
            process.send(Listen(next(self._number), frontends), sockets)
        self._handle(Spawned(index, process.pid))

    def _configuration(self, index: int) -> tuple[Configure, Sequence[socket.socket | int]]:
        files: dict[str, socket.socket | int] = {MEMORY: self._directory.descriptor}
        if self._handover is not None:
            files[HANDOVER] = self._handover
        said = self._newborn(index)
        place, generation = self.places[index], self.generation
        return replace(said, slot=place, index=index, generation=generation, descriptors=tuple(files)), [
            *files.values()
        ]

    def _on_ready(self, process: WorkerProcess) -> None:
        log.info("%s is ready", process.named)
        self._handle(BecameReady(process.index))

    def _on_exit(self, process: WorkerProcess, status: int) -> None:
        del self._processes[process.index]
        active = self._directory.worker(self.places[process.index]).active
        # while we stop, an end is news only if it has cut somebody off
        if self._aborted_for:
            if active:
                why = Named(self._aborted_for, reason=self._aborted_for)
                log.warning("%s is killed, %s: %d connections are cut", process.named, why, active)
        elif active or not self._stopping:
            cause = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
            why = Named(cause, reason=cause)
            log.warning("%s died by %s with %d active connections", process.named, why, active)
        self._handle(Exited(process.index))

    async def announce(self, groups: Sequence[ListeningGroup]) -> None:
        """Hand out listeners; wait until all who live accept on them, `ACKNOWLEDGE_S` at most."""
        answers = [
            process.send(Listen(next(self._number), frontends), sockets)
            for index, process in self._processes.items()
            for frontends, sockets in batches_of(index, groups)
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

    async def hold(self, is_held: bool) -> None:
        """Have all accept nothing, or again; return once each has answered, or died, `ACKNOWLEDGE_S` at most."""
        self.is_held = is_held
        answers = [process.send(Hold(next(self._number), is_held)) for process in self._processes.values()]
        if answers:
            await asyncio.wait(answers, timeout=ACKNOWLEDGE_S)

    def leave(self) -> None:
        """Replace nobody any more, steer nothing, and let all finish what they have: `is_over` when the last has ended.

        Who is stuck is killed all the same, while `supervise` runs: others may wait for a lock that it holds.
        Listeners may be withdrawn from those who leave as from others: their answer follows when nothing is queued.
        """
        if self._stopping:
            return
        self._stopping = True
        self._handle(StopRequested())
        self._drained = [process.send(Drain(next(self._number))) for process in self._processes.values()]

    async def have_left(self) -> None:
        """After `leave`: return once each has answered that it listens nowhere any more, or died."""
        if self._drained:
            await asyncio.wait(self._drained)

    async def drain(self) -> None:
        """Leave, and return when the last has ended, who are supervised until then."""
        self.leave()
        supervising = asyncio.create_task(self.supervise())
        try:
            await self._until(lambda: not self._processes)
        finally:
            supervising.cancel()

    async def abort(self, why: str = "kpf ends") -> None:
        """Kill all that are left, and return when the last has ended. `why`, for the log: "the drain is over"."""
        self._stopping, self._aborted_for = True, why
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
