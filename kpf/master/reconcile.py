"""Makes what is follow what must hold: level-triggered, coalesced, one sync at a time.

A request only marks that something may have changed; a sync reads everything anew. Whatever was in force stays so until
a sync replaces it. A frontend for which there is no room is left out, named, and tried again; the others do not wait
for it.

Rules that were refused are not written again before the back-off is over. A sync until then ends in front of its
transaction, so endpoints in shared memory follow all the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from kpf.master.changes import changes, named
from kpf.master.effects import Effects, FrontendsFailedError
from kpf.master.listening import is_free
from kpf.master.occupied import OccupiedNodePorts
from kpf.master.progress import Progress
from kpf.master.schedule import Schedule
from kpf.model.names import FrontendKey
from kpf.model.rules import Rules
from kpf.model.snapshot import Node, Problem, Snapshot
from kpf.nft.kernel import TransactionFailedError
from kpf.observe.story import Story
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.ownership import Ownership
from kpf.plan.planner import Planner
from kpf.plan.service_plan import ServicePlans
from kpf.plan.transition import Step, WriteRules, is_all_forgotten, transition

log = logging.getLogger("kpf")

# a refused transaction, an address that has gone, manifests that cannot be read: it may come right
RETRIED = (TransactionFailedError, OSError)
# each is a mistake for somebody to mend
PROBLEMS_AT_ONCE = 1000


class _HeldBackError(Exception):
    """The rules are those that have just been refused."""


class Reconciler:
    """`read` gives the newest snapshot, None if too little is known to begin with; `facts` the node as it is now.

    `capacity`: frontends that can be served. `problems`: since when there is each, in seconds of the Unix epoch;
    `on_problems` is called with those that are new. `changed` is set whenever `desired` may be another one.
    """

    def __init__(
        self,
        effects: Effects,
        *,
        read: Callable[[], Snapshot | None],
        facts: Callable[[Snapshot], NodeFacts],
        port_range: range,
        capacity: int,
    ) -> None:
        self._effects, self._read, self._facts = effects, read, facts
        self._ports = ProxyPorts(port_range, capacity, is_free)
        self._planner = Planner()
        self._schedule = Schedule()
        self.problems: dict[Problem, float] = {}
        self._reported: tuple[Problem, ...] = ()
        self._occupied = OccupiedNodePorts()
        # what was written last, if that has failed
        self._refused: Rules | None = None
        # whose turn it is: a sync's, or that of somebody who wants none
        self._turn = asyncio.Lock()
        # a listener is protected until it is closed
        effects.on_closed = self.request
        self.on_problems: Callable[[tuple[Problem, ...]], None] = lambda _: None
        self.story = Story()
        self._told: DesiredState | None = None
        self.first_sync = asyncio.Event()
        self.changed = asyncio.Event()
        self.progress = Progress()
        self.desired = DesiredState()
        self.node: Node | None = None

    def configure(self, *, port_range: range, capacity: int) -> None:
        """From the next sync on. Frontends whose ports are not in the range get others."""
        self._ports = ProxyPorts(port_range, capacity, is_free)

    def request(self, *, full: bool = False) -> None:
        """Something may have changed; `full`: the kernel's table may have, too."""
        self.progress.request()
        self._schedule.request(full=full)

    async def run(self) -> None:
        """Sync when it is time, for ever."""
        while True:
            is_full_due = await self._schedule.wait()
            async with self._turn:
                if is_full_due:
                    self._effects.doubt_rules()
                self.progress.begin()
                await self._attempt()
                self.progress.end()

    async def hold(self) -> None:
        """No sync begins until `go_on`. Returns once none is under way, and nothing is being closed any more."""
        await self._turn.acquire()
        await self._effects.closed()

    def go_on(self) -> None:
        """After `hold`, with a full sync."""
        # one that was given up may not have come to it
        if self._turn.locked():
            self._turn.release()
        self.request(full=True)

    async def _attempt(self) -> None:
        try:
            snapshot = self._read()
            if snapshot is None:
                # whoever knows more will ask; until then there is nothing to try
                self._schedule.succeed()
                return
            complete = await self._sync(snapshot)
        except _HeldBackError:
            return
        except RETRIED as error:
            self.progress.failures += 1
            log.error("sync failed, what was in force stays so: %s", error)
            self._schedule.fail()
        except Exception:
            # one object that kpf cannot cope with must not end the service of all others
            self.progress.failures += 1
            log.exception("sync failed by a defect in kpf, what was in force stays so")
            self._effects.doubt_rules()
            self._schedule.fail()
        else:
            self.progress.succeed(snapshot.changes)
            self.first_sync.set()
            self.changed.set()
            if complete:
                self._schedule.succeed()
            else:
                self._schedule.retry()

    async def _sync(self, snapshot: Snapshot) -> bool:
        """True if all that is wanted is in force."""
        started_s = time.monotonic()
        full = self._effects.rules is None
        self.progress.programming.note(snapshot)
        self.node, facts = snapshot.node, self._facts(snapshot)
        plans, ownership = self._planner.plan(snapshot, facts)
        try:
            steps = await self._carry_out(plans, ownership, facts)
        finally:
            self.progress.took(time.monotonic() - started_s, full=full)
            occupied = self._occupied.problems(self.desired)
            self._report((*snapshot.problems, *self.desired.problems, *occupied))
        self._tell_changes()
        if full:
            self._schedule.synced_in_full()
        if steps:
            log.log(
                logging.INFO if full else logging.DEBUG,
                "synced %d services, %d frontends in %.0f ms%s",
                len(snapshot.services),
                len(self.desired.frontends),
                (time.monotonic() - started_s) * 1000,
                ", in full" if full else "",
            )
        return self.desired.allocation.is_complete and is_all_forgotten(self._effects.now, self.desired)

    async def _carry_out(self, plans: ServicePlans, ownership: Ownership, facts: NodeFacts) -> int:
        """How many steps it took."""
        steps, left_out = 0, dict[FrontendKey, str]()
        while True:
            allocation = allocate(
                ownership,
                facts,
                self._ports,
                before=self.desired.allocation,
                open_now=self._effects.now.frontends,
                still_open=self._effects.still_open(),
                left_out=left_out,
            )
            self.desired = desired_state(plans, allocation, self.desired)
            try:
                for step in transition(self._effects.now, self._effects.rules, self.desired):
                    await self._perform(step)
                    self.progress.move()
                    steps += 1
            except FrontendsFailedError as error:
                # they are not desired in the next round, so it ends
                left_out |= error.reasons
            else:
                return steps

    async def _perform(self, step: Step) -> None:
        if not isinstance(step, WriteRules):
            await self._effects.perform(step)
            return
        if step.new == self._refused and self._schedule.is_backing_off:
            raise _HeldBackError
        self._refused = step.new
        await self._effects.perform(step)
        self._refused = None

    def _report(self, problems: tuple[Problem, ...]) -> None:
        """Say each problem once, and once more when it has come back."""
        # mostly they are the very same
        if problems == self._reported:
            return
        before, now = frozenset(self._reported), frozenset(problems)
        new, tell = tuple(sorted(now - before)), self.story.tell
        for problem in new:
            kind = "%d more problems: kpf status names all"
            tell(kind, logging.WARNING, "%s", named(problem), burst=PROBLEMS_AT_ONCE)
        if new:
            self.on_problems(new)
        for problem in sorted(before - now):
            told = "solved, of %d problems %d are left: %s"
            tell("%d more problems are solved", logging.INFO, told, len(before), len(now), named(problem))
        self._reported = problems
        now_s = time.time()
        self.problems = {problem: self.problems.get(problem, now_s) for problem in problems}

    def _tell_changes(self) -> None:
        """Of Services, once they are in force; what there is at the start is told in sum."""
        before, self._told = self._told, self.desired
        if before is not None:
            for kind, service, what in changes(before, self._told):
                self.story.tell(kind, logging.INFO, "%s %s", service, what)
