"""Makes what is follow what must hold: level-triggered, coalesced, one sync at a time.

A request only marks that something may have changed; a sync reads everything anew. After an error comes a full sync,
with a back-off. Whatever was in force stays so until a sync replaces it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kpf.master.effects import Effects
from kpf.master.listeners import is_free
from kpf.model.snapshot import Node, Problem, Snapshot
from kpf.nft.kernel import TransactionFailedError
from kpf.plan.desired import DesiredState, NodeFacts, Planner, desired_state, listener_of, reserved_ports
from kpf.plan.frontends import FrontendKey
from kpf.plan.ports import assign_ports
from kpf.plan.transition import transition
from kpf.shm.directory import CapacityError

log = logging.getLogger("kpf")

MIN_INTERVAL_S = 0.1
FULL_SYNC_INTERVAL_S = 3600.0
RETRY_FIRST_S = 0.25
RETRY_LAST_S = 10.0

# An address or port that went away, or was taken, between the look at it and the bind; descriptors or memory that ran
# out. Another sync finds another port, or says what is missing.
RETRIED = (TransactionFailedError, CapacityError, OSError)


@dataclass(slots=True)
class Progress:
    """For health and status. Times are monotonic seconds; `waiting_since_s` is None when nothing waits."""

    generation: int = 0
    synced: bool = False
    waiting_since_s: float | None = None
    last_success_s: float = field(default_factory=time.monotonic)


class Reconciler:
    """`read` gives the newest snapshot, `facts` the node as it is now. `capacity`: frontends that can be served."""

    def __init__(
        self,
        effects: Effects,
        *,
        read: Callable[[], Snapshot],
        facts: Callable[[Snapshot], NodeFacts],
        port_range: range,
        capacity: int,
    ) -> None:
        self._effects, self._read, self._facts = effects, read, facts
        self._port_range, self._capacity = port_range, capacity
        self._planner = Planner()
        self._ports: dict[FrontendKey, int] = {}
        self._requested = asyncio.Event()
        self._reported: frozenset[Problem] = frozenset()
        self._full = True
        self.first_sync = asyncio.Event()
        self.progress = Progress()
        self.desired = DesiredState()
        self.node: Node | None = None

    def request(self, *, full: bool = False) -> None:
        """Something may have changed; `full`: the kernel's table may have, too."""
        self._full = self._full or full
        if self.progress.waiting_since_s is None:
            self.progress.waiting_since_s = time.monotonic()
        self._requested.set()

    async def run(self) -> None:
        """Sync when asked to, for ever; at once when it has been quiet, else `MIN_INTERVAL_S` after the last one."""
        retry_s = 0.0
        while True:
            await self._wait(retry_s)
            started_s = time.monotonic()
            succeeded = await self._attempt()
            retry_s = 0.0 if succeeded else min(max(retry_s * 2, RETRY_FIRST_S), RETRY_LAST_S)
            await asyncio.sleep(max(0.0, started_s + MIN_INTERVAL_S - time.monotonic()))

    async def _wait(self, retry_s: float) -> None:
        try:
            async with asyncio.timeout(retry_s or FULL_SYNC_INTERVAL_S):
                await self._requested.wait()
        except TimeoutError:
            self._full = True
        self._requested.clear()

    async def _attempt(self) -> bool:
        waiting_since_s, self.progress.waiting_since_s = self.progress.waiting_since_s, None
        try:
            await self._sync()
        except RETRIED as error:
            log.error("sync failed, what was in force stays so: %s", error)
            self._full = True
            self._ports = {listener.frontend: listener.at.port for listener in self._effects.now.frontends}
            self.progress.waiting_since_s = waiting_since_s or time.monotonic()
            return False
        self.progress.generation += 1
        self.progress.synced = True
        self.progress.last_success_s = time.monotonic()
        self.first_sync.set()
        return True

    async def _sync(self) -> None:
        started_s = time.monotonic()
        if self._full:
            self._effects.now.rules = None
        full, self._full = self._full, False
        snapshot = self._read()
        self.node, facts = snapshot.node, self._facts(snapshot)
        intent = self._planner.intent(snapshot, facts)
        self._ports = assign_ports(
            intent.frontends,
            self._ports,
            port_range=self._port_range,
            reserved=reserved_ports(intent),
            limit=self._capacity,
            is_free=lambda key, port: is_free(listener_of(key, port, facts)),
        )
        desired = desired_state(intent, self._ports, facts, closing=self._effects.closing)
        self._report((*snapshot.problems, *desired.problems))
        self.desired = desired
        steps = 0
        for step in transition(self._effects.now, desired):
            await self._effects.perform(step)
            steps += 1
        if steps:
            took_ms = (time.monotonic() - started_s) * 1000
            log.log(
                logging.INFO if full else logging.DEBUG,
                "synced %d services, %d frontends in %.0f ms%s",
                len(snapshot.services),
                len(desired.frontends),
                took_ms,
                ", in full" if full else "",
            )

    def _report(self, problems: tuple[Problem, ...]) -> None:
        """Say each problem once, and once more when it has come back."""
        now = frozenset(problems)
        for problem in sorted(now - self._reported):
            log.warning("%s", problem)
        solved = len(self._reported - now)
        if solved:
            log.info("%d problems are solved, %d are left", solved, len(now))
        self._reported = now
