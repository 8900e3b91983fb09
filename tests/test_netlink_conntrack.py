"""Connection attempts that came before their portal: the entry they leave, and what they get once it is forgotten."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from kpf.lab.backends import Backends
from kpf.lab.clients import Address, connect
from kpf.lab.hosts import Host, add_route, set_sysctl
from kpf.lab.machine import Machine
from kpf.model.names import Family, SocketAddress
from kpf.model.rules import Portal, Rules
from kpf.netlink.conntrack import forget_unreplied
from kpf.nft.kernel import Kernel
from tests.values import TCP

NODE = ("192.168.72.1", "fd00:72::1")
OUTSIDE = ("192.168.72.2", "fd00:72::2")
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
    host = Host(
        "early0",
        ours=[f"{NODE[0]}/24", f"{NODE[1]}/64"],
        theirs=[f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64"],
    )
    for gateway in OUTSIDE:
        add_route("default", gateway)
    with Backends(Machine()) as backends:
        for address in NODE:
            backends.open(address, PROXY_PORT)
        yield host
    host.close()


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


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_an_early_attempt_reaches_the_proxy_once_it_is_forgotten(kernel: Play, family: int) -> None:
    target = (CLUSTER_IPS[family], 80)

    async def scene(writer: Kernel) -> None:
        with attempt(target) as client:
            await asyncio.sleep(0.1)
            await writer.update(BEFORE, after(target))
            assert await forget_unreplied({at(target)}, frozenset()) == 1
            assert await answer(client, timeout_s=2.5) == f"{NODE[family]}\n".encode()
        assert await forget_unreplied({at(target)}, frozenset()) == 0

    kernel(scene)


def test_an_early_attempt_from_another_host_does_too(kernel: Play, outside: Host) -> None:
    target = (CLUSTER_IPS[0], 81)
    if not set_sysctl("net.ipv4.ip_forward", "1"):
        pytest.skip("the machine does not let us forward")

    async def scene(writer: Kernel) -> None:
        with outside.begin(connect, target, timeout_s=6.0) as waiting:
            deadline_s = time.monotonic() + 5.0
            while await forget_unreplied({at(target)}, frozenset()) == 0:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.01)
            # its next SYN leaves an entry again
            await asyncio.sleep(1.2)
            await writer.update(BEFORE, after(target))
            assert await forget_unreplied({at(target)}, frozenset()) == 1
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
            assert await forget_unreplied({at(target)}, frozenset()) == 1
            assert await answer(client, timeout_s=3.0) == f"{NODE[0]}\n".encode()

    kernel(scene)


def test_what_is_answered_or_goes_elsewhere_is_left_alone(kernel: Play) -> None:
    target, elsewhere = (CLUSTER_IPS[0], 83), ("10.96.8.9", 83)

    async def scene(writer: Kernel) -> None:
        await writer.update(BEFORE, after(target))
        with attempt(target) as established, attempt(elsewhere), attempt((CLUSTER_IPS[0], 84)):
            assert await answer(established, timeout_s=2.0)
            assert await forget_unreplied({at(target)}, frozenset()) == 0
            await asyncio.get_running_loop().sock_sendall(established, b"still here\n")
            assert await answer(established, timeout_s=2.0) == b"still here\n"
        assert await forget_unreplied({at(elsewhere)}, frozenset()) == 1

    kernel(scene)


def test_a_node_port_is_on_this_node(kernel: Play) -> None:
    """An attempt of ours to the same port of another machine is none of the node port's."""
    away = ("10.96.8.10", 30090)

    async def scene(_: Kernel) -> None:
        with attempt(away):
            await asyncio.sleep(0.05)
            assert await forget_unreplied(frozenset(), {30090}) == 0
            assert await forget_unreplied({at(away)}, frozenset()) == 1

    kernel(scene)


def test_a_thousand_strangers_do_not_hold_up_the_loop(kernel: Play) -> None:
    strangers: list[Address] = [(str(IPv4Address(0x0A620000 + number)), 80) for number in range(1000)]

    async def scene(_: Kernel) -> None:
        clients = [attempt(one) for one in strangers]
        try:
            await asyncio.sleep(0.05)
            assert await forget_unreplied({at(strangers[500])}, frozenset()) == 1
            assert await forget_unreplied(set(map(at, strangers)), frozenset()) == 999
        finally:
            for client in clients:
                client.close()

    kernel(scene)
