"""`kpf status --ready` of a daemon that starts, serves, is relieved, and ends."""

import subprocess
import sys
from pathlib import Path

from kpf.lab.clients import hold, names
from kpf.lab.daemon import Daemon
from tests.e2e.world import World, eventually

SHOP = ("10.96.0.10", 80)


def ready(daemon: Daemon) -> str:
    """What a probe is told, "" if it serves."""
    argv = [sys.executable, "-m", "kpf", "status", "--ready", "--control-socket", str(daemon.control_socket)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == ""
    assert (done.returncode, bool(done.stderr)) in ((0, False), (1, True))
    return done.stderr.removeprefix("kpf status: not ready: ").rstrip("\n")


def pod_of(world: World, name: str) -> Daemon:
    """One of two on a node: a control socket of its own, in its own file system, and one handover socket."""
    directory = world.directory / name
    directory.mkdir()
    return Daemon(
        world.lab.node,
        directory,
        manifests=world.manifests.directory,
        handover_socket=world.directory / "handover.sock",
    )


def test_a_pods_probe_asks_its_own_master(world: World) -> None:
    (pod,) = world.pods([1])
    world.serve("shop", SHOP[0], [pod])
    old, new = pod_of(world, "old"), pod_of(world, "new")
    assert "no daemon answers" in ready(old)
    with old, world.lab.outside.converse(hold, SHOP, 5) as held:
        assert ready(old) == ""
        with new:
            # READY=1 says the same
            assert ready(new) == ""
            assert ready(old) != ""
            # still there, for those who had come before
            assert names(held.send("ping")) == {"still here": 5}
            assert old.exit_status() is None
            held.send("close")
            assert old.process is not None
            assert old.process.wait(10.0) == 0
            assert ready(new) == ""
            assert world.answers(SHOP, 3) == {pod: 3}
        assert "no daemon answers" in ready(new)


def test_the_end_of_a_predecessor_takes_no_control_socket_away(world: World) -> None:
    """Of one that is started by hand, both are at the same path."""
    world.serve("shop", SHOP[0], world.pods([1]))
    old, new = (world.daemon(), world.daemon())
    with old, new:
        assert old.process is not None
        assert old.process.wait(10.0) == 0
        assert ready(new) == ""
        assert {worker["pid"] for worker in new.status()["workers"]}.isdisjoint({old.pid})
    assert not old.control_socket.exists()


def test_who_waits_for_its_api_server_is_not_ready(world: World, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: nobody\n"
        "clusters: [{name: nobody, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: nobody, user: {}}]\ncontexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]\n"
    )
    waiting = Daemon(world.lab.node, world.directory, args=("--kubeconfig", str(kubeconfig)))
    waiting.process = world.lab.node.start(waiting.argv)
    try:
        eventually(lambda: "nothing has been synced yet; " in ready(waiting))
    finally:
        assert waiting.stop() == 0
