"""What has been synced, and what waits: for health and status."""

import time
from dataclasses import dataclass, field

from kpf.master.programming import ProgrammingTimes
from kpf.model.snapshot import Changes
from kpf.observe.families import Distribution
from kpf.observe.node_metrics import SYNC_BOUNDS_S


@dataclass(slots=True)
class Progress:
    """Times are monotonic seconds.

    `moved_s`: when the sync that is under way has come further; None while there is none. `waiting_since_s`: since when
    the oldest change waits that is not in force, also while it is being applied; None when nothing waits.
    `newest_since_s`: the same of what is not being applied yet. `requested_s`: when something was requested last.
    `changes`: those that are in force, of all that the source has seen. `failures`: syncs that were refused or have
    failed. `full_took`, `partial_took`: how long syncs have taken; `programming`: how long changes.
    """

    generation: int = 0
    synced: bool = False
    moved_s: float | None = None
    waiting_since_s: float | None = None
    newest_since_s: float | None = None
    last_success_s: float = field(default_factory=time.monotonic)
    requested_s: float | None = None
    changes: Changes = field(default_factory=Changes)
    failures: int = 0
    full_took: Distribution = field(default_factory=lambda: Distribution(SYNC_BOUNDS_S))
    partial_took: Distribution = field(default_factory=lambda: Distribution(SYNC_BOUNDS_S))
    programming: ProgrammingTimes = field(default_factory=lambda: ProgrammingTimes(time.time()))

    def request(self) -> None:
        """Something waits from now on."""
        now_s = self.requested_s = time.monotonic()
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s
        if self.newest_since_s is None:
            self.newest_since_s = now_s

    def begin(self) -> None:
        """All that has been requested is being applied."""
        self.newest_since_s = None
        self.move()
        if self.waiting_since_s is None:
            self.waiting_since_s = time.monotonic()

    def move(self) -> None:
        """A step of it is done."""
        self.moved_s = time.monotonic()

    def end(self) -> None:
        """It is over, whatever came of it."""
        self.moved_s = None

    @property
    def standing_s(self) -> float:
        """How long the sync that is under way has stood still; 0 while there is none."""
        return time.monotonic() - self.moved_s if self.moved_s is not None else 0.0

    @property
    def waiting_s(self) -> float:
        """How long the oldest change has waited; 0 while there is none."""
        return time.monotonic() - self.waiting_since_s if self.waiting_since_s is not None else 0.0

    def took(self, seconds: float, *, full: bool) -> None:
        """A sync has ended, whatever came of it."""
        (self.full_took if full else self.partial_took).add(seconds)

    def succeed(self, changes: Changes) -> None:
        """All that was being applied is in force: a generation more. `changes`: of the snapshot."""
        self.changes = changes
        self.programming.in_force(time.time())
        self.generation += 1
        self.synced = True
        self.last_success_s = time.monotonic()
        self.waiting_since_s = self.newest_since_s
