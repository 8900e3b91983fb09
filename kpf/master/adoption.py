"""What a predecessor had open becomes ours: frontends in shared memory, and the sockets on which they listen."""

import logging
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from socket import socket

from kpf.master.effects import Effects, frontend_in
from kpf.master.labels import frontend_of
from kpf.master.listening import ListeningSockets
from kpf.master.successor import Inheritance
from kpf.model.names import SocketAddress
from kpf.plan.allocation import Listener
from kpf.shm.directory import Directory

log = logging.getLogger("kpf")


def adopt(
    inheritance: Inheritance,
    slots: Mapping[int, int] | None,
    directory: Directory,
    listeners: ListeningSockets,
    effects: Effects,
) -> None:
    """Frontends go on as they are, those of which a socket is left.

    `slots`: by a frontend's place in the predecessor's memory, the one in `directory`; None if it is the same memory.
    Frontends without sockets are retired, once nobody may go on who still knows them: their portals get other proxy
    ports. Raises OSError.
    """
    labels = dict(directory.labels())
    for before, places in inheritance.places():
        slot = before if slots is None else slots.get(before, -1)
        label, some = labels.pop(slot, None), next(one for one in places if one is not None)
        if label is None:
            _close(places)
            continue
        listener = _listener(label, some)
        listeners.adopt(listener, slot, places)
        effects.now.frontends[listener] = frontend_in(directory, slot, listener)
    if labels:
        log.warning("%d frontends of the kpf before have lost their listening sockets", len(labels))
    effects.orphaned_slots = tuple(labels)


def _listener(label: bytes, sock: socket) -> Listener:
    address, port = sock.getsockname()[:2]
    return Listener(frontend_of(label), SocketAddress(ip_address(address), port))


def _close(places: Sequence[socket | None]) -> None:
    for one in places:
        if one is not None:
            one.close()
