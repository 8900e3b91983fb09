"""The unit file and its configuration."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "systemd" / "kpf.service"

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def verify(root: Path, unit: str) -> str:
    """What `systemd-analyze verify` says about the unit, in a tree that has the programs it starts."""
    for program in ("opt/kpf/bin/kpf", "bin/kill"):
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    place = root / "etc/systemd/system/kpf.service"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(unit)
    # the targets that every unit refers to
    units = root / "usr/lib/systemd"
    shutil.copytree("/usr/lib/systemd/system", units / "system", symlinks=True, dirs_exist_ok=True)
    command = ["systemd-analyze", "verify", f"--root={root}", "kpf.service"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout + result.stderr


def test_systemd_accepts_the_unit_without_a_word(tmp_path: Path) -> None:
    assert verify(tmp_path, UNIT.read_text()) == ""


def test_a_mistake_in_it_would_be_seen(tmp_path: Path) -> None:
    assert "Restrat" in verify(tmp_path, UNIT.read_text().replace("Restart=", "Restrat="))


def test_it_stops_later_than_it_drains() -> None:
    assert "KillMode=mixed" in UNIT.read_text()
    assert "TimeoutStopSec=45" in UNIT.read_text()
