"""linux/netlink.h of Linux 6.1: messages, attributes and socket options of every netlink protocol."""

import struct
from enum import IntEnum

NLMSGHDR = struct.Struct("=IHHII")
"""Length with this header, type, flags, sequence number, port."""

NLATTR = struct.Struct("=HH")
"""Length with this header, type."""


class NETLINK(IntEnum):
    """Protocols, and options of SOL_NETLINK."""

    ROUTE = 0
    NETFILTER = 12
    ADD_MEMBERSHIP = 1
    CAP_ACK = 10
    EXT_ACK = 11


class NLMSG(IntEnum):
    """Types of messages that every protocol has."""

    ERROR = 2
    DONE = 3


class NLM_F(IntEnum):
    """Flags of messages; what a bit means depends on the type."""

    REQUEST = 0x01
    ACK = 0x04
    DUMP_INTR = 0x10
    # of GET
    DUMP = 0x300
    # of NEW
    EXCL = 0x200
    CREATE = 0x400
    APPEND = 0x800
    # of NLMSG_ERROR
    CAPPED = 0x100
    ACK_TLVS = 0x200


class NLMSGERR_ATTR(IntEnum):
    """enum nlmsgerr_attrs."""

    MSG = 1


class NLA_F(IntEnum):
    """In an attribute's type."""

    NESTED = 1 << 15
    NET_BYTEORDER = 1 << 14
