"""The listening TCP sockets of the namespace we are in, as the kernel tells them.

By sock_diag, and not from /proc/net/tcp: that walks the table of all connections of the machine, which takes long.
"""

import socket

from pyroute2 import DiagSocket

from kpf.uapi.internal import TCP

TCPF_LISTEN = 1 << TCP.LISTEN


def queues() -> list[int]:
    """How many connections wait to be accepted, for each listening socket."""
    with DiagSocket() as diag:
        return [
            found["idiag_rqueue"]
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in diag.get_sock_stats(family=family, states=TCPF_LISTEN)
        ]
