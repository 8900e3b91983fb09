"""Entries that keep flows from their portals: what they do to clients until they are forgotten."""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from pyroute2 import IPRoute

from kpf.lab.backends import Backends
from kpf.lab.clients import Address, connect
from kpf.lab.hosts import Host, set_sysctl
from kpf.lab.machine import Machine
from kpf.model.names import Family, SocketAddress
from kpf.model.rules import Portal, Rules
from kpf.netlink.conntrack import Stale, forget
from kpf.nft.kernel import Kernel
from tests.conntrack_table import NODE, Rewriting, host_outside
from tests.values import TCP

CLUSTER_IPS = ("10.96.8.1", "fd00:96:8::1")
PROXY_PORT = 20001

# conntrack takes note of connections only while some rule asks for their state
BEFORE = Rules(proxy_addresses={Family(one.version): one for one in map(ip_address, NODE)})


def after(target: Address) -> Rules:
    address = ip_address(target[0])
    return Rules(
        proxy_addresses=BEFORE.proxy_addresses,
        portals={Portal(address, TCP, target[1]): PROXY_PORT},
        cluster_ips=frozenset({address}),
    )


@pytest.fixture(scope="module")
def outside() -> Iterator[Host]:
    with host_outside() as host, Backends(Machine()) as backends:
        for address in NODE:
            backends.open(address, PROXY_PORT)
        yield host


@pytest.fixture
def kernel(outside: Host) -> "Play":
    """Runs a scene in a table without portals, on a node whose unknown addresses are `outside`'s to swallow."""
    assert outside

    async def play(scene: Callable[[Kernel], Coroutine[Any, Any, None]]) -> None:
        writer = Kernel()
        try:
            await writer.replace(BEFORE)
            await scene(writer)
        finally:
            await writer.delete()
            writer.close()

    return lambda scene: asyncio.run(play(scene))


Play = Callable[[Callable[[Kernel], Coroutine[Any, Any, None]]], None]


def attempt(target: Address) -> socket.socket:
    """A connection attempt of the node's own, under way; its SYN is sent again after 1 s and after 3 s."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    client.connect_ex(target)
    return client


async def answer(client: socket.socket, *, timeout_s: float) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), timeout_s)


def at(target: Address) -> SocketAddress:
    return SocketAddress(ip_address(target[0]), target[1])


async def forget_unreplied(*portals: SocketAddress) -> int:
    return await forget(Stale(tcp=frozenset(portals)))


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_an_early_attempt_reaches_the_proxy_once_it_is_forgotten(kernel: Play, family: int) -> None:
    target = (CLUSTER_IPS[family], 80)

    async def scene(writer: Kernel) -> None:
        with attempt(target) as client:
            await asyncio.sleep(0.1)
            await writer.update(BEFORE, after(target))
            assert await forget_unreplied(at(target)) == 1
            assert await answer(client, timeout_s=2.5) == f"{NODE[family]}\n".encode()
        assert await forget_unreplied(at(target)) == 0

    kernel(scene)


def test_an_early_attempt_from_another_host_does_too(kernel: Play, outside: Host) -> None:
    target = (CLUSTER_IPS[0], 81)
    if not set_sysctl("net.ipv4.ip_forward", "1"):
        pytest.skip("the machine does not let us forward")

    async def scene(writer: Kernel) -> None:
        with outside.begin(connect, target, timeout_s=6.0) as waiting:
            deadline_s = time.monotonic() + 5.0
            while await forget_unreplied(at(target)) == 0:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.01)
            # its next SYN leaves an entry again
            await asyncio.sleep(1.2)
            await writer.update(BEFORE, after(target))
            assert await forget_unreplied(at(target)) == 1
            (outcome,) = await asyncio.to_thread(waiting.result)
        assert outcome.name == NODE[0]

    kernel(scene)


def test_an_early_attempt_that_is_not_forgotten_stays_away(kernel: Play) -> None:
    """What the deletion is for: without it the retransmission belongs to the entry, and never meets the portal."""
    target = (CLUSTER_IPS[0], 82)

    async def scene(writer: Kernel) -> None:
        with attempt(target) as client:
            await asyncio.sleep(0.1)
            await writer.update(BEFORE, after(target))
            with pytest.raises(TimeoutError):
                await answer(client, timeout_s=1.5)
            # it was not turned away either: its next SYN may still find the portal
            assert await forget_unreplied(at(target)) == 1
            assert await answer(client, timeout_s=3.0) == f"{NODE[0]}\n".encode()

    kernel(scene)


def test_what_is_answered_or_goes_elsewhere_is_left_alone(kernel: Play) -> None:
    target, elsewhere = (CLUSTER_IPS[0], 83), ("10.96.8.9", 83)

    async def scene(writer: Kernel) -> None:
        await writer.update(BEFORE, after(target))
        with attempt(target) as established, attempt(elsewhere), attempt((CLUSTER_IPS[0], 84)):
            assert await answer(established, timeout_s=2.0)
            assert await forget_unreplied(at(target)) == 0
            await asyncio.get_running_loop().sock_sendall(established, b"still here\n")
            assert await answer(established, timeout_s=2.0) == b"still here\n"
        assert await forget_unreplied(at(elsewhere)) == 1

    kernel(scene)


def test_a_node_port_is_on_this_node(kernel: Play) -> None:
    """An attempt of ours to the same port of another machine is none of the node port's."""
    away = ("10.96.8.10", 30090)

    async def scene(_: Kernel) -> None:
        with attempt(away):
            await asyncio.sleep(0.05)
            assert await forget(Stale(tcp_node_ports={(Family.IPV4, 30090)})) == 0
            assert await forget_unreplied(at(away)) == 1

    kernel(scene)


def test_a_thousand_strangers_do_not_hold_up_the_loop(kernel: Play) -> None:
    strangers: list[Address] = [(str(IPv4Address(0x0A620000 + number)), 80) for number in range(1000)]

    async def scene(_: Kernel) -> None:
        clients = [attempt(one) for one in strangers]
        try:
            await asyncio.sleep(0.05)
            assert await forget_unreplied(at(strangers[500])) == 1
            assert await forget_unreplied(*map(at, strangers)) == 999
        finally:
            for client in clients:
                client.close()

    kernel(scene)


ENDPOINTS = (("192.168.72.11", "192.168.72.12"), ("fd00:72::11", "fd00:72::12"))
UDP_PORT = 5353


@pytest.fixture(scope="module")
def servers(outside: Host) -> Iterator[Mapping[str, socket.socket]]:
    """Two endpoints in each family, on addresses of this node."""
    opened: dict[str, socket.socket] = {}
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=outside.link)
        for address in (one for pair in ENDPOINTS for one in pair):
            v6 = ":" in address
            # IFA_F_NODAD 2: an IPv6 address is unusable while duplicates of it are looked for
            ip.addr("add", index=index, address=address, prefixlen=128 if v6 else 32, flags=2 if v6 else 0)
            opened[address] = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
            opened[address].bind((address, UDP_PORT))
    yield opened
    for server in opened.values():
        server.close()


def ask(client: socket.socket, servers: Mapping[str, socket.socket], *, timeout_s: float = 2.0) -> str:
    """Who answers a datagram, as its client hears it; "" if no endpoint has got it."""
    client.send(b"who?")
    readable, _, _ = select.select(list(servers.values()), [], [], timeout_s)
    if not readable:
        return ""
    (server,) = readable
    _, peer = server.recvfrom(100)
    server.sendto(server.getsockname()[0].encode(), peer)
    client.settimeout(timeout_s)
    return client.recv(100).decode()


def udp_client(portal: SocketAddress) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if portal.address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((str(portal.address), portal.port))
    return client


@pytest.fixture(params=[0, 1], ids=["IPv4", "IPv6"])
def rewriting(request: pytest.FixtureRequest) -> Iterator[Rewriting]:
    rule = Rewriting(CLUSTER_IPS[request.param])
    yield rule
    rule.close()


def test_a_udp_client_leaves_an_endpoint_that_has_gone_and_no_other(
    rewriting: Rewriting, servers: Mapping[str, socket.socket]
) -> None:
    portal = SocketAddress(rewriting.portal, UDP_PORT)
    first, second = ENDPOINTS[portal.address.version == 6]

    def forget_all_but(*endpoints: str) -> int:
        staying = {SocketAddress(ip_address(one), UDP_PORT) for one in endpoints}
        return asyncio.run(forget(Stale(udp={portal: staying})))

    with udp_client(portal) as early, udp_client(portal) as late:
        assert ask(early, servers, timeout_s=0.2) == ""
        rewriting.send_to(first)
        # its entry was made before the rule, and keeps it from the portal for as long as it goes on sending
        assert ask(early, servers, timeout_s=0.2) == ""
        assert ask(late, servers) == first
        assert forget_all_but(first, second) == 1
        assert ask(early, servers) == first
        rewriting.send_to(second)
        assert forget_all_but(first, second) == 0
        assert [ask(one, servers) for one in (early, late)] == [first, first]
        assert forget_all_but(second) == 2
        assert [ask(one, servers) for one in (early, late)] == [second, second]
