"""The layers of ARCHITECTURE.md, types, style and what nobody uses: what a machine can check."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ("lint-imports", "--config", "setup.cfg", "--no-cache"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--check", "--no-cache", "."),
        ("mypy",),
        ("vulture",),
    ],
    ids=lambda command: command[0],
)
def test_the_machine_finds_nothing(command: tuple[str, ...]) -> None:
    program = shutil.which(command[0], path=str(BIN))
    assert program, f"{command[0]} comes with the test extra"
    result = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_worker_imports_no_kubernetes_and_no_netlink() -> None:
    code = "import sys, kpf.worker.worker; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"kubernetes", "pyroute2", "yaml", "pydantic", "aiohttp", "asyncio", "rich", "psutil"}
    assert not {name for name in result.stdout.split() if name.startswith(("kpf.model", "kpf.plan", "kpf.master"))}
