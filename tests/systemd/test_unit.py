"""The unit under a real systemd: what it is, what it may, and when it counts as started."""

import pytest

from kpf.config.model import Config
from kpf.lab.machine import wait_until
from tests.systemd.shop import Shop
from tests.systemd.unit import WORKERS, Unit

pytestmark = pytest.mark.systemd

# as `systemctl show` names them
MAY = {"cap_net_admin", "cap_net_bind_service", "cap_setuid", "cap_setgid", "cap_setpcap", "cap_kill"}
# of a process that may nothing, whoever it becomes
NONE = {f"Cap{of}": f"{0:016x}" for of in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def test_systemd_has_nothing_to_say_about_the_unit(unit: Unit) -> None:
    done = unit.machine.run("systemd-analyze", "verify", "/etc/systemd/system/kpf.service")
    assert done.stdout + done.stderr == ""


def test_what_systemd_makes_of_it(unit: Unit) -> None:
    assert unit.show("LoadState") == "loaded"
    # systemd 252 makes Type=simple of a type that it does not know
    assert unit.show("Type") == "notify"
    assert unit.show("NotifyAccess") == "main"
    assert unit.show("Restart") == "on-failure"
    assert unit.show("NoNewPrivileges") == "yes"
    assert set(unit.show("CapabilityBoundingSet").split()) == MAY


def test_it_is_stopped_later_than_it_drains(unit: Unit) -> None:
    place = "/org/freedesktop/systemd1/unit/kpf_2eservice"
    of = ("org.freedesktop.systemd1", place, "org.freedesktop.systemd1.Service", "TimeoutStopUSec")
    _, usec = unit.machine.output("busctl", "get-property", *of).split()
    assert int(usec) / 1e6 > Config.model_fields["drain_timeout"].default


def test_it_serves_when_it_counts_as_started(running: Unit, shop: Shop) -> None:
    assert running.state == "active"
    assert shop.answers()
    assert running.tables() == ["kpf"]


def test_it_does_not_count_as_started_while_it_waits_for_its_api_server(unit: Unit) -> None:
    unit.follow_no_api_server()
    assert unit.systemctl("start", "--no-block").returncode == 0
    unit.wait_for("127.0.0.1:1")
    assert unit.state == "activating"
    assert unit.tables() == []


def test_workers_may_nothing(running: Unit) -> None:
    workers = running.workers()
    assert len(workers) == WORKERS
    user = Config.model_fields["worker_user"].default
    for worker in workers:
        fields = running.of_process(worker)
        assert {name: fields[name] for name in NONE} == NONE
        assert fields["Uid"].split() == fields["Gid"].split() == [str(user)] * 4
        assert fields["NoNewPrivs"] == "1"


def test_the_master_may_only_what_the_unit_gives_it(running: Unit) -> None:
    fields = running.of_process(running.master)
    assert int(fields["CapBnd"], 16).bit_count() == len(MAY)
    assert fields["NoNewPrivs"] == "1"
    # 2: system calls are filtered
    assert fields["Seccomp"] == "2"


def test_a_worker_goes_before_the_master_when_memory_runs_out(running: Unit) -> None:
    def score(pid: int) -> int:
        return int(running.machine.output("cat", f"/proc/{pid}/oom_score_adj"))

    master = score(running.master)
    assert {score(worker) for worker in running.workers()} == {master + 100}


def test_stop_takes_all_of_it_away(running: Unit, shop: Shop) -> None:
    assert shop.answers()
    assert running.systemctl("stop").returncode == 0
    assert (running.state, running.show("Result")) == ("inactive", "success")
    assert running.tables() == []
    assert "169.254.77.1" not in running.machine.output("ip", "address")
    wait_until(lambda: running.machine.run("pgrep", "-f", "kpf").stdout == "", timeout_s=5.0, what="no process of kpf")


def test_reload_makes_it_read_its_configuration(running: Unit) -> None:
    master, workers = running.master, running.workers()
    running.configure("logging: {level: debug}")
    done = running.systemctl("reload")
    assert done.returncode == 0, done.stderr
    running.wait_for("read anew")
    assert running.state == "active"
    assert (running.master, running.workers()) == (master, workers)
