"""Takes over from whoever serves: a living master, or what a dead one has left, its workers.

Nothing that is heard is believed before it has been looked at: descriptors must be what they are said to be.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kpf import __version__
from kpf.master.conversation import ANSWER_S, Conversation, HandoverError, close_all
from kpf.net.credentials import network_namespace, peer_of
from kpf.net.handover import (
    HANDOVER,
    LOCK,
    MASTER,
    MEMORY,
    PROTOCOL,
    Ask,
    Complete,
    Left,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Servers,
    Sockets,
    Taken,
)
from kpf.shm.layout import WORKER_SLOTS

log = logging.getLogger("kpf")

# nobody listens there (any more)
NOBODY = {errno.ENOENT, errno.ECONNREFUSED}
# a master answers once its sync under way has ended, and what it closes at the moment is closed
MASTER_S = 30.0
# a worker that a master has left answers at once; how many there are, nobody knows
FIRST_WORKER_S, NEXT_WORKER_S = 1.0, 0.3


class RefusedError(HandoverError):
    """The other side has understood, and does not hand over to us."""


@dataclass(slots=True)
class Holder:
    """One who has handed over, and the conversation with it, which goes on."""

    conversation: Conversation
    offer: Offer


@dataclass(slots=True)
class Inheritance:
    """What a successor has got, all of it its own now.

    `memory`: of shared memory, a descriptor. `groups`: listening sockets by frontend slot and place. `generation`: the
    newest of those that have worked there, of so many `workers`. `lock`, `handover`: the sockets that a master holds.
    `servers`: a master's own, by name.
    """

    memory: int = -1
    groups: dict[int, dict[int, socket.socket]] = field(default_factory=dict)
    generation: int = 0
    workers: int = 0
    lock: socket.socket | None = None
    handover: socket.socket | None = None
    servers: dict[str, socket.socket] = field(default_factory=dict)
    holders: list[Holder] = field(default_factory=list)

    def begin(self, holder: Holder, files: dict[str, int]) -> None:
        """Of one holder: who it is, and what has come with its offer."""
        self.holders = [holder]
        self.generation, self.workers = holder.offer.generation, holder.offer.workers
        self.memory = files.pop(MEMORY)
        for name, number in files.items():
            if name in (LOCK, HANDOVER):
                setattr(self, name, socket.socket(fileno=number))
            else:
                os.close(number)

    def add(self, other: "Inheritance") -> None:
        """Another holder's share. One that has another memory is of another time, and leaves by itself."""
        if os.fstat(self.memory).st_ino != os.fstat(other.memory).st_ino:
            other.close()
            return
        os.close(other.memory)
        for slot, group in other.groups.items():
            self.groups.setdefault(slot, {}).update(group)
        self.holders += other.holders
        if other.generation > self.generation:
            self.generation, self.workers = other.generation, other.workers
        if self.handover is None:
            self.handover = other.handover
        elif other.handover is not None:
            other.handover.close()

    @property
    def is_from_master(self) -> bool:
        """One that lives, and is the only holder."""
        return any(holder.offer.role == MASTER for holder in self.holders)

    def places(self) -> Iterator[tuple[int, list[socket.socket | None]]]:
        """(frontend slot, sockets in place order); None where the worker of that place has died or not answered."""
        for slot, group in self.groups.items():
            places = [group.pop(index, None) for index in range(self.workers)]
            # of a generation that had more workers
            for one in group.values():
                one.close()
            if any(places):
                yield slot, places

    async def pause(self) -> None:
        """The holders accept nothing until `taken`. Raises `HandoverError`."""
        for holder in self.holders:
            await holder.conversation.say(Pause())
        for holder in self.holders:
            await _expect(holder.conversation, Paused)

    async def taken(self) -> None:
        """The holders are told that we serve; those who are gone meanwhile need not know.

        Raises `HandoverError` if a master is gone: it may have gone on.
        """
        for holder in self.holders:
            try:
                await holder.conversation.say(Taken())
                await _expect(holder.conversation, Left, patience_s=MASTER_S if self.is_from_master else ANSWER_S)
            except HandoverError as error:
                if holder.offer.role == MASTER:
                    raise
                log.warning("worker pid %d of the kpf before has not said that it leaves: %s", holder.offer.pid, error)

    def close(self) -> None:
        """Give everything back, as if nothing had been."""
        for holder in self.holders:
            holder.conversation.close()
        sockets = [one for group in self.groups.values() for one in group.values()]
        for one in (*sockets, *self.servers.values(), self.lock, self.handover):
            if one is not None:
                one.close()
        if self.memory >= 0:
            os.close(self.memory)


async def from_master(path: Path) -> Inheritance | None:
    """All that the living master has; None if nobody answers at that path. Raises `HandoverError`, OSError."""
    return await _take_over(path, patience_s=MASTER_S)


async def from_workers(path: Path) -> Inheritance | None:
    """All that a master which is gone has left with its workers; None if none is left. Raises `HandoverError`, OSError.

    Each has a share. Those that do not answer keep theirs.
    """
    found = await _take_over(path, patience_s=FIRST_WORKER_S)
    more = found
    while found is not None and more is not None:
        try:
            more = await _take_over(path, patience_s=NEXT_WORKER_S)
        except HandoverError:
            break
        if more is not None:
            found.add(more)
    return found


async def _take_over(path: Path, *, patience_s: float) -> Inheritance | None:
    conversation = await _ask(path)
    if conversation is None:
        return None
    found = Inheritance()
    try:
        offer, files = await _hear_offer(conversation, patience_s)
        found.begin(Holder(conversation, offer), files)
        while not isinstance(await _receive(found, conversation), Complete):
            await conversation.say(Received())
    except BaseException:
        found.close()
        conversation.close()
        raise
    return found


async def _ask(path: Path) -> Conversation | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        if error.errno in NOBODY:
            return None
        raise OSError(error.errno, error.strerror, str(path)) from None
    conversation = Conversation(sock)
    if not (peer := peer_of(sock)).is_trusted(os.geteuid()):
        conversation.close()
        raise HandoverError(f"{path} belongs to pid {peer.pid} of uid {peer.uid}, neither root nor us")
    await conversation.say(Ask(PROTOCOL, __version__, network_namespace()))
    return conversation


async def _hear_offer(conversation: Conversation, patience_s: float) -> tuple[Offer, dict[str, int]]:
    """With its descriptors by name. Raises `HandoverError` if it is none that we can take."""
    message, descriptors = await conversation.hear(patience_s=patience_s)
    try:
        if isinstance(message, Refusal):
            raise RefusedError(f"it refuses: {message.reason}")
        if not isinstance(message, Offer) or message.protocol != PROTOCOL:
            raise HandoverError(f"it said {type(message).__name__} instead of an offer")
        if MEMORY not in message.descriptors or not 0 < message.workers <= WORKER_SLOTS:
            raise HandoverError(f"its offer makes no sense: {message}")
    except HandoverError:
        close_all(descriptors)
        raise
    return message, dict(zip(message.descriptors, descriptors, strict=True))


async def _receive(found: Inheritance, conversation: Conversation) -> Sockets | Servers | Complete:
    message, descriptors = await conversation.hear(patience_s=ANSWER_S)
    if not isinstance(message, Sockets | Servers | Complete):
        close_all(descriptors)
        raise HandoverError(f"it said {type(message).__name__} out of turn")
    sockets = [socket.socket(fileno=one) for one in descriptors]
    if not all(map(_listens, sockets)):
        for one in sockets:
            one.close()
        raise HandoverError(f"{type(message).__name__} came with a socket that does not listen")
    match message:
        case Sockets(index, frontends):
            for slot, one in zip(frontends, sockets, strict=True):
                found.groups.setdefault(slot, {})[index] = one
        case Servers(names):
            found.servers.update(zip(names, sockets, strict=True))
    return message


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


async def _expect(conversation: Conversation, kind: type[Paused | Left], *, patience_s: float = ANSWER_S) -> None:
    message, descriptors = await conversation.hear(patience_s=patience_s)
    close_all(descriptors)
    if not isinstance(message, kind):
        raise HandoverError(f"it said {type(message).__name__} instead of {kind.__name__}")
