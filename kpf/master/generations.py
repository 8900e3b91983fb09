"""All workers that this master looks after: the generation that serves, and earlier ones that are leaving.

Those that leave go on with their open connections, and accept nothing. They are this master's own, from before a change
of `workers`, or those of a master before it that is gone, which have handed over one by one.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from kpf.master.listening import ListeningGroup, ListeningSockets
from kpf.master.successor import Holder
from kpf.master.supervisor import Slot
from kpf.master.workers import TICK_S, Workers
from kpf.model.names import IPAddress
from kpf.net.messages import Configure, Reset
from kpf.shm.directory import Directory

log = logging.getLogger("kpf")

QUIET_S, QUIET_LIMIT_S = 0.5, 2.0
# one that serves, and those before it that still have connections
MAX_GENERATIONS = 8


class Generations:
    """`newborn` makes a Configure message for a worker. Raises `CapacityError` if shared memory has no place left.

    `steers`: False while a predecessor does; `serve` ends that. `is_held`: they accept nothing before `hold` says so.
    """

    def __init__(
        self,
        directory: Directory,
        listeners: ListeningSockets,
        *,
        newborn: Callable[[int], Configure],
        handover: socket.socket,
        count: int,
        generation: int,
        steers: bool = True,
        is_held: bool = False,
    ) -> None:
        self._directory, self._listeners = directory, listeners
        self._newborn, self._handover = newborn, handover
        self.serving = self._made(count, generation, steers=steers)
        self.serving.is_held = is_held
        self._surplus_due_s: float | None = None
        self._leaving: list[Workers] = []
        self._adopted: dict[asyncio.Task[None], Holder] = {}

    def _made(self, count: int, generation: int, *, steers: bool) -> Workers:
        return Workers(
            self._directory,
            self._listeners,
            newborn=self._newborn,
            slots=self._directory.take_worker_slots(count),
            generation=generation,
            handover=self._handover,
            steers=steers,
        )

    @property
    def all(self) -> Sequence[Workers]:
        """The generations of this master's own, the one that serves first."""
        return self.serving, *self._leaving

    @property
    def slots(self) -> Sequence[Slot]:
        """The supervisor's, of those that serve, by index; their fields change with each event."""
        return self.serving.slots

    @property
    def alive(self) -> int:
        """How many of those that serve have become ready, and are not known to be stuck."""
        return self.serving.alive

    def uid(self) -> int | None:
        """Whose all of their dials are, once they are ready; None if they are not all the same user's."""
        return self.serving.uid()

    @property
    def is_over(self) -> bool:
        """All were told to leave, and have ended."""
        return all(one.is_over for one in self.all)

    async def start(self) -> None:
        """Spawn those that serve and wait until each is ready. Raises TimeoutError."""
        await self.serving.start()

    async def supervise(self) -> None:
        """Watch over all of them, for ever, every `TICK_S`."""
        while True:
            await asyncio.sleep(TICK_S)
            for one in self.all:
                one.tick()
            if self._surplus_due_s is not None and time.monotonic() >= self._surplus_due_s:
                self._surplus_due_s = None
                self._listeners.forget_surplus()
            for one in [one for one in self._leaving if one.is_over]:
                log.info("generation %d of the workers has ended", one.generation)
                self._leaving.remove(one)
                self._directory.give_worker_slots(one.places)

    def adopt(self, holders: Iterable[Holder]) -> None:
        """Workers of a master that is gone, which have been told that we serve."""
        for holder in holders:
            self._adopted[asyncio.create_task(self._await_end(holder))] = holder

    async def _await_end(self, holder: Holder) -> None:
        await holder.conversation.ended()
        holder.conversation.close()
        self._directory.give_worker_slots((holder.offer.slot,))
        task = asyncio.current_task()
        assert task is not None
        del self._adopted[task]

    async def change(self, count: int) -> None:
        """As many workers from now on: another generation serves, on the same sockets and some more, or fewer.

        Raises OSError, TimeoutError, `CapacityError`; then those that have served go on.
        """
        before = self.serving
        made = self._made(count, before.generation + 1, steers=False)
        try:
            # before they start: a newborn is told of the sockets at its place
            self._listeners.resize(count)
            await made.start()
        except OSError:
            self._listeners.resize(len(before.slots))
            await made.abort("the others serve on")
            self._directory.give_worker_slots(made.places)
            self._listeners.forget_surplus()
            raise
        self.serving = made
        self._leaving.append(before)
        self.serve()
        await self._quiet(before, range(count, len(before.slots)))
        before.leave()
        await before.have_left()
        self._listeners.forget_surplus()

    async def _quiet(self, workers: Workers, indexes: range) -> None:
        """Until these have accepted nothing for a while: handshakes go on that began when they were steered to."""
        deadline_s = time.monotonic() + QUIET_LIMIT_S
        seen, since_s = -1, time.monotonic()
        while indexes and (now_s := time.monotonic()) < deadline_s and now_s - since_s < QUIET_S:
            if (total := workers.accepted(indexes)) != seen:
                seen, since_s = total, now_s
            await asyncio.sleep(QUIET_S / 5)

    def serve(self) -> None:
        """From now on new connections go where those that serve say."""
        self.serving.serve()
        if ended := self._directory.workers.end_all_but(MAX_GENERATIONS):
            log.warning("%d workers of the oldest generations end, and their connections with them", ended)
        # a predecessor may have had more workers
        self._surplus_due_s = time.monotonic() + QUIET_LIMIT_S

    async def announce(self, groups: Sequence[ListeningGroup]) -> None:
        """Hand out listeners; wait a while until all that serve accept on them."""
        await self.serving.announce(groups)

    async def withdraw(self, frontends: Sequence[int]) -> None:
        """Make all workers close these listeners; return once each has answered, or died."""
        await asyncio.gather(*(one.withdraw(frontends) for one in self.all))

    def reset(self, addresses: Iterable[IPAddress]) -> None:
        """Make all workers end the connections that have come to these."""
        shown = tuple(addresses)
        for one in self.all:
            one.reset(shown)
        for holder in self._adopted.values():
            holder.conversation.say_if_possible(Reset(0, tuple(map(str, shown))))

    async def hold(self, is_held: bool) -> None:
        """Have those that serve accept nothing, or again."""
        await self.serving.hold(is_held)

    def leave(self) -> None:
        """Accept nothing more; end with the last connection."""
        for one in self.all:
            one.leave()

    async def drain(self) -> None:
        """Let all finish what they have, and return when the last of our own has ended."""
        await asyncio.gather(*(one.drain() for one in self.all))

    async def abort(self, why: str = "kpf ends") -> None:
        """Kill all of our own that are left, and return when the last has ended. `why`, for the log."""
        await asyncio.gather(*(one.abort(why) for one in self.all))
