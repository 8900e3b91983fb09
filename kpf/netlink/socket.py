"""A netlink socket on the running event loop.

The waiting is ours rather than a library's, because it must end: every wait has a time-out, what overflows is an error
that has a name, and a transaction that fails is one failure.
"""

import asyncio
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

# include/uapi/linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 1, 10, 11
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_ATTACH_FILTER = 32, 33, 26
NLMSGERR_ATTR_MSG = 1

# without CAP_NET_ADMIN in the initial user namespace, net.core.{w,r}mem_max are the limits
NOT_ALLOWED = {errno.EPERM}

HEADER, SEQUENCE = struct.Struct("=IHHII"), struct.Struct("=I")
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 10.0
LARGE_BYTES = 1 << 18


# struct sock_filter and the opcodes used (include/uapi/linux/filter.h, bpf_common.h); words are loaded big-endian
_INSTRUCTION = struct.Struct("@HBBI")
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_PORT_AT = 12  # nlmsg_pid in struct nlmsghdr


class NetlinkTimeoutError(TimeoutError):
    """The kernel did not answer in time."""


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
    view, at = memoryview(data), 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield Frame(kind, flags, sequence, port, view[at + HEADER.size : at + length])
        at += length + 3 & ~3


def acknowledgement(frame: Frame) -> Refusal:
    """What an NLMSG_ERROR frame says; errno 0 is success."""
    code = -struct.unpack_from("=i", frame.payload)[0]
    text = ""
    if frame.flags & NLM_F_ACK_TLVS:
        at = 4 + HEADER.size
        if not frame.flags & NLM_F_CAPPED:
            at = 4 + struct.unpack_from("=I", frame.payload, 4)[0]
        while at + 4 <= len(frame.payload):
            length, kind = struct.unpack_from("=HH", frame.payload, at)
            if kind & 0x3FFF == NLMSGERR_ATTR_MSG:
                text = bytes(frame.payload[at + 4 : at + length]).rstrip(b"\0").decode(errors="replace")
            at += max(length, 4) + 3 & ~3
    return Refusal(frame.sequence, code, text)


class NetlinkSocket:
    """Requests one at a time, or notifications. Make and use it inside the event loop."""

    def __init__(self, protocol: int, *, groups: tuple[int, ...] = (), buffer_bytes: int = 0) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        if buffer_bytes:
            self._set_buffer(SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer_bytes)
            self._set_buffer(SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes)
        # answer with the header of the request only, and with the kernel's words
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._sequence = 1
        self._lock = asyncio.Lock()

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
    def port_id(self) -> int:
        name: tuple[int, int] = self._socket.getsockname()
        return name[0]

    def ignore(self, port_id: int) -> None:
        """Let the kernel drop notifications of what this port has caused, before they fill the buffer or wake us.

        It looks at the first message of a datagram; nftables puts no two transactions into one (nft_commit_notify).
        """
        program = b"".join(
            _INSTRUCTION.pack(*instruction)
            for instruction in (
                (_LOAD_WORD, 0, 0, _PORT_AT),
                (_JUMP_EQUAL, 0, 1, socket.htonl(port_id)),
                (_RETURN, 0, 0, 0),
                (_RETURN, 0, 0, 0xFFFFFFFF),
            )
        )
        buffer = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: the number of instructions, and where they are
        fprog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)

    async def talk(
        self, messages: Sequence[bytes], *, ending: int = -1, expected: Set[int] = frozenset()
    ) -> list[Frame]:
        """Send messages of which one, the last, ends the conversation: by its acknowledgement, or by its dump's end.

        `ending`: which one, where it is not the last; those behind it are never answered. `expected`: errno values of
        refusals that are answers like others, and no failure.
        Returns the frames of a dump, and of expected refusals. Raises `RefusedError` with the first other refusal of
        any message, `NetlinkTimeoutError`, or another OSError.
        """
        async with self._lock:
            self._drop_stale()
            first = self._sequence
            self._sequence += len(messages)
            stream = bytearray(b"".join(messages))
            at = 0
            for number, message in enumerate(messages, first):
                SEQUENCE.pack_into(stream, at + 8, number & 0xFFFFFFFF)
                at += len(message)
            await self._send(stream)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    sequences = range(first, self._sequence)
                    return await self._collect(sequences, sequences[ending], expected)
            except TimeoutError:
                raise NetlinkTimeoutError(errno.ETIMEDOUT, f"no answer within {TIMEOUT_S:g} s") from None

    async def _send(self, stream: bytearray) -> None:
        if len(stream) < LARGE_BYTES:
            self._socket.send(stream)
            return
        # the kernel carries a transaction out while it takes it, and a large one may take seconds
        sending = asyncio.create_task(asyncio.to_thread(self._socket.send, stream))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            # or the next conversation would begin within this one
            await asyncio.wait([sending])
            raise

    async def _collect(self, sequences: range, end: int, expected: Set[int]) -> list[Frame]:
        loop = asyncio.get_running_loop()
        found: list[Frame] = []
        refusals: list[Refusal] = []
        while True:
            data = await loop.sock_recv(self._socket, RECEIVE_BYTES)
            ended = False
            for frame in frames(data):
                if frame.sequence not in sequences:
                    continue
                if frame.kind == NLMSG_ERROR:
                    answer = acknowledgement(frame)
                    if answer.errno in expected:
                        found.append(frame)
                    elif answer.errno:
                        refusals.append(answer)
                    ended = ended or frame.sequence == end
                elif frame.kind == NLMSG_DONE:
                    ended = True
                else:
                    found.append(frame)
            if refusals:
                first = refusals[0]
                raise RefusedError(first, index=first.sequence - sequences[0])
            if ended:
                return found
            # a dump is there as soon as it is asked for: without this, however many datagrams would be one turn
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
        """Call with every batch of notifications; with None when some have been lost."""

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
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


class RefusedError(OSError):
    """The kernel refused a message. `index`: which of those sent together; `text`: the kernel's words."""

    def __init__(self, refusal: Refusal, *, index: int) -> None:
        words = f": {refusal.text}" if refusal.text else ""
        super().__init__(refusal.errno, f"{os.strerror(refusal.errno)}{words}")
        self.index, self.text = index, refusal.text
