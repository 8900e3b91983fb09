"""What systemd's journal gets: each line an entry of its own, so each with its priority, and no time beside its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SPEAKER = """
import sys
from kpf import stderr

stderr.install()
print("kpf: a mistake", file=sys.stderr)
from kpf.observe import log

log.set_up("debug", sys.argv[1])
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(log.logger, level)("a\\n<0>b")
try:
    raise ValueError("oops\\n<7>no secret")
except ValueError:
    log.logger.exception("it broke")
sys.stderr.write(sys.stderr.note(3) + "\\n")
raise KeyError("last words")
"""


def said(form: str, directory: Path, *, stream: str | None = None) -> list[str]:
    """What it says, line by line. `stream`: its $JOURNAL_STREAM, by default that of its standard error."""
    path = directory / "stderr"
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        env = {**os.environ, "JOURNAL_STREAM": stream or f"{found.st_dev}:{found.st_ino}"}
        done = subprocess.run([sys.executable, "-c", SPEAKER, form], env=env, stderr=file, check=False, timeout=20)
    assert done.returncode == 1
    return path.read_text().splitlines()


def test_each_line_has_its_priority_and_no_time(tmp_path: Path) -> None:
    lines = said("text", tmp_path)
    assert lines[:7] == [
        "<3>kpf: a mistake",
        r"<7>debug a\n<0>b",
        r"<6>info a\n<0>b",
        r"<4>warning a\n<0>b",
        r"<3>error a\n<0>b",
        r"<2>critical a\n<0>b",
        "<3>error it broke",
    ]
    # nobody forges one from within
    assert "<3><7>no secret" in lines
    note = lines.index("<4>warning 3 lines were dropped: nobody read standard error")
    assert {line[:3] for line in lines[7:note]} == {"<3>"}
    # nor is the interpreter's own traceback a matter of routine
    assert lines[note + 1] == "<3>Traceback (most recent call last):"
    assert lines[-1] == "<3>KeyError: 'last words'"


def test_an_object_of_json_stays_as_it_is_behind_its_priority(tmp_path: Path) -> None:
    lines = said("json", tmp_path)
    priority, text = lines[3][:3], lines[3][3:]
    one = json.loads(text)
    assert (priority, one["level"], one["message"]) == ("<4>", "warning", "a\n<0>b")
    # who reads it by its fields finds all of them
    assert one["time"].endswith("Z")


@pytest.mark.parametrize("stream", ["8:1", "nonsense"])
def test_who_has_inherited_the_name_of_another_stream_writes_for_people(stream: str, tmp_path: Path) -> None:
    lines = said("text", tmp_path, stream=stream)
    assert lines[0] == "kpf: a mistake"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z debug a\\n<0>b", lines[1])
    assert "Traceback (most recent call last):" in lines


def test_what_was_dropped_before_there_is_a_log_is_told_with_a_priority(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    code = "import sys; from kpf import stderr; stderr.install(); sys.stderr.write(sys.stderr.note(2) + '\\n')"
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run([sys.executable, "-c", code], env=env, stderr=file, check=True, timeout=20)
    assert path.read_text() == "<3>2 lines were dropped: nobody read standard error\n"
