"""The node's addresses change under open connections, and kpf's own address: where it is, and who reaches it."""

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import DiagSocket, IPRoute

from kpf.lab.clients import Address, connect, each, failures, hold, names
from kpf.lab.daemon import DaemonFailedError
from kpf.lab.datagrams import Dial, dial
from kpf.lab.hosts import add_route, change_addresses, set_sysctl
from kpf.lab.listening import TCPF_LISTEN
from kpf.lab.machine import Machine
from kpf.lab.manifests import node
from kpf.lab.topology import NODE_ADDRESSES, OUTSIDE_ADDRESSES, POD_NETWORKS
from tests.e2e.world import POD_PORT, World, eventually

NODE_PORT = 30080
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
PROXY = ("169.254.77.1", "fd77:6b70:66::1")
# beside the primary ones, and not within their networks: they do not go with them
KEPT = ("192.168.50.3/32", "fd00:192:168:50::3/128")
OLD = tuple(f"{address}/{bits}" for address, bits in zip(NODE_ADDRESSES, (24, 64), strict=True))
NEW = ("192.168.50.4/24", "fd00:192:168:50::4/64")
BOTH = pytest.mark.parametrize("six", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture
def renumber() -> Iterator[Callable[[int], None]]:
    """Call it: the node's primary address of a family goes and another comes."""
    changed: list[int] = []

    def change(six: int, gone: Sequence[str] = OLD, come: Sequence[str] = NEW) -> None:
        change_addresses("out0", gone=[gone[six]], come=[come[six]])
        # it may have gone with the last address
        add_route("default", OUTSIDE_ADDRESSES[six])

    def once(six: int) -> None:
        changed.append(six)
        change(six)

    yield once
    for six in changed:
        change(six, NEW, OLD)


@pytest.fixture
def kept() -> Iterator[tuple[str, ...]]:
    """Addresses of the node that stay."""
    change_addresses("out0", come=KEPT)
    yield tuple(one.partition("/")[0] for one in KEPT)
    change_addresses("out0", gone=KEPT)


def shop(world: World, six: int = 0) -> str:
    """A Service with a node port and one pod, which is returned."""
    (pod,) = world.pods([1], family=(4, 6)[six])
    port = {"port": 80, "nodePort": NODE_PORT}
    world.serve("shop", CLUSTER_IPS[six], [pod], type="NodePort", ports=[port])
    return pod


def kpf(*args: str) -> "subprocess.CompletedProcess[str]":
    """Its exit status is 0."""
    return subprocess.run([sys.executable, "-m", "kpf", *args], capture_output=True, text=True, check=True)


def on_lo() -> set[str]:
    """What `lo` has beside loopback addresses."""
    with IPRoute() as ip:
        found = {address.get_attr("IFA_ADDRESS") for address in ip.get_addr(index=1)}
    return {address for address in found if not ip_address(address).is_loopback}


def test_an_address_that_somebody_takes_away_is_put_back(world: World, figure: Callable[[str], None]) -> None:
    pod = shop(world)
    target = (CLUSTER_IPS[0], 80)
    with world.lasting as daemon, world.lab.outside.converse(hold, target, 20) as held:
        for address in PROXY:
            change_addresses("lo", gone=[address])
            back_s = eventually(lambda address=address: address in on_lo())  # type: ignore[misc]
            figure(f"kpf's own address was back {back_s:.2f} s after somebody had taken it away")
            assert back_s < 0.5
            daemon.wait_for_log(f"somebody has taken {address} from lo: it is put back")
        assert failures(held.send("ping")) == []
        assert world.answers(target, 3) == {pod: 3}


@BOTH
def test_kpfs_own_address_is_reached_through_portals_only(world: World, six: int) -> None:
    pod = shop(world, six)
    world.backends.open(pod, POD_PORT, mode="datagrams")
    port = {"port": 53, "protocol": "UDP", "nodePort": NODE_PORT}
    world.serve("names", CLUSTER_IPS[six][:-2] + "11", [pod], type="NodePort", ports=[port])
    with world.lasting:
        portals = [(CLUSTER_IPS[six], 80), (NODE_ADDRESSES[six], NODE_PORT)]
        others = [(PROXY[six], port) for port in (*_proxy_ports(PROXY[six]), NODE_PORT, 22)]
        expected = dict.fromkeys(portals, pod) | dict.fromkeys(others, "ECONNREFUSED")
        datagrams = {Dial("UDP", (NODE_ADDRESSES[six], NODE_PORT)): pod}
        datagrams |= {Dial("UDP", (PROXY[six], NODE_PORT)): "ECONNREFUSED"}
        for machine in (world.lab.outside, world.lab.pods, world.lab.node):
            assert seen(machine, [*portals, *others]) == expected
            answers = machine.call(dial, list(datagrams), at_once=2, timeout_s=3.0)
            assert [one.name or one.error for one in answers] == list(datagrams.values())


def seen(machine: Machine, targets: Sequence[Address]) -> dict[Address, str]:
    return {target: one.name or one.error for target, one in machine.call(each, targets, timeout_s=3.0).items()}


def _proxy_ports(address: str) -> set[int]:
    """Where somebody listens at this address; there is one at least."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with DiagSocket() as diag:
        found = diag.get_sock_stats(family=family, states=TCPF_LISTEN)
    ports = {int(one["idiag_sport"]) for one in found if one["idiag_src"] == address}
    assert ports
    return ports


def test_reverse_path_filters_let_portals_be(world: World) -> None:
    pod = shop(world)
    name = "net.ipv4.conf.all.rp_filter"
    before = Path("/proc/sys", *name.split(".")).read_text()
    portals = [(CLUSTER_IPS[0], 80), (NODE_ADDRESSES[0], NODE_PORT)]
    with world.lasting:
        try:
            for strict_or_loose in "12":
                if not set_sysctl(name, strict_or_loose):
                    pytest.skip("the sysctls of this namespace cannot be set")
                for machine in (world.lab.outside, world.lab.pods):
                    assert seen(machine, portals) == dict.fromkeys(portals, pod)
                here = [*portals, ("127.0.0.1", NODE_PORT)]
                assert seen(world.lab.node, here) == dict.fromkeys(here, pod)
        finally:
            set_sysctl(name, before)


@BOTH
def test_a_node_that_changes_its_address_cuts_no_connection(
    world: World, renumber: Callable[[int], None], kept: tuple[str, ...], six: int
) -> None:
    pod = shop(world, six)
    # which one is the primary address is not left to chance
    world.manifests.write("node.yaml", node("node-a", internal_ips=NODE_ADDRESSES, pod_cidrs=POD_NETWORKS))
    inside, outside = (CLUSTER_IPS[six], 80), (kept[six], NODE_PORT)
    with (
        world.daemon("--hostname-override", "node-a"),
        world.lab.pods.converse(hold, inside, 20) as of_pods,
        world.lab.outside.converse(hold, outside, 20) as of_others,
    ):
        assert failures(of_pods.first) + failures(of_others.first) == []
        renumber(six)
        assert names(world.lab.pods.call(connect, inside, 5)) == {pod: 5}
        assert world.answers(outside, 5) == {pod: 5}
        assert failures(of_pods.send("ping")) == []
        assert failures(of_others.send("ping")) == []


def await_end(target: Address, count: int) -> Generator[list[tuple[str, float]], None, None]:
    """Open connections and send nothing: how each has ended, and when (monotonic seconds)."""
    socks = [socket.create_connection(target, timeout=10.0) for _ in range(count)]
    for sock in socks:
        sock.recv(100)
    yield []
    ended: list[tuple[str, float]] = []
    while len(ended) < count:
        readable, _, _ = select.select(socks, [], [], 10.0)
        if not readable:
            break
        for sock in readable:
            try:
                how = "more" if sock.recv(100) else "end"
            except OSError as error:
                how = type(error).__name__
            ended.append((how, time.monotonic()))
            socks.remove(sock)
            sock.close()
    yield ended


@pytest.mark.parametrize(
    ("six", "bound"),
    [(0, "named"), (1, "named"), (1, "everywhere")],
    ids=["IPv4, named", "IPv6, named", "IPv6, everywhere"],
)
def test_connections_at_a_bound_address_that_goes_are_reset(
    world: World, renumber: Callable[[int], None], six: int, bound: str, figure: Callable[[str], None]
) -> None:
    pod = shop(world, six)
    places = NODE_ADDRESSES if bound == "named" else ("0.0.0.0", "::")
    target = (CLUSTER_IPS[six], 80)
    with world.daemon("--bind-address", ",".join(places)), world.lab.pods.converse(await_end, target, 30) as clients:
        began_s = time.monotonic()
        renumber(six)
        if bound == "everywhere":
            # portals are sent to the new address
            eventually(lambda: names(world.lab.pods.call(connect, target, 1, timeout_s=0.5)) == {pod: 1})
        ended = clients.send(None)
        assert {how for how, _ in ended} == {"ConnectionResetError"}
        assert len(ended) == 30
        slowest_s = max(at_s for _, at_s in ended) - began_s
        figure(f"connections at a bound address were reset {slowest_s:.2f} s after it had gone")
        assert slowest_s < 2.0
        eventually(lambda: world.backends.active() == 0)


def test_a_bound_address_that_comes_back_cuts_no_connection(world: World) -> None:
    shop(world)
    bound, target = NODE_ADDRESSES[0], (CLUSTER_IPS[0], 80)
    with world.daemon("--bind-address", bound) as daemon, world.lab.pods.converse(hold, target, 20) as held:
        change_addresses("out0", gone=[OLD[0]])
        daemon.wait_for_log(f"portals were sent to {bound}, which this node no longer has")
        change_addresses("out0", come=[OLD[0]])
        add_route("default", OUTSIDE_ADDRESSES[0])
        # longer than an address may be away
        time.sleep(1.2)
        assert failures(held.send("ping")) == []


def test_kpfs_own_addresses_are_there_as_long_as_it_serves(world: World) -> None:
    shop(world)
    rendered = kpf("render", "--manifests", str(world.manifests.directory)).stdout
    assert [line for line in rendered.splitlines() if "on lo" in line] == [
        f"# proxy address {one} on lo" for one in PROXY
    ]
    assert on_lo() == set()
    with world.daemon() as daemon:
        assert daemon.status()["proxyAddresses"] == list(PROXY)
        assert on_lo() == set(PROXY)
        with world.lab.outside.converse(hold, (CLUSTER_IPS[0], 80), 5) as held:
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_log("new connections are dropped")
            # open connections go on until they are through
            assert failures(held.send("ping")) == []
            assert on_lo() == set(PROXY)
        assert daemon.process is not None
        assert daemon.process.wait(5.0) == 0
    assert on_lo() == set()


def test_a_start_that_fails_puts_no_address_anywhere(world: World) -> None:
    daemon = world.daemon()
    daemon.control_socket.write_text("data")
    with pytest.raises(DaemonFailedError, match="Address already in use"):
        daemon.start()
    daemon.control_socket.unlink()
    assert on_lo() == set()


def test_orphans_and_successor_have_one_address_and_cleanup_takes_it(world: World) -> None:
    pod = shop(world)
    daemon = world.daemon().start()
    with world.lab.outside.converse(hold, (CLUSTER_IPS[0], 80), 5) as held:
        port = daemon.service("shop")["proxyPort"]
        daemon.kill()
        assert on_lo() == set(PROXY)
        with daemon.start():
            assert daemon.status()["proxyAddresses"] == list(PROXY)
            # the very sockets: orphans hand them over
            assert daemon.service("shop")["proxyPort"] == port
            assert failures(held.send("ping")) == []
            assert world.answers((CLUSTER_IPS[0], 80), 3) == {pod: 3}
            daemon.kill()
    assert on_lo() == set(PROXY)
    for _ in range(2):
        assert kpf("cleanup").stderr == ""
        assert on_lo() == set()


def _after(number: int) -> list[str]:
    return [str(ip_address(one) + number) for one in PROXY]


def test_an_address_that_somebody_has_is_not_taken(world: World) -> None:
    pod = shop(world)
    target = (CLUSTER_IPS[0], 80)
    change_addresses("out0", come=PROXY)
    try:
        with world.daemon() as daemon, world.lab.outside.converse(hold, target, 5) as held:
            assert daemon.status()["proxyAddresses"] == _after(1)
            assert world.answers(target, 3) == {pod: 3}
            # the first ones are free now: no reason to move, nor when ours are taken away
            change_addresses("out0", gone=PROXY)
            change_addresses("lo", gone=_after(1))
            eventually(lambda: on_lo() == set(_after(1)))
            assert daemon.status()["proxyAddresses"] == _after(1)
            # somebody has all, and has them before ours go, for a free one is put back at once: they move, and no
            # connection is cut
            change_addresses("out0", come=[*PROXY, *_after(1)])
            change_addresses("lo", gone=_after(1))
            eventually(lambda: daemon.status()["proxyAddresses"] == _after(2))
            assert world.answers(target, 3) == {pod: 3}
            assert failures(held.send("ping")) == []
            change_addresses("out0", gone=_after(1))
    finally:
        change_addresses("out0", gone=PROXY)
    assert on_lo() == set()


def test_where_lo_has_no_ipv6_the_nodes_own_address_serves(world: World) -> None:
    pod = shop(world, six=1)
    if not set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1"):
        pytest.skip("the sysctls of this namespace cannot be set")
    try:
        with world.daemon() as daemon:
            assert daemon.status()["proxyAddresses"] == [PROXY[0], NODE_ADDRESSES[1]]
            assert world.answers((CLUSTER_IPS[1], 80), 3) == {pod: 3}
            daemon.wait_for_log(f"{PROXY[1]} cannot be put on lo")
            # and as soon as it can be
            set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
            eventually(lambda: daemon.status()["proxyAddresses"] == list(PROXY))
            assert world.answers((CLUSTER_IPS[1], 80), 3) == {pod: 3}
    finally:
        set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
