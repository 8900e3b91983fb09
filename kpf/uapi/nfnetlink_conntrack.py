"""linux/netfilter/nfnetlink_conntrack.h of Linux 6.1: conntrack entries."""

from enum import IntEnum


class IPCTNL_MSG_CT(IntEnum):
    """enum cntl_msg_types."""

    GET = 1
    DELETE = 2
    GET_STATS = 5


class CTA(IntEnum):
    """enum ctattr_type. FILTER since 5.8, STATUS_MASK since 5.18."""

    TUPLE_ORIG = 1
    TUPLE_REPLY = 2
    STATUS = 3
    ID = 12
    ZONE = 18
    FILTER = 25
    STATUS_MASK = 26


class CTA_TUPLE(IntEnum):
    """enum ctattr_tuple."""

    IP = 1
    PROTO = 2


class CTA_IP(IntEnum):
    """enum ctattr_ip."""

    V4_SRC = 1
    V4_DST = 2
    V6_SRC = 3
    V6_DST = 4


class CTA_PROTO(IntEnum):
    """enum ctattr_l4proto."""

    NUM = 1
    SRC_PORT = 2
    DST_PORT = 3


class CTA_FILTER(IntEnum):
    """enum ctattr_filter."""

    ORIG_FLAGS = 1


class CTA_STATS_GLOBAL(IntEnum):
    """enum ctattr_stats_global."""

    ENTRIES = 1
