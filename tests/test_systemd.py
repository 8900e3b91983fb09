"""The unit file and its configuration."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kpf import cli
from kpf.config import Config
from kpf.master import ending
from kpf.observe import notify
from kpf.observe.vitals import SYNC_LIMIT_S

UNIT = Path(__file__).parent.parent / "systemd" / "kpf.service"
LEFTOVERS = UNIT.with_name("kpf-leftovers.service")
CONFIG = UNIT.with_name("kpf.yaml")

verifies = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def values(name: str, unit: Path = UNIT) -> list[str]:
    """Those that the unit gives to it, in their order."""
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def seconds(name: str) -> float:
    (value,) = values(name)
    return float(value)


def verify(root: Path, unit: str) -> str:
    """What `systemd-analyze verify` says about the unit, in a tree that has the programs it starts."""
    for name in ("opt/kpf/bin/kpf", "bin/kill", "bin/sh", "bin/true"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        program(path, "")
    place = root / "etc/systemd/system/kpf.service"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(unit)
    place.with_name(LEFTOVERS.name).write_text(LEFTOVERS.read_text())
    # the targets that every unit refers to
    units = root / "usr/lib/systemd"
    shutil.copytree("/usr/lib/systemd/system", units / "system", symlinks=True, dirs_exist_ok=True)
    command = ["systemd-analyze", "verify", f"--root={root}", "kpf.service", LEFTOVERS.name]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout + result.stderr


@verifies
def test_systemd_accepts_the_unit_without_a_word(tmp_path: Path) -> None:
    assert verify(tmp_path, UNIT.read_text()) == ""


@verifies
def test_a_mistake_in_it_would_be_seen(tmp_path: Path) -> None:
    assert "Restrat" in verify(tmp_path, UNIT.read_text().replace("Restart=", "Restrat="))


def test_workers_outlive_a_master_that_dies() -> None:
    """When the main process is gone, "mixed" and "control-group" mean SIGKILL for the others, at once."""
    assert values("KillMode") == ["process"]


def test_who_has_handed_over_is_not_started_again_and_who_has_crashed_is() -> None:
    """systemd.service(5), Restart=: an exit status of 0 is none of a failure, nor is a stop."""
    assert values("Restart") == ["on-failure"]


def test_the_handover_socket_outlives_a_restart() -> None:
    assert values("RuntimeDirectoryPreserve") == ["restart"]
    (directory,) = values("RuntimeDirectory")
    assert Config().handover_path.parent == Path("/run") / directory


def test_it_is_started_again_however_often_it_has_crashed() -> None:
    assert values("StartLimitIntervalSec") == ["0"]
    section = UNIT.read_text().partition("[Service]")[0]
    assert "\nStartLimitIntervalSec=0\n" in section


def test_it_stops_later_than_it_drains() -> None:
    assert seconds("TimeoutStopSec") > Config().drain_timeout + ending.CANCEL_S + ending.DEATH_S


def test_it_is_extended_long_before_its_time_is_over() -> None:
    assert seconds("TimeoutStartSec") >= notify.START_EXTENSION_S >= 10 * notify.BEAT_S


def test_the_watchdog_is_no_sooner_than_what_mends_itself() -> None:
    assert seconds("WatchdogSec") >= 4 * notify.BEAT_S
    assert seconds("WatchdogSec") >= SYNC_LIMIT_S
    # a core would have the token of the API server
    assert values("LimitCORE") == ["0"]


def test_what_is_not_allowed_is_refused_and_no_death() -> None:
    assert values("SystemCallErrorNumber") == ["EPERM"]


def test_a_reload_checks_the_configuration_first(tmp_path: Path) -> None:
    check, hang_up = values("ExecReload")
    assert hang_up == "/bin/kill -HUP $MAINPID"
    program, *arguments = shlex.split(check)
    assert program == shlex.split(values("ExecStart")[0])[0]
    path = tmp_path / "kpf.yaml"
    path.write_text(CONFIG.read_text())
    here = [str(path) if one == "/etc/kpf/kpf.yaml" else one for one in arguments]
    assert here != arguments
    # /etc/kpf/manifests is not there
    assert cli.main(here) == 0
    path.write_text(CONFIG.read_text() + "drainTimeout: soon\n")
    assert cli.main(here) == 2


@pytest.mark.parametrize(
    ("jobs", "status", "is_cleaned"),
    [
        # it has been stopped, also between a crash and its next start
        ("", 0, True),
        ("42 kpf.service stop running", 0, True),
        ("42 kpf.service start waiting", 0, False),
        ("42 kpf.service restart running", 0, False),
        ("42 kpf.service try-restart running", 0, False),
        # nobody knows
        ("", 1, False),
    ],
)
def test_only_a_stop_takes_away_what_is_left(tmp_path: Path, jobs: str, status: int, is_cleaned: bool) -> None:
    """As `systemctl list-jobs` of systemd 252 and 257 shows them."""
    (line,) = values("ExecStop", LEFTOVERS)
    # systemd's own way to write a dollar
    line = line.replace("$$", "$")
    program(tmp_path / "systemctl", f'test "$*" = "--no-legend list-jobs kpf.service" && echo "{jobs}"; exit {status}')
    program(tmp_path / "kpf", f"echo $* > {tmp_path}/cleaned")
    line = line.replace("/opt/kpf/bin/kpf", str(tmp_path / "kpf"))
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(shlex.split(line), env=env, check=False, timeout=10).returncode == 0
    cleaned = tmp_path / "cleaned"
    assert (cleaned.read_text() if cleaned.exists() else "") == ("cleanup\n" if is_cleaned else "")


# and takes its time
LEAVES_ON_SIGUSR2 = """
import signal, time
signal.signal(signal.SIGUSR2, lambda *_: (time.sleep(0.3), exit(7)))
print(flush=True)
time.sleep(9)
"""


@pytest.mark.parametrize(
    ("jobs", "status", "told"),
    [
        ("42 kpf.service restart running", 0, True),
        ("42 kpf.service try-restart running", 0, True),
        ("42 kpf.service stop running", 0, False),
        # it ends by itself, having handed over
        ("", 0, False),
        # nobody knows
        ("", 1, False),
    ],
)
def test_a_restart_leaves_all_for_the_next_and_waits_for_the_end(
    tmp_path: Path, jobs: str, status: int, told: bool
) -> None:
    """As `systemctl list-jobs` of systemd 252 and 257 shows them."""
    with subprocess.Popen(
        [sys.executable, "-c", LEAVES_ON_SIGUSR2], stdout=subprocess.PIPE, start_new_session=True
    ) as master:
        assert master.stdout is not None
        assert master.stdout.readline()
        reaping = threading.Thread(target=master.wait)
        reaping.start()
        try:
            assert exec_stop(tmp_path, jobs, status, MAINPID=str(master.pid)) == 0
            assert master.returncode == (7 if told else None)
        finally:
            master.kill()
            reaping.join()


def test_a_stop_of_a_unit_that_has_no_master_is_fine(tmp_path: Path) -> None:
    assert exec_stop(tmp_path, "42 kpf.service restart running", 0) == 0


def exec_stop(tmp_path: Path, jobs: str, status: int, **env: str) -> int:
    """The exit status of ExecStop where systemctl says this."""
    (line,) = values("ExecStop")
    program(tmp_path / "systemctl", f'test "$*" = "--no-legend list-jobs kpf.service" && echo "{jobs}"; exit {status}')
    whole = {**os.environ, **env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = shlex.split(line.replace("$$", "$"))
    return subprocess.run(command, env=whole, check=False, timeout=15).returncode


def test_a_restart_has_time_to_leave() -> None:
    (line,) = values("ExecStop")
    assert "seq 100" in line
    assert "sleep 0.1" in line
    assert seconds("TimeoutStopSec") > 2 * 100 * 0.1


def test_what_is_left_is_looked_for_once_kpf_has_been_stopped() -> None:
    """An order of starts is the other way round for stops: systemd.unit(5), Before=."""
    (wanted,) = values("Wants")
    assert LEFTOVERS.name in wanted.split()
    assert (values("PartOf", LEFTOVERS), values("Before", LEFTOVERS)) == ([UNIT.name], [UNIT.name])
    # or there would be nothing to stop
    assert (values("Type", LEFTOVERS), values("RemainAfterExit", LEFTOVERS)) == (["oneshot"], ["yes"])


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
