"""What this master hands over to a successor, and how it comes back if that one fails: `kpf.master.handover.Estate`."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpf import __version__
from kpf.master.effects import Effects
from kpf.master.generations import Generations
from kpf.master.listening import ListeningSockets
from kpf.master.lock import DaemonLock
from kpf.master.reconcile import Reconciler
from kpf.net.handover import HANDOVER, LOCK, MASTER, MEMORY, PROTOCOL, Offer, Sockets
from kpf.observe.http import ServerSockets
from kpf.shm.directory import Directory
from kpf.shm.region import monotonic_ms


@dataclass(slots=True)
class MasterEstate:
    """`listener`: the handover socket. `is_held`: a successor is at work, and the table is its own."""

    directory: Directory
    listeners: ListeningSockets
    workers: Generations
    effects: Effects
    reconciler: Reconciler
    server_sockets: ServerSockets
    lock: DaemonLock
    listener: socket.socket
    is_held: bool = False

    def offer(self) -> tuple[Offer, list[socket.socket | int]]:
        """What it is, and the descriptors that it names."""
        files: dict[str, socket.socket | int] = {MEMORY: self.directory.descriptor, HANDOVER: self.listener}
        if self.lock.held is not None:
            files[LOCK] = self.lock.held
        offer = Offer(
            protocol=PROTOCOL,
            version=__version__,
            role=MASTER,
            pid=os.getpid(),
            generation=self.workers.serving.generation,
            workers=len(self.workers.slots),
            index=0,
            slot=0,
            accepts=True,
            began_ms=monotonic_ms(),
            descriptors=tuple(files),
        )
        return offer, list(files.values())

    def sockets(self) -> Iterator[tuple[Sockets, Sequence[socket.socket]]]:
        """The listening sockets of all frontends, place by place."""
        for index in range(len(self.workers.slots)):
            for frontends, sockets in self.listeners.sockets_of(index):
                yield Sockets(index, tuple(frontends)), sockets

    def servers(self) -> Mapping[str, socket.socket]:
        """The master's own listening sockets by name."""
        return self.server_sockets.open()

    async def hold(self) -> None:
        """Decide nothing any more; returns once nothing is under way."""
        await self.reconciler.hold()
        self.is_held = True

    async def go_on(self) -> None:
        """The successor has failed: take nothing for granted that it may have changed."""
        self.is_held = False
        await self.workers.hold(False)
        self.workers.serve()
        self.effects.reread()
        self.reconciler.go_on()

    async def pause(self) -> None:
        """The workers accept nothing, until `go_on` or for good."""
        await self.workers.hold(True)
