"""One end of a conversation over the handover socket (`kpf.net.handover`), on the event loop."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from kpf.net import channel
from kpf.net.channel import Message

# of memory, or of descriptors that may be on their way at once (unix(7)): it passes
SHORTAGES = {errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}
RETRY_S = 0.05
# that an answer takes, but for the last one
ANSWER_S = 5.0


class HandoverError(RuntimeError):
    """The other side does not say what the protocol has it say, or not in time; the text says which."""


class Conversation:
    """Owns the socket. Both sides take turns, but for the holder's last words."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    async def say(self, message: Message, files: Sequence[socket.socket | int] = ()) -> None:
        """Send it, however short the kernel is of memory at the moment. Raises `HandoverError` if nobody is there.

        `files`: descriptors that go with it; they stay ours, too.
        """
        numbers = [one if isinstance(one, int) else one.fileno() for one in files]
        while True:
            try:
                channel.send(self._socket, message, numbers)
            except BlockingIOError:
                await _until(self._loop.add_writer, self._loop.remove_writer, self._socket)
            except (channel.ChannelError, OSError) as error:
                if isinstance(error, OSError) and error.errno in SHORTAGES:
                    await asyncio.sleep(RETRY_S)
                    continue
                raise HandoverError(f"{type(message).__name__} cannot be said: {error}") from error
            else:
                return

    def say_if_possible(self, message: Message) -> None:
        """At once, or never: what nobody waits for."""
        with suppress(OSError, channel.ChannelError):
            channel.send(self._socket, message)

    async def hear(self, *, patience_s: float) -> tuple[Message, list[int]]:
        """The next message, with its descriptors, which are the caller's. Raises `HandoverError`."""
        try:
            async with asyncio.timeout(patience_s):
                return await self._hear()
        except TimeoutError:
            raise HandoverError(f"nothing was heard for {patience_s:g} s") from None

    async def _hear(self) -> tuple[Message, list[int]]:
        while True:
            try:
                return channel.receive(self._socket)
            except BlockingIOError:
                await _until(self._loop.add_reader, self._loop.remove_reader, self._socket)
            except EOFError:
                raise HandoverError("it has left") from None
            except (channel.ChannelError, channel.NoRoomError, OSError) as error:
                raise HandoverError(f"{error}") from error

    async def ended(self) -> None:
        """Return once the other side is gone; what it says until then is of no interest."""
        while True:
            try:
                _, descriptors = await self._hear()
            except HandoverError:
                return
            close_all(descriptors)

    def close(self) -> None:
        """For the other side that is an EOF."""
        self._socket.close()


def close_all(descriptors: Sequence[int]) -> None:
    """Those that came with a message that nobody wants."""
    for one in descriptors:
        os.close(one)


async def _until(add: Callable[..., None], remove: Callable[..., bool], sock: socket.socket) -> None:
    ready = asyncio.Event()
    add(sock, ready.set)
    try:
        await ready.wait()
    finally:
        remove(sock)
