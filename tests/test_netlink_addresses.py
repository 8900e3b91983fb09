"""The node's addresses, and which one stands for it."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address

import pytest

from kpf.lab.hosts import Host
from kpf.model.names import Family, IPAddress
from kpf.netlink.addresses import (
    GROUPS,
    AddressWatch,
    LocalAddress,
    NodeAddresses,
    primary_address,
)
from kpf.netlink.attributes import attribute, message
from kpf.netlink.socket import NetlinkSocket
from kpf.uapi.internal import LOOPBACK_IFINDEX
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.rtnetlink import IFA, IFADDRMSG, RT_SCOPE, RTM
from tests.stage import own_namespace

LO = LocalAddress(1, ip_address("127.0.0.1"), is_global=False)
OLD = LocalAddress(2, ip_address("192.168.1.9"), passing=True)
FIRST = LocalAddress(2, ip_address("192.168.1.10"))
SECOND = LocalAddress(3, ip_address("10.1.1.1"))
SIX = LocalAddress(2, ip_address("fd00::10"))


def primary(
    *addresses: LocalAddress, asked: str = "", node_ips: str = "", default: str = "", family: Family = Family.IPV4
) -> IPAddress | None:
    return primary_address(
        family,
        asked=[ip_address(one) for one in asked.split()],
        node_ips=[ip_address(one) for one in node_ips.split()],
        known=NodeAddresses(addresses, {family: ip_address(default)} if default else {}),
    )


@pytest.mark.parametrize(
    ("expected", "seen"),
    [
        ("10.9.9.9", primary(LO, FIRST, asked="10.9.9.9", node_ips="192.168.1.10")),
        ("10.1.1.1", primary(LO, FIRST, SECOND, asked="fd00::1", node_ips="172.16.0.1 10.1.1.1")),
        ("10.1.1.1", primary(LO, FIRST, SECOND, default="10.1.1.1")),
        ("10.1.1.1", primary(LO, FIRST, SECOND, asked="0.0.0.0", default="10.1.1.1")),
        ("192.168.1.10", primary(LO, OLD, FIRST, SECOND, default="172.16.0.1")),
        ("192.168.1.10", primary(LO, OLD, FIRST, default="192.168.1.9")),
        ("127.0.0.1", primary(LO, OLD, SIX)),
        (None, primary(SIX)),
        ("fd00::10", primary(LO, FIRST, SIX, family=Family.IPV6)),
    ],
    ids=[
        "asked for",
        "Node's InternalIP",
        "default route",
        "wildcard",
        "first lasting",
        "passing default",
        "loopback",
        "none",
        "IPv6",
    ],
)
def test_primary_address(expected: str | None, seen: IPAddress | None) -> None:
    assert seen == (ip_address(expected) if expected else None)


def test_addresses_are_read_and_changes_noticed() -> None:
    async def scene() -> None:
        watch = AddressWatch()
        assert {"127.0.0.1", "::1"} <= {str(one) for one in (await watch.read()).all()}
        changes = watch.changes()
        # what changed before anybody listened is seen at once
        assert await asyncio.wait_for(anext(changes), 2.0) == await watch.read()
        waiting = asyncio.ensure_future(anext(changes))
        # the lab's client of netlink wants no event loop around it
        host = await asyncio.to_thread(Host, "test0", ours=["198.51.100.1/24"], theirs=["198.51.100.2/24"])
        try:
            now = await asyncio.wait_for(waiting, 2.0)
            found = {str(one.address): one for one in now.addresses}
            assert found["198.51.100.1"].is_global
            assert not found["198.51.100.1"].passing
        finally:
            await asyncio.to_thread(host.close)
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(scene())


def test_a_change_that_was_lost_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that notifications were lost, not which; nothing else may be left to be told."""
    callbacks: list[Callable[[bytes | None], None]] = []
    monkeypatch.setattr(NetlinkSocket, "watch", lambda _, on_data: callbacks.append(on_data))

    async def scene() -> None:
        changes = AddressWatch().changes()
        first = await anext(changes)
        callbacks[0](None)
        assert await asyncio.wait_for(anext(changes), 2.0) == first
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(scene())


def test_lost_notifications_are_told() -> None:
    lost: list[bytes | None] = []

    async def scene() -> None:
        with (
            own_namespace(),
            closing(NetlinkSocket(NETLINK.ROUTE, groups=GROUPS, buffer_bytes=4096)) as watching,
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK.ROUTE) as changing,
        ):
            watching.watch(lost.append)
            # while the loop does nothing
            for last in range(1, 200):
                header = IFADDRMSG.pack(socket.AF_INET, 32, 0, RT_SCOPE.HOST, LOOPBACK_IFINDEX)
                body = header + attribute(IFA.LOCAL, bytes([127, 1, 0, last]))
                changing.send(message(RTM.NEWADDR, NLM_F.REQUEST | NLM_F.CREATE, body))
            await asyncio.sleep(0.01)

    asyncio.run(scene())
    assert None in lost
