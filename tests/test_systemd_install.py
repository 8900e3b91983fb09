"""What the unit's first lines say to do: done below another root. The fragments of sysusers and tmpfiles."""

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from kpf import __version__
from kpf.config.model import DEFAULT_WORKER_USER
from kpf.places import DEFAULT_CONTROL_SOCKET

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "systemd" / "kpf.service").read_text(encoding="utf-8")
SYSUSERS = ROOT / "systemd" / "kpf.sysusers"
TMPFILES = ROOT / "systemd" / "kpf.tmpfiles"
# each command is a line of the comment before the first section, indented
COMMANDS = re.findall(r"^#   (.+)$", UNIT.partition("\n[")[0], re.M)


def entry(fragment: Path) -> list[str]:
    """The one line that is no comment, as words."""
    (line,) = [one for one in fragment.read_text(encoding="utf-8").splitlines() if not one.startswith("#")]
    return shlex.split(line)


def carry_out(root: Path) -> None:
    """The commands that put files in place, in a checkout, with `root` for /."""
    for command in COMMANDS:
        if command.startswith("install "):
            words = [f"{root}{word}" if word.startswith("/") else word for word in shlex.split(command)]
            subprocess.run(words, cwd=ROOT, check=True, timeout=10)


def test_its_files_come_to_where_they_are_read(tmp_path: Path) -> None:
    carry_out(tmp_path)
    there = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert there == {
        "etc/kpf/kpf.yaml",
        "etc/systemd/system/kpf-leftovers.service",
        "etc/systemd/system/kpf.service",
        "etc/sysusers.d/kpf.conf",
        "etc/tmpfiles.d/kpf.conf",
    }
    assert (tmp_path / "etc/systemd/system/kpf.service").read_text(encoding="utf-8") == UNIT
    assert "/etc/kpf/kpf.yaml" in re.findall(r"^ExecStart=.*--config (\S+)", UNIT, re.M)


def test_the_program_is_installed_as_the_readme_says_and_where_the_unit_starts_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [one for one in COMMANDS if one.startswith(("make ", "python3 ", "/opt/kpf", "ln "))]
    assert [one for one in commands if f"    {one}\n" not in readme] == []
    # a directory of this version behind a link
    assert f"python3 -m venv /opt/kpf-{__version__}" in commands
    assert f"ln -sfnT kpf-{__version__} /opt/kpf" in commands
    assert re.findall(r"^ExecStart=(\S+)", UNIT, re.M) == ["/opt/kpf/bin/kpf"]


def test_the_user_has_the_id_that_workers_become() -> None:
    kind, name, number, *_ = entry(SYSUSERS)
    assert (kind, name, int(number)) == ("u", "kpf", DEFAULT_WORKER_USER)


def test_the_directory_is_the_control_sockets_and_as_the_unit_makes_it() -> None:
    kind, directory, mode, user, group, age = entry(TMPFILES)
    assert (kind, user, group, age) == ("d", "root", "root", "-")
    assert Path(directory) == Path(DEFAULT_CONTROL_SOCKET).parent
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.M))
    assert Path(directory) == Path("/run") / settings["RuntimeDirectory"]
    assert mode == settings["RuntimeDirectoryMode"]


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is not installed")
def test_sysusers_makes_a_user_and_a_group_of_that_id(tmp_path: Path) -> None:
    carry_out(tmp_path)
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", "kpf.conf"], check=True, timeout=10)
    (user,) = (tmp_path / "etc/passwd").read_text(encoding="utf-8").splitlines()
    name, _, uid, gid, _, home, shell = user.split(":")
    assert (name, int(uid), int(gid), home) == ("kpf", DEFAULT_WORKER_USER, DEFAULT_WORKER_USER, "/")
    assert shell.endswith("/nologin")
    assert f"kpf:x:{DEFAULT_WORKER_USER}:" in (tmp_path / "etc/group").read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="systemd-tmpfiles is not installed")
def test_tmpfiles_makes_the_directory(tmp_path: Path) -> None:
    carry_out(tmp_path)
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", "kpf.conf"], check=True, timeout=10)
    made = (tmp_path / "run/kpf").stat()
    assert stat.S_ISDIR(made.st_mode)
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o755, os.getuid(), os.getgid())
