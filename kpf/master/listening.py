"""The listening sockets: one SO_REUSEPORT socket per (listener, worker slot), kept here for as long as they are open.

That the master keeps them is what lets a dead worker's queue survive for its successor. The sockets of one listener
begin to listen in slot order, which is the order that steering counts in.
"""

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpf.net import sockets
from kpf.plan.allocation import Listener

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class ListeningGroup:
    """`frontend_slot` is the frontend's place in shared memory; `sockets` are in worker-slot order."""

    frontend_slot: int
    sockets: tuple[socket.socket, ...]


class ListeningSockets:
    """All open listeners of the node. `workers` sockets each."""

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
        address, port = listener.at
        try:
            for _ in range(self._workers):
                one = sockets.listening_socket(str(address), port, backlog=BACKLOG, address_may_go=address_may_go)
                made.append(one)
            if self._is_steering:
                sockets.steer(made[0], sorted(self._healthy))
        except OSError:
            for one in made:
                one.close()
            raise
        self._open[listener] = ListeningGroup(frontend_slot, tuple(made))

    def close(self, listener: Listener) -> int:
        """Close its sockets and return the slot of its frontend."""
        self._announced.discard(listener)
        gone = self._open.pop(listener)
        for one in gone.sockets:
            one.close()
        return gone.frontend_slot

    def steer(self, healthy: frozenset[int]) -> bool:
        """Send new connections to the sockets of these worker slots only. False if there is no listener yet.

        Raises OSError; then some listeners may be steered, and others not.
        """
        self._healthy = healthy
        for group in self._open.values():
            if self._is_steering:
                sockets.steer(group.sockets[0], sorted(healthy))
            else:
                sockets.stop_steering(group.sockets[0])
        return bool(self._open)

    def announce(self, listeners: Iterable[Listener]) -> list[ListeningGroup]:
        """From now on a newborn worker is told of these."""
        self._announced.update(listeners)
        return [self._open[listener] for listener in listeners]

    def withdraw(self, listeners: Iterable[Listener]) -> list[int]:
        """From now on a newborn worker is not told of these. Returns their frontends' slots."""
        self._announced.difference_update(listeners)
        return [self._open[listener].frontend_slot for listener in listeners]

    def of_worker(self, worker: int) -> Iterator[tuple[int, socket.socket]]:
        """(frontend slot, socket) of everything announced that the worker in this slot accepts on."""
        for listener in self._announced:
            group = self._open[listener]
            yield group.frontend_slot, group.sockets[worker]

    @property
    def _is_steering(self) -> bool:
        return len(self._healthy) < self._workers


def is_free(listener: Listener) -> bool:
    """True if nobody listens there or has joined a group there; or if only `ListeningSockets.open` can tell."""
    try:
        return sockets.port_is_free(str(listener.at.address), listener.at.port)
    except OSError:
        return True
