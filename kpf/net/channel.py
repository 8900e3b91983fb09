"""Frames between master and worker: one message of `kpf.net.messages` each, with its descriptors, over SOCK_SEQPACKET.

The socket keeps frames apart. A frame that is cut off, or whose descriptors are miscounted, is fatal: whoever reads on
would accept for the wrong frontend. Descriptors for which the receiver had no room are gone for good, whether the frame
is read or only looked at (MSG_PEEK installs them, too); all is well if the frame is sent again. Works on blocking and
non-blocking sockets alike.
"""

import contextlib
import os
import socket
from array import array
from collections.abc import Sequence

import orjson

from kpf.net.messages import Close, Configure, Done, Drain, Listen, Message, NoRoom, Ready, Reset
from kpf.uapi.internal import SCM_MAX_FD

MAX_DESCRIPTORS = SCM_MAX_FD
# well below the default send buffer of 208 KiB; a frontend takes 6 bytes at most
MAX_FRAME = 1 << 16

_TYPES = {kind.__name__: kind for kind in (Configure, Listen, Close, Reset, Drain, Ready, Done, NoRoom)}
_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)


class ChannelError(Exception):
    """What came, or was to be sent, is no message; the channel is of no use any more."""


class NoRoomError(Exception):
    """No room for the descriptors of the message of this `generation`; none of them is kept."""

    def __init__(self, generation: int) -> None:
        super().__init__(f"no room for the descriptors of message {generation}")
        self.generation = generation


def send(channel: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send a message as one frame.

    Raises `ChannelError` if it is too long or has a wrong number of descriptors, BlockingIOError (nothing was sent),
    BrokenPipeError or ConnectionResetError when the other side is gone.
    """
    frame = orjson.dumps((type(message).__name__, message))
    if len(frame) > MAX_FRAME or len(descriptors) > MAX_DESCRIPTORS or len(descriptors) != _descriptors(message):
        raise ChannelError(f"{type(message).__name__} of {len(frame)} bytes with {len(descriptors)} descriptors")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    channel.sendmsg([frame], rights, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[Message, list[int]]:
    """The next message with its descriptors, which the caller owns from now on.

    Raises EOFError when the other side is gone, BlockingIOError, `NoRoomError`, `ChannelError`; OSError for lack of
    memory, and then it is still there.
    """
    try:
        frame, ancillary, flags, _ = channel.recvmsg(MAX_FRAME, _SPACE, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        # it left without having read everything
        raise EOFError("the other side of the channel is gone") from error
    descriptors = _descriptors_in(ancillary)
    try:
        if flags & socket.MSG_TRUNC:
            raise ChannelError("a message was cut off")
        if not frame:
            raise EOFError("the other side of the channel is gone")
        message = _decode(frame)
        if flags & socket.MSG_CTRUNC and isinstance(message, Configure | Listen):
            raise NoRoomError(message.generation)
        if len(descriptors) != _descriptors(message):
            raise ChannelError(f"{type(message).__name__} came with {len(descriptors)} descriptors")
    except BaseException:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        raise
    return message, descriptors


def _descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    numbers = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return numbers.tolist()


def _decode(frame: bytes) -> Message:
    try:
        name, fields = orjson.loads(frame)
        # JSON knows no tuples
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        message: Message = _TYPES[name](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ChannelError(f"no message: {frame[:100]!r}") from error
    return message


def _descriptors(message: Message) -> int:
    """How many descriptors belong to it."""
    match message:
        case Configure():
            return 1
        case Listen(frontends=frontends):
            return len(frontends)
    return 0
