"""A real daemon and a manager that keeps time as systemd does: when it is told what, and what a stop leaves."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import kpf
from kpf import __version__
from kpf.lab.daemon import Daemon
from kpf.lab.tables import list_tables
from kpf.lab.topology import pod_address
from tests.busy_kernel import SYNC_LIMIT_S, busy
from tests.e2e.world import World, eventually
from tests.service_manager import FakeManager

SHOP = ("10.96.0.10", 80)
POD = pod_address(1, 4)
# a beat is a quarter of it
WATCHDOG_S = 1.0


@pytest.fixture
def systemd(world: World) -> Iterator[FakeManager]:
    fake = FakeManager(world.directory / "systemd")
    yield fake
    fake.close()


@pytest.fixture
def daemon(world: World) -> Iterator[Daemon]:
    """Not started."""
    world.serve("shop", SHOP[0], world.pods([1]))
    daemon = world.daemon("--drain-timeout", "20")
    yield daemon
    if daemon.exit_status() is None:
        daemon.stop()


def start(world: World, daemon: Daemon, systemd: FakeManager, **more: str) -> None:
    """As systemd does, and without waiting for it."""
    env = {**os.environ, "NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)), **more}
    with daemon.log_path.open("ab") as log:
        daemon.process = world.lab.node.start(daemon.argv, env=env, stdout=log, stderr=log)


def test_a_life(world: World, daemon: Daemon, systemd: FakeManager) -> None:
    config = world.directory / "kpf.yaml"
    head = "apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\n"
    config.write_text(head)
    daemon.argv += ["--config", str(config)]
    start(world, daemon, systemd)
    assert systemd.next(20.0)[0] == "STATUS=starting"
    systemd.until("READY=1", 20.0)
    assert re.fullmatch(r"STATUS=generation \d+, 1 Services, 2 of 2 workers", systemd.until("WATCHDOG=1")[0])
    for text, said in ((head, "are read anew"), (head + "nonsense: 1\n", "the old one stays in force")):
        config.write_text(text)
        daemon.signal(signal.SIGHUP)
        systemd.until("RELOADING=1")
        systemd.until("READY=1")
        daemon.wait_for_log(said)
    daemon.signal(signal.SIGTERM)
    told = systemd.until("STOPPING=1")
    assert told[1:] == ["STATUS=draining", "EXTEND_TIMEOUT_USEC=50000000"]
    assert daemon.process is not None
    assert daemon.process.wait(10.0) == 0


def test_a_master_that_is_stopped_does_not_live(world: World, daemon: Daemon, systemd: FakeManager) -> None:
    start(world, daemon, systemd)
    systemd.until("READY=1", 20.0)
    daemon.signal(signal.SIGSTOP)
    time.sleep(0.1)
    systemd.drain()
    with pytest.raises(TimeoutError):
        systemd.next(WATCHDOG_S)
    daemon.signal(signal.SIGCONT)
    systemd.until("WATCHDOG=1")


def test_another_programs_transaction_is_no_hang(world: World, daemon: Daemon, systemd: FakeManager) -> None:
    lock = world.directory / "transactions"
    daemon.argv[2:3] = ["tests.busy_kernel", str(lock)]
    with busy(lock):
        start(world, daemon, systemd)
        daemon.wait_for_log("waiting for the first sync", timeout_s=20.0)
        time.sleep(2 * SYNC_LIMIT_S)
        systemd.drain()
        told = systemd.next()
        assert {"WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"} <= {*told}
        # nor is it a reason to say no more how it is
        eventually(lambda: systemd.next()[0].endswith("waiting for the kernel to carry out a transaction"))
    systemd.until("READY=1")


@pytest.mark.parametrize("has_orphans", [True, False])
def test_a_start_that_waits_leaves_alone_what_it_has_not_made(
    world: World, daemon: Daemon, systemd: FakeManager, *, has_orphans: bool
) -> None:
    """The one before it was killed: its workers serve on by its table, at its address, for whoever is next."""
    with daemon:
        workers = [psutil.Process(pid) for pid in daemon.worker_pids()]
        daemon.kill()
        if not has_orphans:
            for one in workers:
                one.kill()
            psutil.wait_procs(workers, timeout=5.0)
    waiting = Daemon(world.lab.node, world.directory, args=("--kubeconfig", str(_nobodys(world.directory))))
    start(world, waiting, systemd)
    told = systemd.until("STATUS=waiting for the first sync; the source does not tell what it has: ", 20.0)
    assert {"WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"} <= {*told}
    served = {POD: 1} if has_orphans else {"timed out": 1}
    assert world.answers(SHOP, timeout_s=2.0) == served
    waiting.signal(signal.SIGTERM)
    assert ("STATUS=leaving" if has_orphans else "STATUS=stopping") in systemd.until("STOPPING=1")
    assert waiting.process is not None
    assert waiting.process.wait(10.0) == 0
    assert list_tables() == ["kpf"]
    assert world.answers(SHOP, timeout_s=2.0) == served
    addresses = subprocess.run(["ip", "address", "show", "lo"], capture_output=True, text=True, check=True).stdout
    assert "169.254.77.1/32" in addresses
    subprocess.run([*daemon.argv[:3], "cleanup"], check=True)


def _nobodys(directory: Path) -> Path:
    """A kubeconfig that leads to nobody."""
    path = directory / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: one\n"
        "clusters: [{name: one, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: one, user: {}}]\ncontexts: [{name: one, context: {cluster: one, user: one}}]\n"
    )
    return path


def test_a_link_to_the_next_version_changes_nothing_for_a_kpf_that_runs(
    world: World, daemon: Daemon, systemd: FakeManager
) -> None:
    """Installed as the unit says: a virtual environment a version, and a link."""
    root = Path(kpf.__file__).parent.parent
    first, link = world.directory / "kpf-1", world.directory / "kpf"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(first)], check=True)
    (found,) = first.glob("lib/python3*/site-packages")
    (found / "kpf.pth").write_text(f"{root}\n{sysconfig.get_path('purelib')}\n")
    program = first / "bin" / "kpf"
    # as pip writes it
    program.write_text(f"#!{first}/bin/python\nimport sys\nfrom kpf.__main__ import main\nsys.exit(main())\n")
    program.chmod(0o755)
    link.symlink_to(first.name)
    daemon.argv[:3] = [str(link / "bin" / "kpf")]
    start(world, daemon, systemd, PYTHONPATH="")
    systemd.until("READY=1", 20.0)
    link.unlink()
    link.symlink_to("kpf-2")
    victim, other = daemon.worker_pids()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: {*daemon.worker_pids()} - {victim, other} != set())
    eventually(lambda: systemd.next()[0].endswith("2 of 2 workers"))
    assert psutil.Process(daemon.worker_pids()[0]).cmdline()[0] == f"{first}/bin/python"


def test_workers_of_another_version_say_so_and_in_the_end_kpf_is_started_anew(
    world: World, daemon: Daemon, systemd: FakeManager
) -> None:
    """Somebody has installed one over a running kpf."""
    installed = world.directory / "installed"
    shutil.copytree(Path(kpf.__file__).parent, installed / "kpf", ignore=shutil.ignore_patterns("__pycache__"))
    start(world, daemon, systemd, PYTHONPATH=str(installed), PYTHONDONTWRITEBYTECODE="1")
    systemd.until("READY=1", 20.0)
    initial = installed / "kpf" / "__init__.py"
    initial.write_text(initial.read_text().replace(__version__, "99.0"))
    victim, other = daemon.worker_pids()
    os.kill(victim, signal.SIGKILL)
    daemon.wait_for_log(f"this is kpf 99.0, and its master is kpf {__version__}: kpf has to be restarted")
    # what has come before is queued where nobody accepts
    daemon.wait_for_log("new connections go to workers")
    systemd.drain()
    # whoever is left serves on, and is as good as ever
    status, lives = systemd.next()
    assert (status.endswith(" 1 Services, 1 of 2 workers"), lives) == (True, "WATCHDOG=1")
    assert world.answers(SHOP, 4) == {POD: 4}
    os.kill(other, signal.SIGKILL)
    eventually(lambda: "WATCHDOG=1" not in systemd.next())
    daemon.wait_for_log("the service manager is not told that kpf lives: no worker shows a heartbeat")
    assert "Traceback" not in daemon.log()
