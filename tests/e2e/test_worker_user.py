"""Whom workers become, and what may be dialled where nobody else is to be had."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kpf.commands.status_text import Options, lines
from kpf.commands.tables import Paper
from kpf.lab.daemon import Daemon
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.master.identity import NOT_TOLD_APART, worker_user
from tests.e2e.world import World

# a command in a user namespace of one id, and a network namespace with lo
ONE_ID = """
import os, sys
from pyroute2 import IPRoute
from kpf.lab import namespace
from kpf.lab.hosts import set_up
namespace.enter_user_namespace()
with IPRoute() as ip:
    set_up(ip, "lo")
os.execv(sys.argv[1], sys.argv[1:])
"""
VIP = "192.0.2.1"


def uids(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {one for line in lines if line.startswith(("Uid:", "Gid:")) for one in line.split()[1:]}


@pytest.mark.parametrize("asked", [None, 70_007])
def test_workers_are_a_user_that_nobody_else_is(world: World, asked: int | None) -> None:
    user = asked or 93040
    if worker_user(user) != user:
        pytest.skip("nobody else exists in this user namespace")
    file = world.directory / "kpf.yaml"
    file.write_text(
        f"apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\n{f'workerUser: {asked}' if asked else ''}\n",
        encoding="utf-8",
    )
    with world.daemon("--config", str(file)) as daemon:
        state = daemon.status()
        assert [uids(pid) for pid in daemon.worker_pids()] == [{str(user)}] * 2
        assert state["workerUser"] == user
        assert NOT_TOLD_APART not in daemon.log()
        text = "\n".join(lines(state, Paper(), Options(), "2026-11-29T12:00:00Z"))
        assert NOT_TOLD_APART not in text


def test_where_there_is_one_user_portals_are_not_dialled_and_that_is_said() -> None:
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        manifests = Manifests(Path(directory) / "manifests")
        manifests.write(
            "shop.yaml",
            service("shop", cluster_ips=["10.96.0.10"], externalIPs=[VIP]),
            endpoint_slice("shop", [VIP, "10.244.1.1"], port=80),
        )
        daemon = Daemon(Machine(), Path(directory), manifests=manifests.directory)
        daemon.argv = [sys.executable, "-c", ONE_ID, *daemon.argv]
        with daemon:
            state = daemon.status()
            assert state["workerUser"] is None
            assert [one["address"] for one in daemon.service("shop")["endpoints"]] == ["10.244.1.1:80"]
            daemon.wait_for_log(f"endpoint {VIP}:80 is refused: it is itself a portal")
            daemon.wait_for_log(NOT_TOLD_APART)
            text = "\n".join(lines(state, Paper(), Options(), "2026-11-29T12:00:00Z"))
            assert NOT_TOLD_APART in text


def test_render_says_whose_dials_are_left_alone(tmp_path: Path) -> None:
    """As a daemon would that is started here: nobody's where there is one user."""
    Manifests(tmp_path).write("shop.yaml", service("shop", cluster_ips=["10.96.0.10"]))
    render = [sys.executable, "-m", "kpf", "render", "--manifests", str(tmp_path)]
    text = subprocess.run(render, capture_output=True, text=True, check=True, timeout=20).stdout
    assert text.count("meta skuid 93040 return") == 2 * (worker_user(93040) == 93040)
    alone = subprocess.run(
        [sys.executable, "-c", ONE_ID, *render], capture_output=True, text=True, check=True, timeout=20
    )
    assert "skuid" not in alone.stdout
    if shutil.which("nft"):
        for one in (text, alone.stdout):
            subprocess.run(["nft", "-c", "-f", "-"], input=one, text=True, check=True, timeout=20)
