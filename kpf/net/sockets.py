"""Makes listening sockets, asks for free ports, and steers new connections within a SO_REUSEPORT group."""

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence

# include/uapi/asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68

# IP_TRANSPARENT and IPV6_TRANSPARENT of include/uapi/linux/in.h, in6.h
_TRANSPARENT = {socket.AF_INET: (socket.IPPROTO_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}

KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4

_TAKEN = {errno.EADDRINUSE}
_NOT_ATTACHED = {errno.ENOENT}


def listening_socket(address: str, port: int, *, backlog: int) -> socket.socket:
    """A non-blocking TCP listener in the SO_REUSEPORT group of its address and port. Raises OSError.

    Accepted sockets inherit TCP_NODELAY and keepalive from it, which saves system calls on each; and that they may send
    from their address when it is no longer this node's: else not even a reset would leave (ip_route_output_key_hash).
    Takes CAP_NET_ADMIN.
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
        # only now, for before it would let it be bound to anybody's address
        listener.setsockopt(*_TRANSPARENT[listener.family], 1)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


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


def steer(member: socket.socket, healthy: Sequence[int]) -> None:
    """New connections to this socket's group go to these sockets of it only, spread at random.

    `healthy`: their indexes in the order in which the group began to listen; at least one. Replaces what was attached.
    """
    program = _program(healthy)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)


def stop_steering(member: socket.socket) -> None:
    """The kernel's own hash spreads new connections over all sockets of the group."""
    try:
        member.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
    except OSError as error:
        if error.errno not in _NOT_ATTACHED:
            raise


# struct sock_filter and the opcodes used (include/uapi/linux/filter.h, bpf_common.h)
_INSTRUCTION = struct.Struct("@HBBI")
_LOAD, _MODULO, _JUMP_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM; the packet's own hash may be 0 for all, as on lo


def _program(healthy: Sequence[int]) -> bytes:
    code = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(healthy))]
    for number, index in enumerate(healthy[:-1]):
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, index)]
    code.append((_RETURN, 0, 0, healthy[-1]))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
