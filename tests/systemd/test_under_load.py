"""What an administrator, or a fault, does to the unit, with new and kept connections beside it."""

import pytest

from kpf.lab.machine import wait_until
from tests.systemd.shop import Shop, Tally, Tell
from tests.systemd.unit import DEATH, WORKERS, Unit

pytestmark = pytest.mark.systemd


def test_five_reloads_are_not_noticed(running: Unit, shop: Shop, tell: Tell) -> None:
    with shop.load() as load:
        for _ in range(5):
            read = len(running.said("read anew"))
            assert running.systemctl("reload").returncode == 0
            running.wait_for("read anew", times=read + 1)
        tally = Tally.of(load.stop())
    tell("five reloads", tally)
    assert (tally.failed, tally.cut) == (0, 0)


def test_a_killed_worker_takes_its_own_connections_and_no_more(running: Unit, shop: Shop, tell: Tell) -> None:
    first, second = running.workers()
    with shop.load() as load:
        running.signal("KILL", first)
        wait_until(lambda: len(running.workers()) == WORKERS, what="another worker")
        tally = Tally.of(load.stop())
    tell("SIGKILL of a worker", tally)
    assert second in running.workers()
    assert first not in running.workers()
    deaths = [match for entry in running.journal() if (match := DEATH.search(entry["MESSAGE"]))]
    ((pid, active),) = [match.groups() for match in deaths]
    assert int(pid) == first
    # kept ones, and new ones that were under way at that moment
    assert tally.cut + tally.failed <= int(active)


def test_a_restart_makes_another_master_and_nobody_notices(running: Unit, shop: Shop, tell: Tell) -> None:
    former = running.master
    with shop.load() as load:
        done = running.systemctl("restart")
        assert done.returncode == 0, done.stderr
        assert running.master not in (0, former)
        assert shop.answers()
        tally = Tally.of(load.stop())
    tell("restart", tally)
    assert (tally.failed, tally.cut) == (0, 0)
    assert running.tables() == ["kpf"]
    assert running.show("NRestarts") == "0"


def test_a_killed_master_is_replaced(running: Unit, shop: Shop, tell: Tell) -> None:
    with shop.load() as load:
        former = running.kill_master()
        within_s = running.await_another(former, timeout_s=20.0)
        assert shop.answers()
        tally = Tally.of(load.stop())
    tell(f"SIGKILL of the master, another one after {within_s:.1f} s", tally)
    assert running.tables() == ["kpf"]
    assert running.show("NRestarts") == "1"
    assert len(running.workers()) == WORKERS


def test_stop_waits_for_open_connections_and_drops_new_ones(running: Unit, shop: Shop, tell: Tell) -> None:
    with shop.load() as load:
        stopping = running.machine.begin("systemctl", "stop", "kpf")
        running.wait_for("new connections are dropped")
        assert not shop.answers()
        assert running.state == "deactivating"
        # a second of answers on the kept ones while it drains, before they are closed
        tally = Tally.of(load.stop())
    assert stopping.wait(10.0) == 0
    tell("stop", tally)
    assert tally.cut == 0
    assert running.tables() == []
