"""What UDP sockets of the lab need: room for bursts, and how many datagrams were lost for want of it."""

import contextlib
import socket
import struct

from kpf.lab.crowd import Address
from kpf.uapi.sockets import SK_MEMINFO, SO

_MEMORY = struct.Struct(f"={SK_MEMINFO.VARS}I")
ROOM_BYTES = 4 << 20


def make_socket(target: Address, source: Address = ("", 0)) -> socket.socket:
    """A non-blocking socket for that target, not connected; bound to `source` if given. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if source != ("", 0):
        try:
            sock.bind(source)
        except OSError:
            sock.close()
            raise
    return sock


def make_room(sock: socket.socket) -> None:
    """Receive buffers for thousands of datagrams, or as much as the machine allows."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES)
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, SO.RCVBUFFORCE, ROOM_BYTES)


def dropped(sock: socket.socket) -> int:
    """How many datagrams the socket has lost since its buffer was full."""
    memory = _MEMORY.unpack(sock.getsockopt(socket.SOL_SOCKET, SO.MEMINFO, _MEMORY.size))
    return int(memory[SK_MEMINFO.DROPS])
