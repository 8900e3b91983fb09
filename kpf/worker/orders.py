"""The worker's end of the channel: what the master says, and the answers, which a shortage only delays."""

import errno
import socket
from collections import deque

from kpf.net import channel
from kpf.net.channel import Message
from kpf.net.credentials import peer_of
from kpf.net.messages import Close, Configure, Done, Drain, Hold, Listen, NoRoom, Ready, Reset, Told

# the master has no time to read, or memory is short. All else means that it is gone, and the channel says so by itself
NOT_NOW = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}

Order = Configure | Listen | Close | Reset | Hold | Drain


class Orders:
    """`descriptor`: of the channel. `master_uid`: who the master is. `lacks_listeners`: it had to refuse some."""

    def __init__(self, master: socket.socket) -> None:
        master.setblocking(False)
        self._master = master
        self.descriptor = master.fileno()
        self.master_uid = peer_of(master).uid
        self.lacks_listeners = False
        self._answers: deque[Message] = deque()

    @property
    def is_unsettled(self) -> bool:
        """True while there are answers that could not be given."""
        return bool(self._answers)

    def next(self) -> tuple[Message, list[int]] | None:
        """The next order with its descriptors; None if there is none, or none that there is room for: `settle` says so.

        Raises EOFError when the master is gone, `ChannelError`.
        """
        try:
            message, descriptors = channel.receive(self._master)
        except channel.NoRoomError as error:
            self.lacks_listeners = True
            self._answers.append(NoRoom(error.number))
            return None
        except OSError as error:
            if error.errno not in NOT_NOW:
                raise EOFError("the channel is of no use any more") from error
            return None
        self.lacks_listeners = self.lacks_listeners and not isinstance(message, Listen)
        return message, descriptors

    def ready(self, privileges: str, pid: int, uid: int) -> None:
        """The first answer: who we are, and what `privileges.drop` has returned."""
        self._answers.append(Ready(pid, uid, privileges))
        self.settle()

    def answer(self, order: Order) -> None:
        """The order is carried out. If that cannot be said now, it is said by `settle`."""
        self._answers.append(Done(order.number))
        self.settle()

    def tell(self, told: Told) -> None:
        """The answer to `Tell`."""
        self._answers.append(told)
        self.settle()

    def settle(self) -> None:
        """Give the answers there are, in their order, as far as they can be given now."""
        while self._answers:
            try:
                channel.send(self._master, self._answers[0])
            except OSError as error:
                if error.errno in NOT_NOW:
                    return
            self._answers.popleft()

    def close(self) -> None:
        """The master is gone: what it was still to be told is forgotten."""
        self._answers.clear()
        self._master.close()
