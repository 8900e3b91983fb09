"""linux/netfilter/nfnetlink.h of Linux 6.1: what netfilter's messages have in common."""

import struct
from enum import IntEnum

NFGENMSG = struct.Struct(">BBH")
"""Family (NFPROTO), version, resource; in front of the attributes of each message."""


class NFNL_SUBSYS(IntEnum):
    """The high byte of a message's type."""

    CTNETLINK = 1
    NFTABLES = 10


class NFNL_MSG_BATCH(IntEnum):
    """Types without a subsystem."""

    BEGIN = 0x10
    END = 0x11


class NFNLGRP(IntEnum):
    """enum nfnetlink_groups."""

    NFTABLES = 7
