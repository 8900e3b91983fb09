"""What goes wrong, and what the unit makes of it: as little as can be."""

import errno
import re

import pytest

from kpf.lab.machine import wait_until
from tests.systemd.shop import Shop, Tally, Tell
from tests.systemd.unit import Unit

pytestmark = pytest.mark.systemd

# systemd gives up after five within 10 s by default: systemd-system.conf(5), DefaultStartLimitBurst=
CRASHES = 6
# longer than TimeoutStartSec= and WatchdogSec=
PATIENCE_S = 75
WATCHDOG_S = 120.0
WARNING, INFORMATION = "4", "6"
NEVER_OBEYS = "[Service]\nKillSignal=SIGWINCH\nTimeoutStopSec=3\n"


def test_a_killed_master_leaves_its_workers_to_the_next(running: Unit, shop: Shop, tell: Tell) -> None:
    former = running.master
    with shop.load() as load:
        running.signal("KILL", former)
        within_s = running.await_another(former, timeout_s=20.0)
        tally = Tally.of(load.stop())
    tell(f"SIGKILL of the master, another one after {within_s:.1f} s", tally)
    assert (tally.failed, tally.cut) == (0, 0)


def test_six_quick_crashes_are_not_the_end(running: Unit, shop: Shop, tell: Tell) -> None:
    with shop.load() as load:
        for _ in range(CRASHES):
            former = running.kill_master()
        running.await_another(former, timeout_s=20.0)
        tally = Tally.of(load.stop())
    tell(f"SIGKILL of {CRASHES} masters, each as soon as it is there", tally)
    assert (tally.failed, tally.cut) == (0, 0)
    assert shop.answers()


def test_a_master_that_hangs_is_replaced(running: Unit, shop: Shop) -> None:
    former = running.master
    running.signal("STOP", former)
    running.await_another(former, timeout_s=WATCHDOG_S)
    assert shop.answers()


def test_a_kpf_that_waits_for_its_api_server_is_left_alone(unit: Unit) -> None:
    unit.follow_no_api_server()
    assert unit.systemctl("start", "--no-block").returncode == 0
    unit.wait_for("127.0.0.1:1")
    waiting = unit.master
    # tail ends with it
    dies = ("timeout", str(PATIENCE_S), "tail", f"--pid={waiting}", "--follow", "/dev/null")
    unit.machine.run(*dies, timeout_s=PATIENCE_S + 10.0)
    assert (unit.state, unit.master) == ("activating", waiting)


def test_a_kpf_that_has_never_written_the_table_leaves_it(running: Unit) -> None:
    running.follow_no_api_server()
    running.kill_master()
    running.wait_for("127.0.0.1:1")
    waiting = running.master
    running.signal("TERM", waiting)
    wait_until(lambda: running.state == "inactive", timeout_s=20.0, what="its end")
    assert running.tables() == ["kpf"]


@pytest.mark.parametrize("when", ["auto-restart", "start"])
def test_stop_takes_away_what_a_crash_has_left(running: Unit, when: str) -> None:
    running.follow_no_api_server()
    running.kill_master()
    wait_until(lambda: running.show("SubState") == when, what=when)
    assert running.tables() == ["kpf"]
    assert running.systemctl("stop").returncode == 0
    wait_until(lambda: running.tables() == [], timeout_s=5.0, what="no table")


def test_stop_takes_away_the_table_of_a_master_that_does_not_obey(unit: Unit) -> None:
    folder = unit.machine.files / "etc/systemd/system/kpf.service.d"
    folder.mkdir()
    (folder / "never-obeys.conf").write_text(NEVER_OBEYS, encoding="utf-8")
    try:
        unit.machine.output("systemctl", "daemon-reload")
        unit.start()
        assert unit.systemctl("stop").returncode == 0
        assert unit.show("Result") == "timeout"
        wait_until(lambda: unit.tables() == [], timeout_s=5.0, what="no table")
    finally:
        unit.machine.output("rm", "-r", "/etc/systemd/system/kpf.service.d")


def test_a_bad_configuration_is_refused_when_it_is_to_be_read(running: Unit, shop: Shop) -> None:
    running.configure("nonsense: 1")
    done = running.systemctl("reload")
    assert done.returncode != 0
    assert running.state == "active"
    assert shop.answers()


def test_one_bad_manifest_does_not_keep_the_others_from_being_read(running: Unit) -> None:
    running.manifests.write_text("bad.yaml", "kind: [")
    done = running.systemctl("reload")
    assert done.returncode == 0, done.stderr
    running.wait_for("read anew")


def test_the_journal_knows_what_is_urgent_and_tells_each_time_once(running: Unit) -> None:
    running.wait_for("ready:")
    # the machine has no IPv6 address
    assert {entry["PRIORITY"] for entry in running.said("::1 is the only IPv6 address")} == {WARNING}
    assert {entry["PRIORITY"] for entry in running.said("ready:")} == {INFORMATION}
    prefixed = [entry["MESSAGE"] for entry in running.journal() if re.match(r"<\d|\d{4}-", entry["MESSAGE"])]
    assert prefixed == []


def test_systemctl_status_says_what_it_serves_or_waits_for(running: Unit) -> None:
    assert "1 Service" in running.show("StatusText")
    running.follow_no_api_server()
    assert running.systemctl("restart", "--no-block").returncode == 0
    wait_until(lambda: "refused" in running.show("StatusText"), timeout_s=20.0, what="a word about the API server")


def test_a_system_call_that_is_not_allowed_fails_and_kills_nobody(unit: Unit) -> None:
    assert int(unit.show("SystemCallErrorNumber")) == errno.EPERM
