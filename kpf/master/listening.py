"""The listening sockets: one SO_REUSEPORT socket per (listener, worker), kept here for as long as they are open.

That the master keeps them is what lets a dead worker's queue survive for its successor. The sockets of one listener
begin to listen in the order of the workers' indexes, which is the order that steering counts in; where one is closed
that is not the last, the last one takes its place (`reuseport_detach_sock`, net/core/sock_reuseport.c).
"""

import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kpf.net import sockets
from kpf.net.channel import MAX_DESCRIPTORS
from kpf.plan.allocation import Listener

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class ListeningGroup:
    """`frontend_slot` is the frontend's place in shared memory; `sockets` are in the order of the workers' indexes."""

    frontend_slot: int
    sockets: tuple[socket.socket, ...]


class ListeningSockets:
    """All open listeners of the node. `workers` sockets each, and for a while others as well: `resize`."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._open: dict[Listener, ListeningGroup] = {}
        self._announced: set[Listener] = set()
        self._healthy = frozenset(range(workers))

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._open

    def __getitem__(self, listener: Listener) -> ListeningGroup:
        return self._open[listener]

    def open(self, listener: Listener, frontend_slot: int, *, address_may_go: bool = False) -> None:
        """Make it listen. Raises OSError (EADDRINUSE, EMFILE, ...), and then has opened nothing.

        `address_may_go`: as `sockets.listening_socket` has it.
        """
        made: list[socket.socket] = []
        try:
            self._join(listener, made, self._workers, address_may_go=address_may_go)
            if len(self._healthy) < self._workers:
                self._steer(made)
        except OSError:
            _close(made)
            raise
        self._open[listener] = ListeningGroup(frontend_slot, tuple(made))

    def adopt(self, listener: Listener, frontend_slot: int, places: Sequence[socket.socket | None]) -> None:
        """Go on with what a predecessor has opened: one socket a worker, in their order. A newborn is told of it.

        None: that worker has died after its master, and another socket of the group has taken its place for the kernel.
        A new one joins at the end: everybody has a socket again, but until all are closed, steering around one of them
        may hit another. Raises OSError, and then has closed all of them. How the predecessor has steered is in force
        until `steer` is called.
        """
        adopted, joined = [one for one in places if one], list[socket.socket]()
        try:
            may_go = bool(adopted) and sockets.address_may_go(adopted[0])
            self._join(listener, joined, len(places) - len(adopted), address_may_go=may_go)
        except OSError:
            _close([*adopted, *joined])
            raise
        fresh = iter(joined)
        self._open[listener] = ListeningGroup(frontend_slot, tuple(one or next(fresh) for one in places))
        self._announced.add(listener)

    def resize(self, workers: int) -> None:
        """From now on a group has so many sockets: those that all of it is steered to when all are healthy.

        More: the new ones listen, and get connections once `steer` is told of them, when somebody accepts there. Raises
        OSError, and then nothing has changed, but that all may be steered to those there were before.

        Fewer: new connections are steered away from the last ones, which stay open for those who accept on them, as
        handshakes go on that began there. `forget_surplus` closes them once these are over. Raises OSError as `steer`.
        """
        if workers <= self._workers:
            self._workers = workers
            self.steer(self._healthy)
            return
        before = {listener: len(group.sockets) for listener, group in self._open.items()}
        try:
            for listener, group in self._open.items():
                # else the kernel would hand connections to the new ones at once
                sockets.steer(group.sockets[0], sorted(self._healthy))
                grown = list(group.sockets)
                try:
                    self._join(listener, grown, workers, address_may_go=sockets.address_may_go(grown[0]))
                finally:
                    self._open[listener] = ListeningGroup(group.frontend_slot, tuple(grown))
        except OSError:
            for listener, number in before.items():
                self._cut(listener, number)
            raise
        self._workers = workers

    def forget_surplus(self) -> None:
        """Close the sockets beyond the size that `resize` has set. Raises OSError as `steer` does.

        For when nothing has been accepted on them for a while (`Workers.accepted`) and those who accept there have
        left: whoever is still queued is reset.
        """
        for listener in self._open:
            self._cut(listener, self._workers)
        self.steer(self._healthy)

    def _cut(self, listener: Listener, number: int) -> None:
        group = self._open[listener]
        # for the kernel, too, the last ones: none of the others changes its place
        _close(group.sockets[number:])
        self._open[listener] = ListeningGroup(group.frontend_slot, group.sockets[:number])

    def _join(self, listener: Listener, made: list[socket.socket], number: int, *, address_may_go: bool) -> None:
        """Add to `made` until there are so many. Raises OSError."""
        address, port = listener.at
        while len(made) < number:
            one = sockets.listening_socket(str(address), port, backlog=BACKLOG, address_may_go=address_may_go)
            made.append(one)

    def close(self, listener: Listener) -> int:
        """Close its sockets and return the slot of its frontend."""
        self._announced.discard(listener)
        gone = self._open.pop(listener)
        _close(gone.sockets)
        return gone.frontend_slot

    def steer(self, healthy: frozenset[int]) -> bool:
        """Send new connections to the sockets of these workers only. False if there is no listener yet.

        Those of workers beyond the size of the groups do not count; if there are no others, to all within it. Raises
        OSError; then some listeners may be steered, and others not.
        """
        within = frozenset(range(self._workers))
        self._healthy = healthy & within or within
        for group in self._open.values():
            self._steer(group.sockets)
        return bool(self._open)

    def _steer(self, group: Sequence[socket.socket]) -> None:
        """Raises OSError."""
        if len(self._healthy) < len(group):
            sockets.steer(group[0], sorted(self._healthy))
        else:
            sockets.stop_steering(group[0])

    def announce(self, listeners: Iterable[Listener]) -> list[ListeningGroup]:
        """From now on a newborn worker is told of these."""
        self._announced.update(listeners)
        return [self._open[listener] for listener in listeners]

    def withdraw(self, listeners: Iterable[Listener]) -> list[int]:
        """From now on a newborn worker is not told of these. Returns their frontends' slots."""
        self._announced.difference_update(listeners)
        return [self._open[listener].frontend_slot for listener in listeners]

    def of_worker(self, index: int) -> Iterator["Batch"]:
        """Everything announced that the worker of this index accepts on."""
        return batches_of(index, [self._open[listener] for listener in self._announced])

    def all_open(self) -> list[Listener]:
        """Those that are being closed included."""
        return list(self._open)

    def all_sockets(self) -> list[tuple[int, socket.socket]]:
        """Each with its place in its group, which is the index of the worker that accepts there."""
        return [(index, one) for group in self._open.values() for index, one in enumerate(group.sockets)]

    def sockets_of(self, index: int) -> Iterator["Batch"]:
        """All sockets at this place of their groups, for a successor."""
        return batches_of(index, list(self._open.values()))


Batch = tuple[tuple[int, ...], tuple[socket.socket, ...]]


def batches_of(index: int, groups: Iterable[ListeningGroup]) -> Iterator[Batch]:
    """The frontends' slots, and the sockets at this place of their groups, `MAX_DESCRIPTORS` at a time."""
    # one that was opened after a `resize` to fewer has none for those who are to leave
    mine = ((group.frontend_slot, group.sockets[index]) for group in groups if index < len(group.sockets))
    while batch := list(itertools.islice(mine, MAX_DESCRIPTORS)):
        frontends, listening = zip(*batch, strict=True)
        yield frontends, listening


def _close(listening: Iterable[socket.socket]) -> None:
    for one in listening:
        one.close()


def is_free(listener: Listener) -> bool:
    """True if nobody listens there or has joined a group there; or if only `ListeningSockets.open` can tell."""
    try:
        return sockets.port_is_free(str(listener.at.address), listener.at.port)
    except OSError:
        return True
