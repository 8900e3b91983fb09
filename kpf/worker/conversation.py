"""What an orphan says to a successor that has come to it: the side of the holder in `kpf.net.handover`.

It never waits: what cannot be said now is said by `settle`. A successor that says nothing in its turn, or nonsense, has
failed; so has one that has the orphan pause and does not take over.
"""

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

from kpf import __version__
from kpf.net import channel
from kpf.net.channel import MAX_DESCRIPTORS, ChannelError, Message, NoRoomError
from kpf.net.credentials import network_namespace
from kpf.net.handover import (
    PROTOCOL,
    WORKER,
    Ask,
    Complete,
    Left,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Sockets,
    Taken,
)
from kpf.net.messages import Configure, Done, Reset
from kpf.worker.acceptor import Acceptor
from kpf.worker.listening import ListeningSocket

# as with orders; and too many descriptors of this user's are on their way
NOT_NOW = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}

# of a successor whose turn it is
SILENCE_MS = 2_000
# nobody may be accepting meanwhile
PAUSE_LIMIT_MS = 10_000

Outgoing = tuple[Message, Sequence[int]]


class Estate:
    """What a worker has to hand over. `files`: descriptors by name, of the shared memory, and where it is asked for it.

    `began_ms`: when it has begun.
    """

    def __init__(self, configuration: Configure, files: Mapping[str, int], acceptor: Acceptor, began_ms: int) -> None:
        self.index, self._files = configuration.index, files
        self._configuration, self._acceptor, self._began_ms = configuration, acceptor, began_ms

    def offer(self) -> Outgoing:
        """As things are now, with its descriptors."""
        said = self._configuration
        offer = Offer(
            protocol=PROTOCOL,
            version=__version__,
            role=WORKER,
            pid=os.getpid(),
            generation=said.generation,
            workers=said.workers,
            index=said.index,
            slot=said.slot,
            accepts=not self._acceptor.is_empty,
            began_ms=self._began_ms,
            descriptors=tuple(self._files),
        )
        return offer, list(self._files.values())

    def open(self) -> list[ListeningSocket]:
        """The listening sockets that are not about to be closed."""
        return self._acceptor.staying()


class Phase(Enum):
    """What the successor is to say next: Ask, Received, Taken (or Pause), Reset."""

    ASKED = auto()
    GIVING = auto()
    OFFERED = auto()
    TAKEN = auto()


class Conversation:
    """With one successor, over a connection of which it is the owner.

    `deadline_ms`: until when the successor must have said something; None: it has its time. `is_paused`: nothing is to
    be accepted. `resets`: addresses whose clients are to be reset, taken away by who does it.
    """

    def __init__(self, connection: socket.socket, estate: Estate, now_ms: int) -> None:
        self._connection, self._estate = connection, estate
        self.descriptor = connection.fileno()
        self.deadline_ms: int | None = now_ms + SILENCE_MS
        self.is_paused = False
        self.resets: list[tuple[str, ...]] = []
        self._phase = Phase.ASKED
        self._left: list[ListeningSocket] = []
        self._has_left = False
        self._due: deque[Callable[[], Outgoing]] = deque()

    @property
    def has_taken(self) -> bool:
        """The successor serves, and is the new master."""
        return self._phase is Phase.TAKEN

    @property
    def is_unsettled(self) -> bool:
        """True while there is something that could not be said."""
        return bool(self._due)

    def receive(self, now_ms: int) -> None:
        """Hear the successor, and answer it. Raises EOFError when the conversation is over, whosever fault it is."""
        try:
            message, descriptors = channel.receive(self._connection)
        except (ChannelError, NoRoomError, OSError) as error:
            if isinstance(error, OSError) and error.errno in NOT_NOW:
                return
            raise EOFError("the successor cannot be understood") from error
        for descriptor in descriptors:
            os.close(descriptor)
        self._obey(message, now_ms)
        self.settle()

    def _obey(self, message: Message, now_ms: int) -> None:
        match (self._phase, message):
            case (Phase.ASKED, Ask()):
                self._refuse(message)
                self._phase, self._left = Phase.GIVING, self._estate.open()
                self._due.append(self._estate.offer)
                self._give(now_ms)
            case (Phase.GIVING, Received()):
                del self._left[:MAX_DESCRIPTORS]
                self._give(now_ms)
            case (Phase.OFFERED, Pause()):
                self.is_paused, self.deadline_ms = True, now_ms + PAUSE_LIMIT_MS
                self._say(Paused())
            case (Phase.OFFERED, Taken()):
                self._phase, self.deadline_ms = Phase.TAKEN, None
            case (Phase.TAKEN, Reset(number, addresses)):
                self.resets.append(addresses)
                self._say(Done(number))
            case _:
                raise EOFError(f"the successor said {type(message).__name__} out of turn")

    def _refuse(self, message: Ask) -> None:
        """Raises EOFError if it has to be refused."""
        reason = ""
        if message.protocol != PROTOCOL:
            reason = f"this worker of kpf {__version__} speaks protocol {PROTOCOL}, not {message.protocol}"
        else:
            try:
                if message.namespace != network_namespace():
                    reason = "another network namespace is served here"
            except OSError as error:
                reason = f"no worker can tell which network namespace it serves: {error}"
        if reason:
            self._say(Refusal(reason))
            self.settle()
            raise EOFError(reason)

    def _give(self, now_ms: int) -> None:
        if self._left:
            self.deadline_ms = now_ms + SILENCE_MS
            self._due.append(self._sockets)
        else:
            self._phase, self.deadline_ms = Phase.OFFERED, None
            self._say(Complete())

    def _sockets(self) -> Outgoing:
        # by now the number of one that has been closed may be another's
        still_open = set(self._estate.open())
        batch = [listener for listener in self._left[:MAX_DESCRIPTORS] if listener in still_open]
        frontends = tuple(listener.frontend for listener in batch)
        return Sockets(self._estate.index, frontends), [listener.descriptor for listener in batch]

    def leave(self) -> None:
        """Nothing is accepted any more: tell the successor, if that has not been said. Raises EOFError."""
        if self.has_taken and not self._has_left:
            self._has_left = True
            self._say(Left())
            self.settle()

    def _say(self, message: Message) -> None:
        self._due.append(lambda: (message, ()))

    def settle(self) -> None:
        """Say what is due, as far as it can be said now. Raises EOFError when the successor is gone."""
        while self._due:
            try:
                channel.send(self._connection, *self._due[0]())
            except OSError as error:
                if error.errno in NOT_NOW:
                    return
                raise EOFError("the successor is gone") from error
            self._due.popleft()

    def close(self) -> None:
        """It is over."""
        self._connection.close()
