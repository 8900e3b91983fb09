"""A netlink socket on the running event loop.

The waiting is ours rather than a library's, because it must end: an answer that does not come is an error that has a
name, as is what overflows, and a transaction that fails is one failure. Only the kernel itself may take as long as it
likes: it carries out what is sent while it takes it, and for that waits for whoever else has its tables in hand, which
nothing can interrupt; so does the end of a socket. So all is sent, and sockets are closed, beside the loop.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple

from kpf.net import bpf
from kpf.netlink.attributes import attributes
from kpf.uapi.internal import SOL
from kpf.uapi.netlink import NETLINK, NLM_F, NLMSG, NLMSGERR_ATTR, NLMSGHDR
from kpf.uapi.sockets import SO
from kpf.waiting import beside_the_loop

# without CAP_NET_ADMIN in the initial user namespace, net.core.{w,r}mem_max are the limits
NOT_ALLOWED = {errno.EPERM}

SEQUENCE, _SEQUENCE_AT = struct.Struct("=I"), 8  # nlmsg_seq in struct nlmsghdr
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 10.0
SEQUENCE_MASK = 0xFFFFFFFF
# a dump that was interrupted so often is given up: what it shows changes all the time
MAX_DUMPS = 10

_PORT_AT = 12  # nlmsg_pid in struct nlmsghdr
# looked up once: each time it takes 70 ns in Python 3.11, and there are frames by the hundred thousand
_unpack = NLMSGHDR.unpack_from
_ERROR, _DONE, _DUMP_INTR = int(NLMSG.ERROR), int(NLMSG.DONE), int(NLM_F.DUMP_INTR)


class NetlinkTimeoutError(TimeoutError):
    """The kernel did not answer in time."""


class DumpInterruptedError(OSError):
    """What was dumped has changed meanwhile, so it may be of no moment that ever was."""


class Frame(NamedTuple):
    """One message as it came. `port`: whose request it answers, or who caused what it tells."""

    kind: int
    flags: int
    sequence: int
    port: int
    payload: memoryview


class Refusal(NamedTuple):
    """A negative acknowledgement: errno > 0, and the kernel's own words, "" if it had none."""

    sequence: int
    errno: int
    text: str


def frames(data: bytes) -> Iterator[Frame]:
    """The messages in what was received, each at a multiple of 4 bytes; one shorter than its header ends them."""
    view, at = memoryview(data), 0
    while at + NLMSGHDR.size <= len(data):
        length, kind, flags, sequence, port = _unpack(data, at)
        if length < NLMSGHDR.size:
            return
        yield Frame(kind, flags, sequence, port, view[at + NLMSGHDR.size : at + length])
        at += length + 3 & ~3


def acknowledgement(frame: Frame) -> Refusal:
    """What an NLMSG_ERROR frame says; errno 0 is success."""
    at = 4 + NLMSGHDR.size
    if not frame.flags & NLM_F.CAPPED:
        at = 4 + struct.unpack_from("=I", frame.payload, 4)[0]
    return _refusal(frame, at)


def dump_end(frame: Frame) -> Refusal:
    """What an NLMSG_DONE frame says, which a dump that failed midway ends with; errno 0 is success."""
    return _refusal(frame, 4) if len(frame.payload) >= 4 else Refusal(frame.sequence, 0, "")


def _refusal(frame: Frame, words_at: int) -> Refusal:
    code, text = -struct.unpack_from("=i", frame.payload)[0], ""
    if frame.flags & NLM_F.ACK_TLVS:
        words = attributes(frame.payload[words_at:]).get(NLMSGERR_ATTR.MSG, b"")
        text = bytes(words).rstrip(b"\0").decode(errors="replace")
    return Refusal(frame.sequence, code, text)


class NetlinkSocket:
    """Requests one at a time, or notifications. Make and use it inside the event loop.

    `groups`: of notifications, by number. `buffer_bytes`: of sending and receiving each, 0 for the system's default;
    without CAP_NET_ADMIN net.core.wmem_max and rmem_max limit it. Making it raises OSError.
    """

    def __init__(self, protocol: int, *, groups: tuple[int, ...] = (), buffer_bytes: int = 0) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        if buffer_bytes:
            self._set_buffer(SO.SNDBUFFORCE, socket.SO_SNDBUF, buffer_bytes)
            self._set_buffer(SO.RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes)
        # answer with the header of the request only, and with the kernel's words
        self._socket.setsockopt(SOL.NETLINK, NETLINK.CAP_ACK, 1)
        self._socket.setsockopt(SOL.NETLINK, NETLINK.EXT_ACK, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL.NETLINK, NETLINK.ADD_MEMBERSHIP, group)
        self._sequence = 1
        self._lock = asyncio.Lock()
        self._sending: asyncio.Future[None] | None = None

    def _set_buffer(self, forced: int, allowed: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
            self._socket.setsockopt(socket.SOL_SOCKET, allowed, size)

    @property
    def send_limit_bytes(self) -> int:
        """How much can be sent at once: the buffer less what the kernel keeps of it (netlink_sendmsg)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32

    @property
    def is_in_kernel(self) -> bool:
        """The kernel has a request in hand, for as long as it likes."""
        return self._sending is not None and not self._sending.done()

    @property
    def port_id(self) -> int:
        """The address that the kernel has given the socket: what notifications of our changes come with."""
        name: tuple[int, int] = self._socket.getsockname()
        return name[0]

    def ignore(self, port_id: int) -> None:
        """Let the kernel drop notifications of what this port has caused, before they fill the buffer or wake us.

        It looks at the first message of a datagram; nftables puts no two transactions into one (nft_commit_notify).
        """
        # words are loaded big-endian
        is_own = bpf.jeq(socket.htonl(port_id), jf=1)
        program = bpf.ld(_PORT_AT), is_own, bpf.ret(0), bpf.ret(0xFFFFFFFF)
        bpf.attach(self._socket, SO.ATTACH_FILTER, program)

    async def talk(
        self, messages: Sequence[bytes], *, ending: int = -1, expected: Set[int] = frozenset()
    ) -> list[Frame]:
        """Send messages of which one, the last, ends the conversation: by its acknowledgement, or by its dump's end.

        `ending`: which one, where it is not the last; those behind it are never answered. `expected`: errno values of
        refusals that are answers like others, and no failure.
        Returns the frames of a dump, and of expected refusals; a dump that is interrupted is done again. Raises
        `RefusedError` with the first other refusal of any message, `NetlinkTimeoutError`, `DumpInterruptedError`, or
        another OSError.
        """
        async with self._lock:
            for _ in range(MAX_DUMPS - 1):
                with contextlib.suppress(DumpInterruptedError):
                    return await self._converse(messages, ending, expected)
            return await self._converse(messages, ending, expected)

    async def _converse(self, messages: Sequence[bytes], ending: int, expected: Set[int]) -> list[Frame]:
        if self._sending is not None:
            # given up while the kernel was at it, it may not have ended: this one must not begin within it
            await asyncio.wait([self._sending])
        self._drop_stale()
        first = self._sequence
        self._sequence = first + len(messages) & SEQUENCE_MASK
        stream = bytearray(b"".join(messages))
        at = 0
        for number, message in enumerate(messages, first):
            SEQUENCE.pack_into(stream, at + _SEQUENCE_AT, number & SEQUENCE_MASK)
            at += len(message)
        await self._send(stream)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._collect(first, len(messages), range(len(messages))[ending], expected)
        except TimeoutError:
            raise NetlinkTimeoutError(errno.ETIMEDOUT, f"no answer within {TIMEOUT_S:g} s") from None

    async def _send(self, stream: bytearray) -> None:
        loop = asyncio.get_running_loop()
        sending: asyncio.Future[None] = loop.create_future()
        # somebody may have lost interest
        sending.add_done_callback(lambda future: future.exception())

        def told(error: OSError | None) -> None:
            sending.set_exception(error) if error else sending.set_result(None)

        def send() -> None:
            error = None
            try:
                self._socket.send(stream)
            except OSError as failure:
                error = failure
            # the loop may have ended meanwhile
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(told, error)

        beside_the_loop(send)
        self._sending = sending
        await asyncio.shield(sending)

    async def _collect(self, first: int, count: int, end: int, expected: Set[int]) -> list[Frame]:
        """`first`: the sequence number of the first of `count` messages; `end`: which one ends the conversation."""
        loop = asyncio.get_running_loop()
        found: list[Frame] = []
        refusals: list[Refusal] = []
        is_interrupted = False
        while True:
            data = await loop.sock_recv(self._socket, RECEIVE_BYTES)
            ended = False
            for frame in frames(data):
                index = frame.sequence - first & SEQUENCE_MASK
                if index >= count:
                    continue
                is_interrupted = is_interrupted or bool(frame.flags & _DUMP_INTR and frame.kind != _ERROR)
                if frame.kind not in (_ERROR, _DONE):
                    found.append(frame)
                    continue
                answer = acknowledgement(frame) if frame.kind == _ERROR else dump_end(frame)
                if answer.errno in expected:
                    found.append(frame)
                elif answer.errno:
                    refusals.append(answer)
                ended = ended or frame.kind == _DONE or index == end
            if refusals:
                raise RefusedError(refusals[0], index=refusals[0].sequence - first & SEQUENCE_MASK)
            if ended and is_interrupted:
                raise DumpInterruptedError(errno.EINTR, "what the kernel was asked for changed while it told it")
            if ended:
                return found
            # a dump is there as soon as it is asked for: without this, however many datagrams would be one iteration
            await asyncio.sleep(0)

    def _drop_stale(self) -> None:
        """Throw away what came too late for an earlier conversation."""
        while True:
            try:
                self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def watch(self, on_data: Callable[[bytes | None], None]) -> None:
        """Call with every batch of notifications; with None when some have been lost (ENOBUFS)."""

        def receive() -> None:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                on_data(None)
            else:
                on_data(data)

        asyncio.get_running_loop().add_reader(self._socket, receive)

    def close(self) -> None:
        """Listen no more. The kernel lets go of the socket beside the loop, which may take as long as a transaction."""
        asyncio.get_running_loop().remove_reader(self._socket)
        # the kernel looks whether it owned a table, and for that takes the lock of transactions (nft_rcv_nl_event)
        beside_the_loop(self._socket.close)


class RefusedError(OSError):
    """The kernel refused a message. `index`: which of those sent together; `text`: the kernel's words."""

    def __init__(self, refusal: Refusal, *, index: int) -> None:
        words = f": {refusal.text}" if refusal.text else ""
        super().__init__(refusal.errno, f"{os.strerror(refusal.errno)}{words}")
        self.index, self.text = index, refusal.text
