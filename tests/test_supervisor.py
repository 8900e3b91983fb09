"""The slot machine, as conversations."""

from kpf.master.supervisor import (
    Action,
    BecameReady,
    Event,
    Exited,
    Kill,
    Observed,
    Spawn,
    Spawned,
    State,
    Steer,
    StopRequested,
    Supervisor,
)


class Play:
    """Two slots, and a clock."""

    def __init__(self, *, ready: bool = True) -> None:
        self.machine = Supervisor(2)
        self.now_s = 1000.0
        self.next_pid = 100
        if ready:
            assert self.see() == [Spawn(0), Spawn(1)]
            for slot in (0, 1):
                self.tell(Spawned(slot, 100 + slot))
            assert self.tell(BecameReady(0)) + self.tell(BecameReady(1)) in ([], [Steer(frozenset({0})), Steer(BOTH)])

    def tell(self, event: Event) -> list[Action]:
        actions = self.machine.handle(event, self.now_s)
        for action in actions:
            if isinstance(action, Spawn):
                self.next_pid += 1
                actions = actions + self.machine.handle(Spawned(action.slot, self.next_pid), self.now_s)
        return actions

    def see(
        self, *ages_s: float, paused: tuple[bool, ...] = (False, False), holders: frozenset[int] = frozenset()
    ) -> list[Action]:
        return self.machine.handle(Observed(ages_s or (0.0, 0.0), paused, holders), self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def live(self, seconds: float) -> None:
        """All is well for some seconds."""
        for _ in range(int(seconds)):
            self.wait(1.0)
            assert self.see() == []


BOTH = frozenset({0, 1})


def test_a_worker_that_was_ready_is_replaced_at_once() -> None:
    play = Play()
    assert play.tell(Exited(0)) == [Spawn(0)]
    assert play.machine.slots[0].restarts == 1


def test_one_that_never_became_ready_is_replaced_after_a_growing_back_off() -> None:
    play = Play()
    assert play.tell(Exited(0)) == [Spawn(0)]
    waits = []
    for _ in range(8):
        assert play.tell(Exited(0)) == []
        waited = 0.0
        while Spawn(0) not in (actions := play.see()):
            play.wait(0.05)
            waited += 0.05
            assert waited < 10
            assert all(isinstance(action, Steer) for action in actions)
        play.tell(Spawned(0, 200))
        waits.append(waited)
    assert waits == sorted(waits)
    assert 0.05 <= waits[0] <= 0.16
    assert 4.9 <= waits[-1] <= 5.1
    play.tell(BecameReady(0))
    assert Spawn(0) in play.tell(Exited(0))


def test_an_empty_slot_is_steered_around_after_a_moment_and_comes_back() -> None:
    play = Play()
    play.tell(Exited(0))
    play.wait(0.2)
    assert play.see() == []
    play.wait(0.1)
    assert play.see() == [Steer(frozenset({1}))]
    assert play.tell(BecameReady(0)) == [Steer(BOTH)]


def test_a_quick_successor_needs_no_steering() -> None:
    play = Play()
    play.tell(Exited(0))
    play.wait(0.2)
    assert play.tell(BecameReady(0)) == []
    play.wait(1.0)
    assert play.see() == []


def test_a_late_or_paused_worker_is_steered_around() -> None:
    play = Play()
    play.live(10.0)
    assert play.see(2.0, 0.0) == [Steer(frozenset({1}))]
    assert play.machine.slots[0].state is State.LATE
    assert play.see(0.0, 0.0) == [Steer(BOTH)]
    assert play.see(paused=(False, True)) == [Steer(frozenset({0}))]
    assert play.see(paused=(True, True)) == [Steer(BOTH)]


def test_a_newborn_is_not_judged_by_its_predecessors_heartbeat() -> None:
    play = Play()
    play.tell(Exited(0))
    play.tell(BecameReady(0))
    play.wait(1.0)
    assert play.see(60.0, 0.0) == []


def test_a_stuck_worker_is_killed_once() -> None:
    play = Play()
    play.live(10.0)
    (kill, steer) = play.see(5.1, 0.0)
    assert isinstance(kill, Kill)
    assert kill.slot == 0
    assert "5.1 s" in kill.reason
    assert steer == Steer(frozenset({1}))
    play.wait(1.2)
    assert play.see(6.3, 0.0) == []
    assert Spawn(0) in play.tell(Exited(0))


def test_of_stuck_workers_the_one_that_holds_the_lock_goes_first() -> None:
    play = Play()
    play.live(10.0)
    holder = play.machine.slots[1].pid
    kills = [action for action in play.see(6.0, 6.0, holders=frozenset({holder})) if isinstance(action, Kill)]
    assert [kill.slot for kill in kills] == [1]
    play.wait(0.1)
    assert not any(isinstance(action, Kill) for action in play.see(6.1, 6.1))
    play.wait(1.0)
    kills = [action for action in play.see(7.1, 7.1) if isinstance(action, Kill)]
    assert [kill.slot for kill in kills] == [0]


def test_a_worker_that_never_gets_ready_is_killed() -> None:
    play = Play()
    play.tell(Exited(0))
    play.wait(21.0)
    assert any(isinstance(action, Kill) and action.slot == 0 for action in play.see())


def test_nobody_is_replaced_while_stopping() -> None:
    play = Play()
    play.tell(StopRequested())
    assert Spawn(0) not in play.tell(Exited(0))
    play.wait(60.0)
    assert not any(isinstance(action, Spawn) for action in play.see())
    assert play.machine.slots[0].restarts == 0


def test_a_master_that_was_stopped_itself_gives_its_workers_time_to_show_that_they_live() -> None:
    play = Play()
    play.wait(1.0)
    assert play.see() == []
    # the whole machine was paused: all heartbeats are old, and nobody is to blame
    play.wait(60.0)
    assert play.see(60.0, 60.0) == []
    play.wait(0.1)
    assert play.see(0.1, 60.1) == []
    while not (actions := play.see(0.0, 61.0)):
        play.wait(0.1)
    assert actions == [Steer(frozenset({0}))]
    while not (actions := play.see(0.0, 61.0)):
        play.wait(0.1)
    assert [action.slot for action in actions if isinstance(action, Kill)] == [1]
