"""The slots of the workers, as a pure machine: events and the time in, actions out.

A slot is empty, starting or ready. A worker that had become ready is replaced at once; one that dies before that, after
a back-off. New connections are steered around a slot that is empty for a while, late with its heartbeat, or paused.
"""

from dataclasses import dataclass
from enum import StrEnum

EMPTY_STEER_S = 0.25
LATE_S = 1.5
STUCK_S = 5.0
START_TIMEOUT_S = 20.0
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
# after the holder of a lock is killed, those that waited for it need a moment to show that they live
KILL_INTERVAL_S = 1.0


class State(StrEnum):
    """Of a slot. PAUSED: accepts nothing, for lack of something. LATE: no heartbeat for `LATE_S`."""

    EMPTY = "empty"
    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process has been started in the slot, and is not ready yet."""

    slot: int
    pid: int


@dataclass(frozen=True, slots=True)
class BecameReady:
    """It has been configured, and accepts what it is told to listen for."""

    slot: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended, by itself or killed; nobody is in the slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What shared memory shows, for every slot: the heartbeat's age and whether accepting is paused.

    `lock_holders`: processes that hold a lock of the shared memory at this moment.
    """

    heartbeat_ages_s: tuple[float, ...]
    paused: tuple[bool, ...]
    lock_holders: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class StopRequested:
    """From now on nobody is replaced."""


Event = Spawned | BecameReady | Exited | Observed | StopRequested


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process in the slot, in which nobody is."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """By SIGKILL; `Exited` follows. `reason` is for the log."""

    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class Steer:
    """Send new connections to these slots only; all of them: no steering."""

    healthy: frozenset[int]


Action = Spawn | Kill | Steer


@dataclass(slots=True)
class Slot:
    """`spawned_s`, `ready_s`, `vacant_s`: when its worker was started, was ready, and when nobody was left in it."""

    state: State = State.EMPTY
    pid: int = 0
    spawned_s: float = float("-inf")
    ready_s: float = float("-inf")
    vacant_s: float = float("-inf")
    restarts: int = 0
    backoff_s: float = 0.0
    spawn_at_s: float = float("-inf")
    killed: bool = False

    @property
    def accepts(self) -> bool:
        """True of who is paused or late, too: it has its listeners, and may go on at any moment."""
        return self.state not in (State.EMPTY, State.STARTING)


class Supervisor:
    """One machine for all slots, since steering and stuck locks concern them together."""

    def __init__(self, workers: int) -> None:
        self.slots = tuple(Slot() for _ in range(workers))
        self._steered = frozenset(range(workers))
        self._stopping = False
        self._last_kill_s = float("-inf")
        self._last_look_s = self._awake_s = float("-inf")

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take note of `event` and return what to do. `now_s` is monotonic."""
        actions: list[Action] = []
        match event:
            case Spawned(slot, pid):
                self.slots[slot].pid = pid
            case BecameReady(slot):
                self.slots[slot].state, self.slots[slot].ready_s = State.READY, now_s
                self.slots[slot].backoff_s = 0.0
            case Exited(slot):
                self._bury(self.slots[slot], now_s)
            case Observed():
                actions += self._judge(event, now_s)
            case StopRequested():
                self._stopping = True
        return [*actions, *self._spawns(now_s), *self._steer(now_s)]

    def _bury(self, slot: Slot, now_s: float) -> None:
        if slot.state is State.STARTING:
            slot.backoff_s = min(max(slot.backoff_s * 2, BACKOFF_FIRST_S), BACKOFF_LAST_S)
        else:
            slot.vacant_s = now_s
        slot.state, slot.pid, slot.spawn_at_s = State.EMPTY, 0, now_s + slot.backoff_s
        slot.restarts += not self._stopping

    def _spawns(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for index, slot in enumerate(self.slots):
            if slot.state is State.EMPTY and slot.spawn_at_s <= now_s and not self._stopping:
                # from now on: the same event must not ask for it twice
                slot.state, slot.spawned_s, slot.killed = State.STARTING, now_s, False
                actions.append(Spawn(index))
        return actions

    def _judge(self, seen: Observed, now_s: float) -> list[Action]:
        # what stopped the master (a paused machine, a frozen cgroup) has stopped the workers too
        if now_s - self._last_look_s > LATE_S:
            self._awake_s = now_s
        self._last_look_s = now_s
        stuck: list[tuple[int, str]] = []
        for index, slot in enumerate(self.slots):
            if slot.state is State.EMPTY or slot.killed:
                continue
            if slot.state is State.STARTING:
                if now_s - slot.spawned_s > START_TIMEOUT_S:
                    stuck.append((index, f"not ready after {START_TIMEOUT_S:g} s"))
                continue
            # the word may still be its predecessor's
            age_s = min(seen.heartbeat_ages_s[index], now_s - slot.ready_s, now_s - self._awake_s)
            if age_s > STUCK_S:
                stuck.append((index, f"no heartbeat for {age_s:.1f} s"))
            slot.state = State.LATE if age_s > LATE_S else State.PAUSED if seen.paused[index] else State.READY
        return self._kill(stuck, seen.lock_holders, now_s)

    def _kill(self, stuck: list[tuple[int, str]], holders: frozenset[int], now_s: float) -> list[Action]:
        if not stuck or now_s - self._last_kill_s < KILL_INTERVAL_S:
            return []
        # who waits for a lock looks stuck as well: the holder goes first
        guilty = [(index, reason) for index, reason in stuck if self.slots[index].pid in holders] or stuck
        self._last_kill_s = now_s
        for index, _ in guilty:
            self.slots[index].killed = True
        return [Kill(index, reason) for index, reason in guilty]

    def _steer(self, now_s: float) -> list[Action]:
        healthy = frozenset(index for index, slot in enumerate(self.slots) if self._takes_connections(slot, now_s))
        # with nobody left, queues are as good as anything: a successor serves them
        healthy = healthy or frozenset(range(len(self.slots)))
        if healthy == self._steered:
            return []
        self._steered = healthy
        return [Steer(healthy)]

    def _takes_connections(self, slot: Slot, now_s: float) -> bool:
        if slot.state in (State.EMPTY, State.STARTING):
            return now_s - slot.vacant_s < EMPTY_STEER_S
        return slot.state is State.READY
