"""What a predecessor had open becomes ours: frontends in shared memory, and the sockets on which they listen."""

import logging
from collections.abc import Sequence
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


def adopt(inheritance: Inheritance, directory: Directory, listeners: ListeningSockets, effects: Effects) -> None:
    """Frontends with all of their sockets go on as they are.

    Others are retired, once nobody may go on who still knows them: their portals get new proxy ports.
    """
    labels = dict(directory.labels())
    for slot, sockets in inheritance.whole_groups():
        label = labels.pop(slot, None)
        if label is None:
            _close(sockets)
            continue
        listener = _listener(label, sockets[0])
        listeners.adopt(listener, slot, sockets)
        effects.now.frontends[listener] = frontend_in(directory, slot, listener)
    if labels:
        log.warning("%d frontends of the kpf before have lost listening sockets: they get new ones", len(labels))
    effects.orphaned_slots = tuple(labels)


def _listener(label: bytes, sock: socket) -> Listener:
    address, port = sock.getsockname()[:2]
    return Listener(frontend_of(label), SocketAddress(ip_address(address), port))


def _close(sockets: Sequence[socket]) -> None:
    for one in sockets:
        one.close()
