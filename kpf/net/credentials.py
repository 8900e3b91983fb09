"""Who is at the other end of a Unix socket; and the names at which the daemon of a network namespace is found.

Anybody may bind an abstract name. So there are several: one that neither root nor the daemon's own user holds is passed
over by daemons and by orphaned workers alike. A socket in the file system is found from any network namespace, so who
connects to one says in which it is.
"""

import os
import socket
from typing import NamedTuple

from kpf.uapi.sockets import UCRED

NAMES = ("\0kpf", *(f"\0kpf-{number}" for number in range(1, 8)))

ROOT = 0
# whoever has no id in this user namespace: user_namespaces(7)
OVERFLOW_ID = 65534


class Peer(NamedTuple):
    """As they were at its connect(), listen() or socketpair(), in this user namespace's ids."""

    pid: int
    uid: int

    def is_trusted(self, own_uid: int) -> bool:
        """True of root and of `own_uid`. Root of a user namespace below this one is whoever has made it."""
        return self.uid == ROOT or (self.uid == own_uid and self.uid != OVERFLOW_ID)


def peer_of(sock: socket.socket) -> Peer:
    """Of a connected Unix socket, by SO_PEERCRED: unix(7)."""
    pid, uid, _ = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return Peer(pid, uid)


def network_namespace() -> tuple[int, int]:
    """The one of this process, by st_dev and st_ino. Raises OSError where there is no /proc."""
    found = os.stat("/proc/self/ns/net")
    return found.st_dev, found.st_ino
