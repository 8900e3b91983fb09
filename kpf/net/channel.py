"""Frames over SOCK_SEQPACKET: one message each of `kpf.net.messages` or `kpf.net.handover`, with its descriptors.

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
from types import GenericAlias
from typing import get_args, get_type_hints

import orjson

from kpf.net import handover, messages
from kpf.net.handover import PROTOCOL, Ask, Offer, Servers, Sockets
from kpf.net.messages import Configure, Listen
from kpf.uapi.internal import SCM_MAX_FD

MAX_DESCRIPTORS = SCM_MAX_FD
# well below the default send buffer of 208 KiB; a frontend takes 6 bytes at most
MAX_FRAME = 1 << 16

Message = messages.Message | handover.Message

# by name: the class, and what its fields hold
_TYPES = {kind.__name__: (kind, get_type_hints(kind)) for kind in get_args(Message)}
# the two that versions of kpf tell each other apart by
_EXTENSIBLE = (Ask, Offer)
_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)


class ChannelError(Exception):
    """What came, or was to be sent, is no message; the channel is of no use any more."""


class NoRoomError(Exception):
    """No room for the descriptors of the message of this `number`, 0 if it has none; none of them is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(f"no room for the descriptors of message {number}")
        self.number = number


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
        if flags & socket.MSG_CTRUNC and _descriptors(message):
            raise NoRoomError(message.number if isinstance(message, Configure | Listen) else 0)
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
        name, given = orjson.loads(frame)
        kind, hints = _TYPES[name]
        if kind in _EXTENSIBLE:
            given = {key: value for key, value in given.items() if key in hints}
        if kind is Ask and given["protocol"] != PROTOCOL:
            given = {"protocol": given["protocol"]}
        message: Message = kind(**{key: _value(value, hints[key]) for key, value in given.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ChannelError(f"no message: {frame[:100]!r}") from error
    return message


def _value(value: object, hint: object) -> object:
    """As a field of this type holds it. Raises TypeError."""
    # JSON knows no tuples
    if isinstance(hint, GenericAlias) and isinstance(value, list):
        (kind, _) = get_args(hint)
        if set(map(type, value)) <= {kind}:
            return tuple(value)
    elif type(value) is hint or (hint is float and type(value) is int):
        return value
    raise TypeError(f"{value!r:.50} is no {hint}")


def _descriptors(message: Message) -> int:
    """How many descriptors belong to it."""
    match message:
        case Configure(descriptors=names) | Offer(descriptors=names) | Servers(names=names):
            return len(names)
        case Listen(frontends=frontends) | Sockets(frontends=frontends):
            return len(frontends)
    return 0
