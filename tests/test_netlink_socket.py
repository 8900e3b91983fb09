"""The conversation with the kernel: what is numbered, interrupted, failed midway, lost, or given up."""

import asyncio
import errno
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from typing import Any

import pytest

from kpf.model.rules import Portal, Rules, Verdict
from kpf.netlink.attributes import attribute, attributes, message, string
from kpf.netlink.nfnetlink import nfgenmsg
from kpf.netlink.socket import (
    MAX_DUMPS,
    DumpInterruptedError,
    NetlinkSocket,
    RefusedError,
)
from kpf.nft import contents, schema
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.uapi.internal import LOOPBACK_IFINDEX
from kpf.uapi.netfilter import NFPROTO
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.nf_tables import NFTA_SET_ELEM_LIST
from kpf.uapi.rtnetlink import IFA, IFADDRMSG, RT_SCOPE, RTM
from tests.stage import own_namespace
from tests.test_nft_contract import FULL
from tests.values import TCP

ADDRESSES = message(RTM.GETADDR, NLM_F.REQUEST | NLM_F.DUMP, IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0))
# so many are told in more datagrams than the kernel makes ready
MANY = 2000
FIRST = IPv4Address("127.1.0.0")
# the number after it is 0: sequence numbers have 32 bits
LAST_NUMBER = 0xFFFFFFFF


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with own_namespace():
        yield


def new_addresses(numbers: range, flags: int = 0) -> list[bytes]:
    packed = [(FIRST + number).packed for number in numbers]
    header = IFADDRMSG.pack(socket.AF_INET, 32, 0, RT_SCOPE.HOST, LOOPBACK_IFINDEX)
    bodies = [header + attribute(IFA.LOCAL, one) for one in packed]
    made = [message(RTM.NEWADDR, NLM_F.REQUEST | NLM_F.CREATE | flags, body) for body in bodies[:-1]]
    return [*made, message(RTM.NEWADDR, NLM_F.REQUEST | NLM_F.CREATE | NLM_F.ACK, bodies[-1])]


async def addresses(netlink: NetlinkSocket) -> set[IPv4Address]:
    found = await netlink.talk([ADDRESSES])
    told = [IPv4Address(bytes(attributes(frame.payload[IFADDRMSG.size :])[IFA.ADDRESS])) for frame in found]
    assert len(told) == len(set(told))
    return {one for one in told if one >= FIRST}


def after_each_first_datagram(netlink: NetlinkSocket, act: Callable[[int], Awaitable[object]]) -> None:
    """Call `act` with the number of the conversation when its first datagram has come, and before the next one does."""
    loop = asyncio.get_running_loop()
    receive, seen = loop.sock_recv, set[int]()

    async def received(sock: socket.socket, size: int) -> Any:
        data = await receive(sock, size)
        (number,) = struct.unpack_from("=I", data, 8)
        if sock is netlink._socket and number not in seen:
            seen.add(number)
            await act(len(seen))
        return data

    loop.sock_recv = received  # type: ignore[assignment,method-assign]


def test_an_interrupted_dump_is_done_again() -> None:
    more = [new_addresses(range(MANY + number, MANY + number + 1)) for number in range(2)]

    async def scene() -> set[IPv4Address]:
        with closing(NetlinkSocket(NETLINK.ROUTE)) as asking, closing(NetlinkSocket(NETLINK.ROUTE)) as changing:
            await changing.talk(new_addresses(range(MANY)))

            async def change(conversation: int) -> None:
                if conversation <= len(more):
                    await changing.talk(more[conversation - 1])

            after_each_first_datagram(asking, change)
            return await addresses(asking)

    assert asyncio.run(scene()) == {FIRST + number for number in range(MANY + len(more))}


def test_a_dump_that_is_interrupted_again_and_again_is_an_error() -> None:
    asked = 0

    async def scene() -> None:
        nonlocal asked
        with closing(NetlinkSocket(NETLINK.ROUTE)) as asking, closing(NetlinkSocket(NETLINK.ROUTE)) as changing:
            await changing.talk(new_addresses(range(MANY)))

            async def change(conversation: int) -> None:
                nonlocal asked
                asked = conversation
                await changing.talk(new_addresses(range(MANY + conversation, MANY + conversation + 1)))

            after_each_first_datagram(asking, change)
            with pytest.raises(DumpInterruptedError) as failure:
                await addresses(asking)
            assert failure.value.errno == errno.EINTR
            # and the next one may be better
            assert len(await addresses(changing)) == MANY + MAX_DUMPS

    asyncio.run(scene())
    assert asked == MAX_DUMPS


def test_a_dump_that_fails_midway_is_an_error() -> None:
    """The kernel says so in NLMSG_DONE: here, that what it was about to go on with is no more."""
    rules = Rules(portals={Portal(IPv4Address(0x0A600000 + n), TCP, 80): Verdict.DROP for n in range(3 * MANY)})
    (one,) = (one.name for one in schema.sets() if one.name == "verdict-ip4")
    names = string(NFTA_SET_ELEM_LIST.TABLE, schema.TABLE) + string(NFTA_SET_ELEM_LIST.SET, one)
    body = nfgenmsg(NFPROTO.INET) + names
    elements = message(contents.GET_ELEMENTS, NLM_F.REQUEST | NLM_F.DUMP, body)

    async def scene() -> None:
        with closing(Kernel()) as writer, closing(NetlinkSocket(NETLINK.NETFILTER)) as asking:
            await writer.replace(rules)
            after_each_first_datagram(asking, lambda _: writer.delete())
            with pytest.raises(RefusedError) as failure:
                await asking.talk([elements])
            assert (failure.value.errno, failure.value.index) == (errno.ENOENT, 0)

    asyncio.run(scene())


def test_numbers_begin_anew_after_32_bits() -> None:
    async def scene() -> None:
        with closing(NetlinkSocket(NETLINK.ROUTE)) as netlink, closing(Kernel()) as writer:
            netlink._sequence = LAST_NUMBER - 1
            for _ in range(4):
                assert await addresses(netlink) == set()
            netlink._sequence = LAST_NUMBER
            await netlink.talk(new_addresses(range(3)))
            assert len(await addresses(netlink)) == 3
            writer._socket._sequence = LAST_NUMBER - 1
            await writer.replace(FULL)
            writer._socket._sequence = LAST_NUMBER
            missing = Portal(IPv4Address("10.9.9.9"), TCP, 80)
            with pytest.raises(TransactionFailedError, match="message 1 of 3 was refused"):
                await writer.update(Rules(portals={missing: 20001}), Rules())

    asyncio.run(scene())


class Slow:
    """A socket that the kernel takes messages of, and lets go of, only once `let_go` is set: as in a transaction."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.let_go, self.is_closed = threading.Event(), threading.Event()
        self.sent = 0

    def send(self, data: bytes) -> int:
        self.sent += 1
        self.let_go.wait(10.0)
        return self._real.send(data)

    def close(self) -> None:
        self.let_go.wait(10.0)
        self._real.close()
        self.is_closed.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_kernel_that_is_busy_holds_up_nobody_else_and_what_is_given_up_ends_first() -> None:
    async def scene() -> None:
        with closing(NetlinkSocket(NETLINK.ROUTE)) as netlink:
            await netlink.talk(new_addresses(range(3)))
            netlink._socket = slow = Slow(netlink._socket)  # type: ignore[assignment]
            # small as it is, it is not sent from the loop
            given_up = asyncio.create_task(netlink.talk(new_addresses(range(3, 4))))
            await asyncio.sleep(0.01)
            given_up.cancel()
            began_s = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            following = asyncio.create_task(addresses(netlink))
            await asyncio.sleep(0.05)
            assert time.monotonic() - began_s < 1.0
            assert not following.done()
            assert slow.sent == 1
            slow.let_go.set()
            assert await following == {FIRST + number for number in range(4)}

    asyncio.run(scene())


def test_the_end_does_not_wait_for_the_kernel() -> None:
    """What is sent or closed when the loop ends is left to the kernel; nobody is told of it."""

    async def scene() -> Slow:
        netlink = NetlinkSocket(NETLINK.ROUTE)
        netlink._socket = slow = Slow(netlink._socket)  # type: ignore[assignment]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(netlink.talk([ADDRESSES]), 0.01)
        netlink.close()
        return slow

    began_s = time.monotonic()
    slow = asyncio.run(scene())
    assert time.monotonic() - began_s < 1.0
    assert not slow.is_closed.is_set()
    slow.let_go.set()
    assert slow.is_closed.wait(5.0)
