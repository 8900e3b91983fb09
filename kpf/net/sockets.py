"""Makes listening sockets, asks for free ports, and steers new connections within a SO_REUSEPORT group."""

import errno
import socket
import struct
from collections.abc import Sequence

from kpf.net import bpf
from kpf.uapi.bpf import SKF_AD
from kpf.uapi.sockets import IPV6, SK_MEMINFO, SO, TCPI_UNACKED

_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6.TRANSPARENT),
}

KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4

_TAKEN = {errno.EADDRINUSE}
_MEMINFO = struct.Struct(f"={SK_MEMINFO.VARS}I")
_NOT_ATTACHED = {errno.ENOENT}


def listening_socket(address: str, port: int, *, backlog: int, address_may_go: bool = False) -> socket.socket:
    """A non-blocking TCP listener in the SO_REUSEPORT group of its address and port. Raises OSError.

    Accepted sockets inherit TCP_NODELAY and keepalive from it, which saves system calls on each.
    `address_may_go`: and that they may send from their address when it is no longer this node's: else not even a reset
    would leave (ip_route_output_key_hash). Takes CAP_NET_ADMIN. It has a price: of connections from one source port to
    several portals that lead here, the first alone is answered, for conntrack gives the others another source port,
    and a segment that early demux has taken to a transparent socket stays there (nf_nat_ipv4_local_in).
    """
    listener = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(listener)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        if address_may_go:
            # only now, for before it would let it be bound to anybody's address
            listener.setsockopt(*_TRANSPARENT[listener.family], 1)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def address_may_go(listener: socket.socket) -> bool:
    """What `listening_socket` was told of it."""
    return bool(listener.getsockopt(*_TRANSPARENT[listener.family]))


def keep_alive(sock: socket.SocketType) -> None:
    """A peer that has vanished is noticed after two minutes of silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def port_is_free(address: str, port: int, *, is_udp: bool = False) -> bool:
    """True if nobody listens there. Raises OSError other than EADDRINUSE.

    Binds without SO_REUSEPORT: with it, a socket of the same user joins a stranger's group and takes half of its
    clients. SO_REUSEADDR lets connections in TIME_WAIT be.
    """
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with socket.socket(_family(address), kind | socket.SOCK_CLOEXEC) as probe:
        # of UDP, two that both set it may have one port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if is_udp else 1)
        if probe.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
    return True


def waiting(listening: socket.socket) -> int:
    """How many connections wait to be accepted. Raises OSError."""
    (waiting,) = TCPI_UNACKED.unpack(listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_UNACKED.size))
    return int(waiting)


def overflows(listening: socket.socket) -> int:
    """How many connections found no room to wait (or, which is rare, no memory), modulo 2^32. Raises OSError."""
    told = listening.getsockopt(socket.SOL_SOCKET, SO.MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(told)[SK_MEMINFO.DROPS])


def steer(member: socket.socket, healthy: Sequence[int]) -> None:
    """New connections to this socket's group go to these sockets of it only, spread at random.

    `healthy`: their indexes in the order in which the group began to listen; at least one. Replaces what was attached.
    """
    # the packet's own hash may be 0 for all, as on lo
    program = [bpf.ld(SKF_AD.OFF + SKF_AD.RANDOM & 0xFFFFFFFF), bpf.mod(len(healthy))]
    for number, index in enumerate(healthy[:-1]):
        program += [bpf.jeq(number, jf=1), bpf.ret(index)]
    program.append(bpf.ret(healthy[-1]))
    bpf.attach(member, SO.ATTACH_REUSEPORT_CBPF, program)


def stop_steering(member: socket.socket) -> None:
    """The kernel's own hash spreads new connections over all sockets of the group."""
    try:
        member.setsockopt(socket.SOL_SOCKET, SO.DETACH_REUSEPORT_BPF, 0)
    except OSError as error:
        if error.errno not in _NOT_ATTACHED:
            raise


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
