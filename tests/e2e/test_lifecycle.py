"""Start, reload, drain, stop, crash, take over: what clients see of it, and what is left."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kpf.lab.clients import connect, failures, hold, names, steady
from kpf.lab.daemon import Daemon, DaemonFailedError
from kpf.lab.tables import delete_table, list_tables
from kpf.lab.topology import NODE_ADDRESSES
from tests.e2e.world import World, eventually, stopped_child
from tests.strangers import UID, stranger

SHOP = ("10.96.0.10", 80)
# of a client, longer than a start takes on a machine that has a lot else to do: a SYN waits for the next kpf
PATIENCE_S = 40.0


def _kpf(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "kpf", *args], capture_output=True, text=True, timeout=20, check=False)


def _second(world: World, *args: str) -> Daemon:
    """Another daemon for the same manifests, with files of its own."""
    directory = world.directory / "second"
    directory.mkdir()
    return Daemon(world.lab.node, directory, manifests=world.manifests.directory, args=args)


def test_reloads_under_load_are_not_seen(world: World) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon, world.lab.outside.converse(hold, SHOP, 30) as held:
        with world.lab.outside.begin(steady, SHOP, 400, 3.0) as load:
            for round_ in range(10):
                world.serve(f"more-{round_}", f"10.96.1.{round_ + 1}", pods[: round_ % 3 + 1])
                world.serve("shop", SHOP[0], pods[: 2 + round_ % 2])
                daemon.signal(signal.SIGHUP)
                time.sleep(0.25)
            outcomes = load.result()
        assert failures(outcomes) == []
        assert failures(held.send("ping")) == []
        assert len(daemon.status()["services"]) == 11


def test_connections_outlive_their_endpoint_and_their_service(world: World) -> None:
    pods = world.pods([1, 2])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon, world.lab.outside.converse(hold, SHOP, 20) as held:
        world.serve("shop", SHOP[0], pods[:1])
        eventually(lambda: world.answers(SHOP, 4) == {pods[0]: 4})
        assert failures(held.send("ping")) == []
        world.manifests.remove("shop.yaml")
        eventually(lambda: daemon.status()["services"] == [])
        # listeners are drained and closed, slots may be used again: connections must not notice
        world.serve("other", "10.96.0.11", pods)
        eventually(lambda: world.answers(("10.96.0.11", 80), 2) == dict.fromkeys(pods, 1))
        time.sleep(1.0)
        assert failures(held.send("ping")) == []


def test_nothing_is_cleaned_up_beside_a_kpf_that_runs(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        done = _kpf("cleanup")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"kpf cleanup: kpf already runs in this network namespace, pid {daemon.pid}")
        assert done.stderr.endswith(f"stop it first (systemctl stop kpf, or kill {daemon.pid})\n")
        assert world.answers(SHOP, 3) == {pods[0]: 3}
        assert "somebody has changed table" not in daemon.log()


def test_a_second_daemon_names_the_first(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        second = _second(world)
        with pytest.raises(DaemonFailedError, match=rf"status 1\n(.*\n)*.*\b{daemon.pid}\b"):
            second.start()
        assert world.answers(SHOP, 3) == {pods[0]: 3}


def test_a_deleted_table_is_put_back(world: World, figure: Callable[[str], None]) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.lasting:
        delete_table("kpf")
        back_s = eventually(lambda: world.answers(SHOP, timeout_s=0.2) == {pods[0]: 1})
        figure(f"the deleted table was back and in use after {back_s:.2f} s")
        assert back_s < 2.0


def test_steady_clients_from_the_node_over_many_changes(world: World) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with world.lasting, world.lab.node.begin(steady, SHOP, 300, 3.0) as load:
        for round_ in range(25):
            world.serve("shop", SHOP[0], pods[round_ % 3 :])
            time.sleep(0.1)
        assert failures(load.result()) == []
        assert failures(world.lab.node.call(connect, SHOP, 10)) == []


def test_sigterm_drops_new_connections_and_lets_open_ones_finish(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    with world.daemon("--drain-timeout", "20") as daemon:
        with world.lab.outside.converse(hold, SHOP, 20) as held:
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_log("new connections are dropped")
            assert world.answers(SHOP, timeout_s=0.5) == {"timed out": 1}
            time.sleep(1.0)
            assert failures(held.send("ping")) == []
            assert daemon.exit_status() is None
            assert failures(held.send("close")) == []
        assert daemon.process is not None
        assert daemon.process.wait(3.0) == 0
        assert list_tables() == []
        assert "of 20 connections that were open 0 are left" in daemon.log()


def test_the_drain_timeout_ends_the_patience(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    with world.daemon("--drain-timeout", "1") as daemon, world.lab.outside.converse(hold, SHOP, 5) as held:
        began_s = time.monotonic()
        assert daemon.stop(how=signal.SIGTERM) == 0
        assert 0.9 < time.monotonic() - began_s < 3.0
        assert len(failures(held.send("ping"))) == 5
        log = daemon.log()
    assert re.search(r"drained for [\d.]+ s: of 5 connections that were open 5 are left", log)
    assert len(re.findall(r"worker \d \(pid \d+\) is killed, the drain is over: \d connections are cut", log)) > 0
    assert "died by" not in log


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts(world: World, again: signal.Signals) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    with world.daemon() as daemon, world.lab.outside.converse(hold, SHOP, 5) as held:
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_log("new connections are dropped")
        began_s = time.monotonic()
        assert daemon.stop(how=again) == 0
        assert time.monotonic() - began_s < 2.0
        assert len(failures(held.send("ping"))) == 5
        assert list_tables() == []


def test_a_restart_delays_connections_and_loses_none(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1, 2, 3]))
    daemon = world.daemon().start()
    with world.lab.outside.begin(steady, SHOP, 200, 5.0, timeout_s=PATIENCE_S) as load:
        time.sleep(1.0)
        stopped_s = time.monotonic()
        assert daemon.stop(how=signal.SIGTERM) == 0
        with daemon.start():
            gap_s = time.monotonic() - stopped_s
            outcomes = load.result()
    assert names(failures(outcomes)) == {}
    # the SYN is sent again 1, 3, 7, 15 s after the first one: the first time after the gap it meets kpf
    assert max(outcome.first_byte_s for outcome in outcomes) < 2 * gap_s + 2.0


def test_reloads_that_are_asked_for_from_the_start_to_the_end_are_harmless(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    daemon = world.daemon()
    storm = threading.Thread(target=_storm, args=[daemon, signal.SIGHUP])
    storm.start()
    try:
        with daemon:
            assert world.answers(SHOP, 3) == {pods[0]: 3}
            # held signals are nothing that a worker should inherit
            assert [_blocked(pid) for pid in (daemon.pid, *daemon.worker_pids())] == [0, 0, 0]
            assert daemon.stop(how=signal.SIGTERM) == 0
    finally:
        storm.join()
    daemon.wait_for_log("are read anew")


def _storm(daemon: Daemon, *numbers: signal.Signals) -> None:
    """These signals every few milliseconds, from the import of the configuration to the end of the process."""
    _await_import(daemon)
    with contextlib.suppress(ProcessLookupError):
        while daemon.exit_status() is None:
            for number in numbers:
                daemon.signal(number)
            time.sleep(0.005)


def _await_import(daemon: Daemon) -> None:
    """Until it reads its configuration: the first of what it does that takes long."""
    eventually(lambda: daemon.process is not None and b"pydantic_core" in Path(f"/proc/{daemon.pid}/maps").read_bytes())


def _blocked(pid: int) -> int:
    """The mask of signals that a process has blocked, as proc(5) has it."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk:")]
    return int(line.split()[1], 16)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_comes_while_it_starts_is_obeyed(world: World, how: signal.Signals) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    daemon = world.daemon()

    def stop() -> None:
        _await_import(daemon)
        daemon.signal(how)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with contextlib.suppress(DaemonFailedError):
        daemon.start()
    stopper.join()
    assert daemon.process is not None
    assert daemon.process.wait(10.0) == 0
    assert daemon.log().endswith(" stopped\n")
    assert list_tables() == []


def test_a_stop_does_not_wait_for_workers_that_are_never_ready(world: World) -> None:
    daemon = world.daemon(workers=1)

    def stop() -> None:
        eventually(lambda: daemon.process is not None)
        stopped_child(daemon, former=0)
        daemon.signal(signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    began_s = time.monotonic()
    with pytest.raises(DaemonFailedError, match=r"ended with status 0"):
        daemon.start()
    stopper.join()
    assert time.monotonic() - began_s < 10.0


def test_signals_that_mean_nothing_are_harmless(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    daemon = world.daemon()
    storm = threading.Thread(target=_storm, args=[daemon, signal.SIGUSR1])
    storm.start()
    try:
        with daemon:
            assert world.answers(SHOP, 3) == {pods[0]: 3}
            assert daemon.stop() == 0
    finally:
        storm.join()


def test_a_start_that_fails_leaves_nobody_behind(world: World) -> None:
    precious = world.directory / "precious"
    precious.write_text("data")
    # the pipes are at their end only when no worker has them any more: within the time that _kpf gives
    done = _kpf("run", "--manifests", str(world.manifests.directory), "--control-socket", str(precious))
    assert done.returncode == 1
    assert f"controlSocket {precious}: Address already in use" in done.stderr
    assert precious.read_text() == "data"


def test_a_reload_says_what_needs_a_restart_and_survives_an_address_that_cannot_be_had(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    config = world.directory / "kpf.yaml"
    daemon = world.daemon()
    daemon.argv = [sys.executable, "-m", "kpf", "run", "--config", str(config)]
    fields = {
        "apiVersion": "kpf.io/v1alpha1",
        "kind": "KpfConfiguration",
        "manifests": str(world.manifests.directory),
        "controlSocket": str(daemon.control_socket),
        "healthzBindAddress": "",
    }
    config.write_text(json.dumps(fields))
    with daemon:
        # a link-local address without an interface: nothing can ever be bound to it
        changes = {
            "controlSocket": f"{daemon.control_socket}2",
            "healthzBindAddress": "[fe80::1]:10256",
            "logging": {"format": "json"},
        }
        config.write_text(json.dumps(fields | changes))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_log("are read anew")
        daemon.wait_for_log("controlSocket has changed: that needs a restart")
        daemon.wait_for_log("cannot serve http on fe80::1 port 10256 yet: Invalid argument")
        assert json.loads(daemon.log().splitlines()[-1])["level"] == "info"
        assert world.answers(SHOP, 2) == {pods[0]: 2}


def test_the_master_is_killed_and_another_takes_over(world: World) -> None:
    pods = world.pods([1, 2])
    world.serve("shop", SHOP[0], pods)
    daemon = world.daemon().start()
    with world.lab.outside.converse(hold, SHOP, 10) as held:
        daemon.kill()
        assert sum(world.answers(SHOP, 10).values()) == 10
        with _second(world):
            assert world.answers(SHOP, 10) == dict.fromkeys(pods, 5)
            assert failures(held.send("ping")) == []


def test_a_take_over_beside_a_stranger_who_has_kpfs_name(world: World) -> None:
    """He dismisses nobody and keeps nobody out; the daemon names him, and relieves the orphans."""
    pods = world.pods([1, 2])
    world.serve("shop", SHOP[0], pods)
    daemon = world.daemon().start()
    orphans = daemon.worker_pids()
    daemon.kill()
    with stranger("kpf", how="relieves") as pid:
        # longer than they take to ask
        time.sleep(0.7)
        assert all(map(_alive, orphans))
        assert sum(world.answers(SHOP, 10).values()) == 10
        second = _second(world)
        with second:
            assert second.log().count(f"@kpf by pid {pid} of uid {UID}") == 1
            eventually(lambda: not any(map(_alive, orphans)))
            assert world.answers(SHOP, 10) == dict.fromkeys(pods, 5)


def test_cleanup_removes_what_a_crash_left(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    daemon = world.daemon("--drain-timeout", "1").start()
    pids = daemon.worker_pids()
    daemon.kill()
    assert list_tables() == ["kpf"]
    assert _kpf("cleanup").returncode == 0
    assert list_tables() == []
    assert _kpf("cleanup").returncode == 0
    eventually(lambda: not any(map(_alive, pids)))


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_nothing_is_left_after_a_stop(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1]), type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    with world.daemon() as daemon:
        pids = [daemon.pid, *daemon.worker_pids()]
        assert world.answers(SHOP) != {}
        assert daemon.stop(how=signal.SIGTERM) == 0
    assert not any(map(_alive, pids))
    assert list_tables() == []
    assert not daemon.control_socket.exists()
    assert _listening() == []
    assert world.answers((NODE_ADDRESSES[0], 30080)) == {"ECONNREFUSED": 1}


def _listening() -> list[str]:
    """The listening TCP sockets of our namespace, as lines of /proc/net/tcp."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [line for line in lines if line.split()[3] == "0A"]


def test_status_command(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.daemon() as daemon:
        world.answers(SHOP, 7)
        done = _kpf("status", "--json", "--control-socket", str(daemon.control_socket))
        assert done.returncode == 0, done.stderr
        (service,) = json.loads(done.stdout)["services"]
        assert service["portals"] == ["10.96.0.10:80"]
        assert service["clusterIPs"] == ["10.96.0.10"]
        assert service["connectionsTotal"] == 7
        assert [endpoint["address"] for endpoint in service["endpoints"]] == [f"{pods[0]}:8080"]
        readable = _kpf("status", "--control-socket", str(daemon.control_socket))
        assert "shop" in readable.stdout
        assert "portals are sent to 169.254.77.1, fd77:6b70:66::1\n" in readable.stdout
        assert os.stat(daemon.control_socket).st_mode & 0o777 == 0o600
    assert _kpf("status", "--control-socket", str(daemon.control_socket)).returncode == 1
