"""Hands everything over to a successor that asks for it at the handover socket: the part of the one who serves.

From the question on nothing is decided here any more. Until the successor has said that it serves, it may fail: then
all goes on as if nothing had been.
"""

import asyncio
import errno
import itertools
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from kpf import __version__
from kpf.master import ending
from kpf.master.conversation import ANSWER_S, Conversation, HandoverError, close_all
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.net.credentials import Peer, network_namespace, peer_of
from kpf.net.handover import (
    PROTOCOL,
    Ask,
    Complete,
    Left,
    Message,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Servers,
    Sockets,
    Taken,
)

log = logging.getLogger("kpf")

# from the last descriptor until the successor serves: its workers start, and its first sync, before which it has waited
# for its source
SERVES_S = 60.0
# starting kpfs that wait to be refused
BACKLOG = 16

SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
RETRY_S = 1.0

M = TypeVar("M", bound=Message)


class Estate(Protocol):
    """What there is to hand over, and what becomes of it meanwhile."""

    def offer(self) -> tuple[Offer, list[socket.socket | int]]:
        """What it is, and the descriptors that it names."""

    def sockets(self) -> Iterator[tuple[Sockets, Sequence[socket.socket]]]:
        """The listening sockets of all frontends."""

    def servers(self) -> Mapping[str, socket.socket]:
        """The master's own listening sockets by name."""

    async def hold(self) -> None:
        """Decide nothing any more: what is in force stays so."""

    async def go_on(self) -> None:
        """As before `hold`; the successor has failed, and may have changed what is in memory and in the kernel."""

    async def pause(self) -> None:
        """The workers accept nothing, until `go_on` or for good."""


class Handover:
    """At the handover socket. `taken` is set once a successor serves."""

    def __init__(self, listener: socket.socket, estate: Estate) -> None:
        self._listener, self._estate = listener, estate
        self.taken = asyncio.Event()
        self._successor: asyncio.Task[None] | None = None
        self._is_held = False
        self._admitted = asyncio.Event()
        self._dismissed: set[asyncio.Task[None]] = set()

    async def answer(self) -> None:
        """Answer all who ask, for ever; one at a time is a successor, others are refused.

        Raises what `Estate.go_on` does: who cannot go on must not seem to.
        """
        accepting = asyncio.create_task(self._accept())
        try:
            while True:
                successors = {self._successor} if self._successor is not None else set()
                asked = asyncio.create_task(self._admitted.wait())
                await asyncio.wait({accepting, asked, *successors}, return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
                self._admitted.clear()
                if accepting.done():
                    accepting.result()
                if self._successor is not None and self._successor.done():
                    ended, self._successor = self._successor, None
                    ended.result()
        finally:
            accepting.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                asking, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            self._admit(Conversation(asking), peer_of(asking))

    def _admit(self, conversation: Conversation, peer: Peer) -> None:
        if not peer.is_trusted(os.geteuid()):
            log.warning("pid %d of uid %d asked to take over: it is neither root nor us", peer.pid, peer.uid)
            conversation.close()
        elif self.taken.is_set() or (self._successor is not None and not self._successor.done()):
            task = asyncio.create_task(_dismiss(conversation))
            self._dismissed.add(task)
            task.add_done_callback(self._dismissed.discard)
        else:
            self._successor = asyncio.create_task(self._hand_over(conversation, peer.pid))
            self._admitted.set()

    async def _hand_over(self, conversation: Conversation, pid: int) -> None:
        try:
            version = await _asked(conversation)
            log.info("kpf %s, pid %d, takes over", version, pid)
            self._is_held = True
            await self._estate.hold()
            await self._tell(conversation)
            await self._await_taken(conversation)
        except (HandoverError, OSError) as error:
            log.error("pid %d has not taken over: %s", pid, error)
            await self._go_on()
        finally:
            conversation.close()

    async def _go_on(self) -> None:
        if self._is_held:
            self._is_held = False
            await self._estate.go_on()

    async def _tell(self, conversation: Conversation) -> None:
        offer, files = self._estate.offer()
        await conversation.say(offer, files)
        for message, sockets in self._estate.sockets():
            await conversation.say(message, sockets)
            await _expect(conversation, Received)
        for batch in _batches(self._estate.servers()):
            names, listening = zip(*batch, strict=True)
            await conversation.say(Servers(names), listening)
            await _expect(conversation, Received)
        await conversation.say(Complete())

    async def _await_taken(self, conversation: Conversation) -> None:
        message = await _expect(conversation, Pause, Taken, patience_s=SERVES_S)
        if isinstance(message, Pause):
            await self._estate.pause()
            await conversation.say(Paused())
            await _expect(conversation, Taken, patience_s=SERVES_S)
        # from here on it is the one who serves, whether or not it hears that we know
        self.taken.set()
        with suppress(HandoverError):
            await conversation.say(Left())

    async def finish(self) -> None:
        """End what is under way, as if the successor had failed."""
        if not self.taken.is_set():
            if self._successor is not None:
                await ending.cancel([self._successor])
            await self._go_on()
        self._listener.close()


async def _asked(conversation: Conversation) -> str:
    """The version of who asks. Raises `HandoverError` if it cannot take over."""
    message = await _expect(conversation, Ask)
    reason = ""
    if message.protocol != PROTOCOL:
        reason = f"this is kpf {__version__}, which speaks protocol {PROTOCOL}, not {message.protocol}"
    elif tuple(message.namespace) != network_namespace():
        reason = "this kpf serves another network namespace"
    if reason:
        await _refuse(conversation, reason)
        raise HandoverError(reason)
    return message.version


async def _dismiss(conversation: Conversation) -> None:
    # unread, it would keep the answer from being heard (unix_release_sock)
    with suppress(HandoverError):
        await _expect(conversation, Ask)
    await _refuse(conversation, "another one is taking over at this moment")


async def _refuse(conversation: Conversation, reason: str) -> None:
    with suppress(HandoverError):
        await conversation.say(Refusal(reason))
    conversation.close()


async def _expect(conversation: Conversation, *kinds: type[M], patience_s: float | None = None) -> M:
    message, descriptors = await conversation.hear(patience_s=ANSWER_S if patience_s is None else patience_s)
    close_all(descriptors)
    if not isinstance(message, kinds):
        raise HandoverError(f"it said {type(message).__name__} out of turn")
    return message


def _batches(servers: Mapping[str, socket.socket]) -> Iterator[list[tuple[str, socket.socket]]]:
    items = iter(servers.items())
    while batch := list(itertools.islice(items, MAX_DESCRIPTORS)):
        yield batch


def listen_at(path: Path) -> socket.socket:
    """A listening handover socket that only its owner may use. A stale one is replaced. Raises OSError.

    Whether somebody answers there has been looked at before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        # between bind and here nobody can connect: it does not listen yet
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, str(path)) from None
    return listener
