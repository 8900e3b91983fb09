"""Gives up every privilege: other ids, no capabilities, and no way back through a set-uid program."""

import contextlib
import ctypes
import errno
import os

from kpf.uapi.process import CAP_USER_HEADER, LINUX_CAPABILITY_VERSION_3, PR

# all that any kernel can have: capabilities are bits of 64
CAP_LAST = 63

# a user namespace without a mapping for the id, or with setgroups denied: user_namespaces(7)
UNMAPPED = {errno.EINVAL, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True)


def drop(uid: int, gid: int) -> str:
    """Become `uid` and `gid` if this is root, and give up all capabilities.

    Returns "none", or what could not be given up and why. Raises OSError if capabilities cannot be dropped.
    """
    kept = "none"
    _empty_bounding_set()
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            if error.errno not in UNMAPPED:
                raise
            kept = f"uid {os.getuid()}: this user namespace has no other ({error.strerror})"
    _prctl(PR.SET_NO_NEW_PRIVS, 1)
    _prctl(PR.CAP_AMBIENT, PR.CAP_AMBIENT_CLEAR_ALL)
    header = CAP_USER_HEADER.pack(LINUX_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    return kept


def _empty_bounding_set() -> None:
    for capability in range(CAP_LAST + 1):
        # EINVAL: this kernel knows fewer; EPERM: who may not change it gains nothing by it under no_new_privs
        with contextlib.suppress(OSError):
            _prctl(PR.CAPBSET_DROP, capability)


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {argument})")
