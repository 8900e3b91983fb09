"""Options of sockets and links that Python's `socket` does not name, and what they tell.

asm-generic/socket.h (x86's and ARM's), linux/in.h, linux/in6.h, linux/tcp.h,
linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h, linux/sock_diag.h, linux/sockios.h,
linux/if.h, linux/if_ether.h, linux/if_packet.h of Linux 6.1.
"""

import struct
from enum import IntEnum

IFNAMSIZ = 16
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914

UCRED = struct.Struct("@3i")
"""Process, user, group."""

TCPI_UNACKED = struct.Struct("@24xI")
"""Of struct tcp_info up to there; of a listening socket, how many connections wait to be accepted."""

TCPI_LAST_DATA_RECV = struct.Struct("@52xI")
"""Of struct tcp_info up to there, in ms."""

TCPI_RTT = struct.Struct("@68xI")
"""Of struct tcp_info up to there, in us."""

TCPI_BYTES_RECEIVED = struct.Struct("@B127xQ")
"""Of struct tcp_info up to there: the state, and how many bytes have come (a FIN counts as one)."""

SO_ORIGINAL_DST = 80
"""Of SOL_IP and, as IP6T_SO_ORIGINAL_DST, SOL_IPV6: where a connection was sent before it was redirected."""

SOCKADDR_IN = struct.Struct("!2xH4s8x")
SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")
"""Port, address."""


class SO(IntEnum):
    """Options of SOL_SOCKET."""

    ATTACH_FILTER = 26
    SNDBUFFORCE = 32
    RCVBUFFORCE = 33
    ATTACH_REUSEPORT_CBPF = 51
    MEMINFO = 55
    DETACH_REUSEPORT_BPF = 68


class IPPROTO(IntEnum):
    """Protocols above IP."""

    TCP = 6
    UDP = 17
    SCTP = 132


class IPV6(IntEnum):
    """Options of IPPROTO_IPV6."""

    TRANSPARENT = 75


class SK_MEMINFO(IntEnum):
    """What SO_MEMINFO tells, four bytes each."""

    DROPS = 8
    VARS = 9


class IFF(IntEnum):
    """enum net_device_flags."""

    UP = 1 << 0


class ETH_P(IntEnum):
    """Protocols of frames."""

    ALL = 0x0003


class PACKET(IntEnum):
    """Options of SOL_PACKET."""

    VNET_HDR = 15
    IGNORE_OUTGOING = 23
