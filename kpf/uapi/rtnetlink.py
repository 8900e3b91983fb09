"""linux/rtnetlink.h, linux/if_addr.h and linux/neighbour.h of Linux 6.1: addresses, and whose they are."""

import struct
from enum import IntEnum

IFADDRMSG = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, interface."""

IFA_CACHEINFO = struct.Struct("=IIII")
"""Preferred and valid for so many seconds, created and updated."""


class RTM(IntEnum):
    """Types of messages."""

    NEWADDR = 20
    DELADDR = 21
    GETADDR = 22


class RTNLGRP(IntEnum):
    """enum rtnetlink_groups."""

    IPV4_IFADDR = 5
    IPV4_ROUTE = 7
    IPV6_IFADDR = 9
    IPV6_ROUTE = 11


class RT_SCOPE(IntEnum):
    """enum rt_scope_t."""

    UNIVERSE = 0
    HOST = 254


class RTN(IntEnum):
    """Types of routes; of what fib says of an address."""

    LOCAL = 2


class IFA(IntEnum):
    """Attributes of an address; PROTO since 5.18."""

    ADDRESS = 1
    LOCAL = 2
    CACHEINFO = 6
    FLAGS = 8
    PROTO = 11


class IFA_F(IntEnum):
    """Flags of an address."""

    TEMPORARY = 0x01
    NODAD = 0x02
    DADFAILED = 0x08
    DEPRECATED = 0x20
    TENTATIVE = 0x40


class NUD(IntEnum):
    """States of neighbours."""

    PERMANENT = 0x80
