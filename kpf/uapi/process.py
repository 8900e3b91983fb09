"""What a process may do, and where it is.

linux/prctl.h, linux/capability.h, linux/sched.h, linux/fcntl.h of Linux 6.1.
"""

import struct
from enum import IntEnum

LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_USER_HEADER = struct.Struct("=Ii")
"""Version, process (0: this thread)."""

FLOCK = struct.Struct("@hhqqi4x")
"""Of 64-bit Linux: type, whence, start, length, process."""


class PR(IntEnum):
    """prctl()."""

    SET_PDEATHSIG = 1
    CAPBSET_DROP = 24
    SET_NO_NEW_PRIVS = 38
    CAP_AMBIENT = 47
    CAP_AMBIENT_CLEAR_ALL = 4


class CAP(IntEnum):
    """Capabilities: which bit each is."""

    KILL = 5
    NET_ADMIN = 12
    SYS_ADMIN = 21


class CLONE(IntEnum):
    """unshare() and setns()."""

    NEWUSER = 0x10000000
    NEWNET = 0x40000000
