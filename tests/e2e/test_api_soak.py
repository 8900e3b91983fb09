"""The API server's absence and its abundance, at full length: run by `make soak`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kpf.lab.changes import TableChanges
from kpf.lab.clients import failures, steady
from kpf.lab.daemon import Daemon
from tests.apiserver import ApiServer
from tests.apiserver.objects import endpoint_slice, many, node, service
from tests.e2e.world import POD_PORT, World, eventually

pytestmark = pytest.mark.soak

SHOP = ("10.96.0.10", 80)
DEAD_S = 60.0
EVENTS = 100_000
EVENTS_PER_S = 2_500
ROUNDS = 8
# what the allocator holds may go up and down a little; 100 bytes an event would be 5
GROWTH_MB = 2.0


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.put(node("node-1"))
        yield server


def daemon_of(world: World, server: ApiServer) -> Daemon:
    """A daemon that follows the API server, not started."""
    kubeconfig = server.kubeconfig(Path(world.directory) / "kubeconfig", token=server.token)
    args = ("--kubeconfig", str(kubeconfig), "--hostname-override", "node-1")
    return Daemon(world.lab.node, world.directory, args=args)


def test_clients_do_not_notice_that_the_api_server_is_dead_for_a_minute(
    world: World, server: ApiServer, figure: Callable[[str], None]
) -> None:
    pods = world.pods([1, 2, 3])
    server.put(service("shop", SHOP[0]))
    server.put(endpoint_slice("shop", pods[:2], port=POD_PORT))
    with (
        daemon_of(world, server) as daemon,
        TableChanges() as table,
        world.lab.outside.begin(steady, SHOP, 200, DEAD_S + 10, timeout_s=DEAD_S + 30) as load,
    ):
        server.die()
        died_s = time.monotonic()
        daemon.wait_for_log("does not tell what it has")
        # unheard of until the server is back
        server.put(endpoint_slice("shop", pods, port=POD_PORT))
        time.sleep(DEAD_S - (time.monotonic() - died_s))
        assert len(daemon.service("shop")["endpoints"]) == 2
        server.listen()
        back_s = eventually(lambda: len(daemon.service("shop")["endpoints"]) == 3, timeout_s=35.0)
        outcomes = load.result()
        lists = [asked for asked in server.requests(since_s=died_s) if "resourceVersion" not in asked.query]
    figure(
        f"API server dead for {DEAD_S:.0f} s: {len(failures(outcomes))} of {len(outcomes)} connections failed; "
        f"its change was in effect {back_s:.1f} s after it came back; {len(lists)} lists, "
        f"{len(table.changes)} elements changed"
    )
    assert not failures(outcomes)
    assert not lists
    assert not table.changes


def test_memory_does_not_grow_over_100_000_events(
    world: World, server: ApiServer, figure: Callable[[str], None]
) -> None:
    server.put_all(many(500, 10))
    with daemon_of(world, server) as daemon:
        master = psutil.Process(daemon.pid)
        sizes_mb = []
        for _ in range(ROUNDS):
            server.drive(EVENTS / ROUNDS / EVENTS_PER_S, EVENTS_PER_S)
            eventually(lambda: not server.is_driving(), timeout_s=120.0)
            time.sleep(1.0)
            sizes_mb.append(master.memory_full_info().uss / 2**20)
    told = ", ".join(f"{size:.1f}" for size in sizes_mb)
    figure(f"memory of the master after each {EVENTS // ROUNDS:,} of {EVENTS:,} events: {told} MB")
    half = ROUNDS // 2
    assert min(sizes_mb[half:]) - min(sizes_mb[:half]) < GROWTH_MB
