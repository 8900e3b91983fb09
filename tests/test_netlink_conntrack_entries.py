"""Which entries are taken for stale, which are deleted, and which are left alone."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from kpf.lab.hosts import Host
from kpf.model.names import Family, Protocol
from kpf.netlink import conntrack
from kpf.netlink.attributes import nested
from kpf.netlink.conntrack import Entry, Stale, forget, is_stale
from kpf.netlink.socket import Frame, NetlinkSocket, RefusedError
from kpf.uapi.nfnetlink_conntrack import CTA
from tests.conntrack_table import NODE, Entries, Flow, host_outside
from tests.values import TCP, UDP
from tests.values import at as parse

STALE = Stale(
    tcp={parse("10.96.0.1:80")},
    tcp_node_ports={(Family.IPV4, 30080)},
    udp={parse("10.96.0.1:53"): {parse("10.2.0.1:5353"), parse("10.2.0.2:5353")}, parse("10.96.0.2:53"): frozenset()},
    udp_node_ports={(Family.IPV4, 30053): {parse("10.2.0.1:5353")}},
)


@pytest.mark.parametrize(
    ("protocol", "destination", "reply_source", "seen_reply", "stale"),
    [
        # attempts that came before the portal, and connections that did not
        (TCP, "10.96.0.1:80", "10.96.0.1:80", False, True),
        (TCP, "10.96.0.1:80", "10.96.0.1:80", True, False),
        (TCP, "10.96.0.1:81", "10.96.0.1:81", False, False),
        (TCP, "10.96.0.1:53", "10.2.0.9:5353", False, False),
        (TCP, "192.168.1.10:30080", "192.168.1.10:30080", False, True),
        (TCP, "192.168.1.11:30080", "192.168.1.11:30080", False, False),
        (TCP, "192.168.1.10:30053", "192.168.1.10:30053", False, False),
        (TCP, "[fd00::10]:30080", "[fd00::10]:30080", False, False),
        # a flow goes on with an endpoint that stays
        (UDP, "10.96.0.1:53", "10.2.0.1:5353", True, False),
        (UDP, "10.96.0.1:53", "10.2.0.2:5353", False, False),
        (UDP, "10.96.0.1:53", "10.2.0.3:5353", True, True),
        (UDP, "10.96.0.1:53", "10.2.0.3:5353", False, True),
        (UDP, "10.96.0.1:53", "10.2.0.1:5354", True, True),
        (UDP, "10.96.0.1:53", "10.96.0.1:53", False, True),
        # a portal without any endpoint that stays, and what is no portal
        (UDP, "10.96.0.2:53", "10.2.0.1:5353", True, True),
        (UDP, "10.96.0.3:53", "10.2.0.3:5353", True, False),
        (UDP, "10.96.0.1:54", "10.2.0.3:5353", True, False),
        (UDP, "10.96.0.1:80", "10.96.0.1:80", False, False),
        # a node port is on this node, and of one family
        (UDP, "192.168.1.10:30053", "10.2.0.1:5353", True, False),
        (UDP, "192.168.1.10:30053", "10.2.0.2:5353", True, True),
        (UDP, "192.168.1.11:30053", "10.2.0.2:5353", True, False),
        (UDP, "[fd00::10]:30053", "[fd00:2::2]:5353", True, False),
    ],
)
def test_what_is_stale(protocol: Protocol, destination: str, reply_source: str, seen_reply: bool, stale: bool) -> None:
    local = {ip_address("192.168.1.10"), ip_address("fd00::10")}
    entry = Entry(protocol, parse(destination), parse(reply_source), seen_reply)
    assert is_stale(entry, STALE, local) is stale


def test_a_portal_counts_before_the_node_port_at_its_address() -> None:
    staying = {parse("10.2.0.1:5353")}
    stale = Stale(udp={parse("192.168.1.10:53"): staying}, udp_node_ports={(Family.IPV4, 53): frozenset()})
    entry = Entry(UDP, parse("192.168.1.10:53"), parse("10.2.0.1:5353"), True)
    assert not is_stale(entry, stale, {ip_address("192.168.1.10")})


@pytest.fixture(scope="module")
def outside() -> Iterator[Host]:
    with host_outside() as host:
        yield host


@pytest.fixture
def entries(outside: Host) -> "Scene":
    assert outside

    async def play(scene: Callable[[Entries], Coroutine[Any, Any, None]]) -> None:
        made = Entries()
        try:
            await made.clear()
            await scene(made)
        finally:
            await made.clear()
            made.close()

    return lambda scene: asyncio.run(play(scene))


Scene = Callable[[Callable[[Entries], Coroutine[Any, Any, None]]], None]

OLD_KERNEL = 99  # an attribute that no kernel knows: it is passed over, as the filter is before 5.8


@pytest.mark.parametrize("filter_attribute", [CTA.FILTER, OLD_KERNEL], ids=["kernel filters", "kernel does not"])
@pytest.mark.parametrize("net", ["10.{}.0.{}", "[fd00:{}::{}]"], ids=["IPv4", "IPv6"])
def test_only_stale_entries_go(
    entries: Scene, monkeypatch: pytest.MonkeyPatch, net: str, filter_attribute: int
) -> None:
    def filtered(kind: int, *parts: bytes) -> bytes:
        return nested(filter_attribute if kind == CTA.FILTER else kind, *parts)

    monkeypatch.setattr(conntrack, "nested", filtered)
    portal, other = net.format(96, 1), net.format(96, 2)
    gone, staying = net.format(2, 1) + ":5353", net.format(2, 2) + ":5353"
    here, family = NODE[":" in portal], Family(parse(gone).address.version)
    here = f"[{here}]" if ":" in here else here
    stale = [
        Flow(1, f"{portal}:53", gone),
        Flow(2, f"{portal}:53", gone, seen_reply=False),
        Flow(3, f"{portal}:53", gone, masqueraded=True),
        Flow(4, f"{portal}:53", f"{portal}:53", seen_reply=False),
        Flow(5, f"{portal}:53", gone, zone=7),
        Flow(6, f"{here}:30053", gone),
        Flow(7, f"{portal}:80", f"{portal}:80", protocol=6, seen_reply=False),
        Flow(8, f"{here}:30080", f"{here}:30080", protocol=6, seen_reply=False),
    ]
    others = [
        Flow(11, f"{portal}:53", staying),
        Flow(12, f"{portal}:53", staying, masqueraded=True, seen_reply=False),
        Flow(13, f"{other}:53", gone),
        Flow(14, f"{portal}:54", gone),
        Flow(15, f"{portal}:53", gone, protocol=6, seen_reply=False),
        Flow(16, f"{here}:30053", staying),
        Flow(17, f"{other}:30053", gone),
        Flow(18, f"{portal}:80", f"{portal}:80", protocol=6),
        Flow(19, f"{portal}:80", f"{portal}:80", seen_reply=False),
        Flow(20, f"{other}:30080", f"{other}:30080", protocol=6, seen_reply=False),
        Flow(21, "10.96.0.1:53", "10.96.0.1:53", protocol=socket.IPPROTO_ICMP),
    ]
    asked = Stale(
        tcp={parse(f"{portal}:80")},
        tcp_node_ports={(family, 30080)},
        udp={parse(f"{portal}:53"): {parse(staying)}},
        udp_node_ports={(family, 30053): {parse(staying)}},
    )

    async def scene(table: Entries) -> None:
        await table.make(*stale, *others)
        assert await forget(asked) == len(stale)
        assert await table.senders() == {flow.sender for flow in others}
        assert await forget(asked) == 0

    entries(scene)


@pytest.mark.parametrize("number", [1, 40])
def test_portals_of_both_families_and_any_number(entries: Scene, number: int) -> None:
    portals = [f"10.96.3.{one}:53" for one in range(number)] + [f"[fd00:96::{one}]:53" for one in range(number)]
    endpoints = {4: "10.2.0.1:53", 6: "[fd00:2::1]:53"}
    flows = [
        Flow(sender, portal, endpoints[parse(portal).address.version]) for sender, portal in enumerate(portals, 1000)
    ]

    async def scene(table: Entries) -> None:
        await table.make(*flows)
        kept = parse(endpoints[4])
        assert await forget(Stale(udp={parse(portal): {kept} for portal in portals})) == number
        assert await table.senders() == set(range(1000, 1000 + number))

    entries(scene)


@pytest.mark.parametrize("net", ["10.{}.0.{}", "[fd00:{}::{}]"], ids=["IPv4", "IPv6"])
def test_the_kernel_sorts_out_other_protocols_and_ports(
    entries: Scene, monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    portal, endpoint = net.format(96, 1), net.format(2, 1)
    looked_at: list[Entry | None] = []
    decode = conntrack.decode

    def spy(frame: Frame) -> Entry | None:
        looked_at.append(decode(frame))
        return looked_at[-1]

    monkeypatch.setattr(conntrack, "decode", spy)
    strangers = [
        Flow(sender, f"{portal}:{port}", f"{endpoint}:{port}", protocol, seen_reply=False)
        for sender, (port, protocol) in enumerate([(54, 17), (53, 6), (80, 17)] * 30, 2000)
    ]

    async def scene(table: Entries) -> None:
        await table.make(
            *strangers, Flow(1, f"{portal}:53", f"{endpoint}:53"), Flow(2, f"{portal}:53", f"{endpoint}:9")
        )
        assert await forget(Stale(udp={parse(f"{portal}:53"): {parse(f"{endpoint}:9")}})) == 1
        assert len(looked_at) == 2
        looked_at.clear()
        assert await forget(Stale(tcp={parse(f"{portal}:53")})) == 30
        assert len(looked_at) == 30

    entries(scene)


@contextmanager
def once_looked_at(interfere: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[list[int]]:
    """Between the look at entries and their deletion. Yields how many messages `forget` sends at once, each time."""
    talk = NetlinkSocket.talk
    sent: list[int] = []

    async def overtaken(netlink: NetlinkSocket, messages: Sequence[bytes], **options: Any) -> list[Frame]:
        found = await talk(netlink, messages, **options)
        sent.append(len(messages))
        if len(sent) == 1:
            patch.setattr(NetlinkSocket, "talk", talk)
            await interfere()
            patch.setattr(NetlinkSocket, "talk", overtaken)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetlinkSocket, "talk", overtaken)
        yield sent
    assert sent, "nothing was looked at"


ALL_GO = Stale(udp={parse("10.96.0.1:53"): frozenset()})


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
def test_an_entry_that_has_gone_meanwhile_is_no_error(entries: Scene, again: bool) -> None:
    """Its client's next packet may have made another one, which is not stale."""
    flow = Flow(1, "10.96.0.1:53", "10.2.0.1:53")
    # the kernel makes an identifier of the tuple and the place in memory, which somebody else has to take first
    others = [Flow(sender, "10.96.0.2:53", "10.2.0.1:53") for sender in range(2, 66)]

    async def scene(table: Entries) -> None:
        await table.make(flow)

        async def interfere() -> None:
            await table.clear()
            if again:
                await table.make(*others, flow)

        with once_looked_at(interfere):
            assert await forget(ALL_GO) == 0
        assert (1 in await table.senders()) is again

    entries(scene)


def test_hundreds_go_in_few_packs_though_half_of_them_have_gone_meanwhile(entries: Scene) -> None:
    flows = [Flow(sender, "10.96.0.1:53", f"10.2.0.{sender % 2}:53") for sender in range(1, 451)]

    async def scene(table: Entries) -> None:
        await table.make(*flows)

        async def interfere() -> None:
            assert await forget(Stale(udp={parse("10.96.0.1:53"): {parse("10.2.0.1:53")}})) == 225

        with once_looked_at(interfere) as sent:
            assert await forget(ALL_GO) == 225
        assert sent == [1, 200, 200, 50]
        assert await table.senders() == set()

    entries(scene)


def test_a_refusal_for_another_reason_is_an_error(entries: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "GONE", {errno.EBUSY})
    flows = [Flow(sender, "10.96.0.1:53", f"10.2.0.{sender % 2}:53") for sender in range(1, 21)]

    async def scene(table: Entries) -> None:
        await table.make(*flows)

        async def interfere() -> None:
            await table.clear()
            await table.make(*flows[:10])

        with once_looked_at(interfere), pytest.raises(RefusedError, match=os.strerror(errno.ENOENT)):
            await forget(ALL_GO)

    entries(scene)


def test_others_get_their_turn_while_two_thousand_entries_go(entries: Scene) -> None:
    flows = [Flow(sender, "10.96.0.1:53", "10.2.0.1:53") for sender in range(1, 2001)]

    async def scene(table: Entries) -> None:
        await table.make(*flows)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        assert await forget(ALL_GO) == 2000
        task.cancel()
        # they take 60 to 90 ms, of which the kernel's walk through the table is one piece of 10 to 25
        assert turns >= 6

    entries(scene)
