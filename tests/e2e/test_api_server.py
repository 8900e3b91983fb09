"""A daemon that follows an API server: what clients get, what the kernel's table goes through when the server fails."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from kpf.lab.changes import TableChanges
from kpf.lab.clients import each, failures, steady
from kpf.lab.daemon import Daemon, DaemonFailedError
from tests.apiserver import ApiServer
from tests.apiserver.objects import endpoint_slice, node, service
from tests.e2e.world import POD_PORT, World, eventually

SHOP, OTHER = ("10.96.0.10", 80), ("10.96.0.11", 80)
KINDS = 4
STORM = 300
REFUSED = "does not tell what it has: cannot connect: Connection refused"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.put(node("node-1"))
        yield server


@pytest.fixture
def kubeconfig(world: World, server: ApiServer) -> Path:
    return server.kubeconfig(world.directory / "kubeconfig", token=server.token)


@pytest.fixture
def daemon(world: World, kubeconfig: Path) -> Daemon:
    """Not started."""
    args = ("--kubeconfig", str(kubeconfig), "--hostname-override", "node-1")
    return Daemon(world.lab.node, world.directory, args=args)


def serve(server: ApiServer, name: str, cluster_ip: str, pods: list[str]) -> None:
    server.put_all([service(name, cluster_ip), endpoint_slice(name, pods, port=POD_PORT)])


def names(daemon: Daemon) -> set[str]:
    return {one["name"] for one in daemon.status()["services"]}


def listed_anew(server: ApiServer, since_s: float) -> bool:
    """Everything has been listed since."""
    return sum("sendInitialEvents" in one.query for one in server.requests(since_s=since_s)) == KINDS


def test_clients_follow_the_api_server(
    world: World, server: ApiServer, daemon: Daemon, figure: Callable[[str], None]
) -> None:
    pods = world.pods([1, 2])
    serve(server, "shop", SHOP[0], pods)
    with daemon:
        figure(f"ready {daemon.ready_s:.2f} s after the start, with an API server of one Service")
        assert world.answers(SHOP, 6) == dict.fromkeys(pods, 3)
        server.put(endpoint_slice("shop", pods[:1], port=POD_PORT))
        eventually(lambda: world.answers(SHOP, 4) == {pods[0]: 4})
        serve(server, "other", OTHER[0], pods[1:])
        eventually(lambda: world.answers(OTHER, 2, timeout_s=0.5) == {pods[1]: 2})
        server.delete("Service", "default", "shop")
        eventually(lambda: names(daemon) == {"other"})
        assert world.answers(SHOP, timeout_s=0.5) != {pods[0]: 1}
        assert daemon.status()["troubles"] == []
        assert " warning " not in daemon.log()


def test_a_list_in_mid_stream_takes_no_redirect_away(world: World, server: ApiServer, daemon: Daemon) -> None:
    pods = world.pods([1, 2])
    serve(server, "shop", SHOP[0], pods)
    with daemon, TableChanges() as table:
        with world.lab.outside.begin(steady, SHOP, 200, 3.0) as load:
            since_s = time.monotonic()
            assert server.send_error(410) == KINDS
            eventually(lambda: listed_anew(server, since_s))
            # what comes after the lists comes after what they have made of the table
            serve(server, "other", OTHER[0], pods)
            eventually(lambda: world.answers(OTHER, 2, timeout_s=0.5) == dict.fromkeys(pods, 1))
            assert failures(load.result()) == []
        assert table.changes != []
        assert [one for one in table.changes if not one.is_new or ip_address(SHOP[0]).packed in one.key] == []
        assert table.transactions <= 2
        assert not table.lost


def test_history_that_was_compacted_takes_away_only_what_is_gone(
    world: World, server: ApiServer, daemon: Daemon
) -> None:
    pods = world.pods([1, 2])
    serve(server, "shop", SHOP[0], pods)
    with daemon:
        with TableChanges() as table:
            serve(server, "other", OTHER[0], pods)
            eventually(lambda: world.answers(OTHER, 2, timeout_s=0.5) == dict.fromkeys(pods, 1))
        came = elements(table, new=True)
        assert came != set()
        with TableChanges() as table:
            server.die()
            server.delete("Service", "default", "other")
            server.expire()
            server.listen()
            eventually(lambda: elements(table, new=False) == came, timeout_s=10.0)
            assert elements(table, new=True) == set()
        assert world.answers(SHOP, 4) == dict.fromkeys(pods, 2)


def elements(table: TableChanges, *, new: bool) -> set[tuple[str, bytes]]:
    return {(one.set_name, one.key) for one in table.changes if one.is_new is new}


def test_clients_do_not_notice_that_the_api_server_is_gone(world: World, server: ApiServer, daemon: Daemon) -> None:
    pods = world.pods([1, 2])
    serve(server, "shop", SHOP[0], pods)
    with daemon, TableChanges() as table, world.lab.outside.begin(steady, SHOP, 200, 4.0) as load:
        server.die()
        daemon.wait_for_log(REFUSED)
        assert any("Connection refused" in one for one in daemon.status()["troubles"])
        time.sleep(3.0)
        server.listen()
        daemon.wait_for_log("tells what it has again", timeout_s=10.0)
        outcomes = load.result()
        assert len(outcomes) == 800
        assert failures(outcomes) == []
        assert (table.transactions, table.changes) == (0, [])
        serve(server, "shop", SHOP[0], pods[:1])
        eventually(lambda: world.answers(SHOP, 4) == {pods[0]: 4})


def test_a_server_that_comes_after_the_daemon(world: World, server: ApiServer, daemon: Daemon) -> None:
    pods = world.pods([1])
    serve(server, "shop", SHOP[0], pods)
    server.refuse()

    def come() -> bool:
        daemon.wait_for_log(REFUSED)
        synced: bool = daemon.status()["synced"]
        server.listen()
        return synced

    with ThreadPoolExecutor() as pool:
        before = pool.submit(come)
        with daemon:
            assert before.result() is False
            assert daemon.status()["synced"] is True
            assert world.answers(SHOP, 2) == {pods[0]: 2}


def test_a_storm_of_changes_becomes_few_transactions(
    world: World, server: ApiServer, daemon: Daemon, figure: Callable[[str], None]
) -> None:
    pods = world.pods([1])
    addresses = [f"10.96.1.{number}" for number in range(1, STORM // 2 + 1)]
    objects = [
        one
        for number, address in enumerate(addresses)
        for one in (service(f"s{number}", address), endpoint_slice(f"s{number}", pods, port=POD_PORT))
    ]
    with daemon, TableChanges() as table:
        server.put_all(objects)
        took_s = eventually(lambda: all_answer(world, addresses))
        figure(f"{STORM} changes at once: {table.transactions} transactions, all served after {took_s:.2f} s")
        assert 1 <= table.transactions <= 12


def all_answer(world: World, addresses: list[str]) -> bool:
    outcomes = world.lab.outside.call(each, [(address, 80) for address in addresses], timeout_s=0.5)
    return failures(outcomes.values()) == []


def test_a_service_that_is_malformed_gets_an_event_and_hurts_nobody(
    world: World, server: ApiServer, daemon: Daemon
) -> None:
    pods = world.pods([1])
    serve(server, "shop", SHOP[0], pods)
    with daemon:
        server.put(service("shop", SHOP[0], ports=[{"port": "eighty", "protocol": "TCP"}]))
        serve(server, "other", OTHER[0], pods)
        eventually(lambda: world.answers(OTHER, 2, timeout_s=0.5) == {pods[0]: 2})
        assert world.answers(SHOP, 2) == {pods[0]: 2}
        message = "spec.ports[0].port: must be an integer, not 'eighty'"
        daemon.wait_for_log(f"Service default/shop: {message}")
        eventually(lambda: [one["note"] for one in server.events()] == [message])


def _kpf(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "kpf", *args], capture_output=True, text=True, timeout=20, check=False)


def test_what_would_be_made_of_the_api_server_s_services(server: ApiServer, kubeconfig: Path) -> None:
    serve(server, "shop", SHOP[0], ["10.244.1.1"])
    rendered = _kpf("render", "--kubeconfig", str(kubeconfig), "--hostname-override", "node-1")
    assert (rendered.returncode, rendered.stderr) == (0, "")
    assert "10.96.0.10 . 80" in rendered.stdout
    checked = _kpf("check", "--kubeconfig", str(kubeconfig))
    assert (checked.returncode, checked.stdout) == (0, "no problems (the API server was not asked)\n")


def test_a_kubeconfig_that_can_never_work_ends_the_daemon_at_once(daemon: Daemon, kubeconfig: Path) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("current-context: test", "current-context: rest"))
    message = f"kpf: {kubeconfig}: current-context: 'rest' is not among the contexts"
    with pytest.raises(DaemonFailedError, match="status 2") as caught:
        daemon.start()
    assert message in str(caught.value)
