"""What user space is held to, and no header of the kernel's exports: of Linux 6.1's own headers."""

from enum import IntEnum

LOOPBACK_IFINDEX = 1
"""include/net/flow.h: `lo` in every network namespace."""

SCM_MAX_FD = 253
"""include/net/scm.h: the descriptors of one message."""


class SOL(IntEnum):
    """include/linux/socket.h."""

    PACKET = 263
    NETLINK = 270


class TCP(IntEnum):
    """include/net/tcp_states.h: states of connections."""

    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


class CTA_FILTER_F(IntEnum):
    """include/net/netfilter/nf_internals.h: what of a tuple the kernel compares, since 5.8."""

    CTA_IP_DST = 1 << 1
    CTA_PROTO_NUM = 1 << 3
    CTA_PROTO_DST_PORT = 1 << 5
