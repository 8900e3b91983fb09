"""A private network namespace: where the demo, the tests and the benchmarks play, so that no packet can get out.

`enter` moves the calling process (single-threaded, nothing opened yet) into a new network namespace with no uplink.
An ordinary user gets a user namespace of one id first, in which it is root. The namespace ends with its last process.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

from kpf.master.capabilities import has
from kpf.uapi.process import CAP, CLONE
from kpf.uapi.sockets import IFF, SIOCGIFFLAGS, SIOCSIFFLAGS

# os.unshare and os.setns are new in Python 3.12
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceRefusedError(OSError):
    """The kernel does not let this process make the namespaces that it needs."""


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise NamespaceRefusedError(code, f"unshare({flags:#x}): {os.strerror(code)}")


def _set_link_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", name.encode(), 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | IFF.UP))


def may_administer_network() -> bool:
    """True if the process may make a network namespace without a user namespace (root with CAP_SYS_ADMIN)."""
    return has(CAP.NET_ADMIN) and has(CAP.SYS_ADMIN)


def enter() -> None:
    """Move into a fresh network namespace whose only link is `lo`, which is up. Raises `NamespaceRefusedError`."""
    try:
        if may_administer_network():
            _unshare(CLONE.NEWNET)
        else:
            enter_user_namespace()
        _set_link_up("lo")
    except PermissionError as error:
        # Some distributions let anybody make the user namespace and then give it no rights (AppArmor).
        raise NamespaceRefusedError(error.errno, f"no rights in the new namespace: {error.strerror}") from error


def enter_user_namespace() -> None:
    """Become root of a fresh user namespace of one id and of a network namespace in it, whoever we are.

    Nobody else exists there, so no privilege can be given away by becoming another user. `lo` is down.
    Raises `NamespaceRefusedError`.
    """
    uid, gid = os.getuid(), os.getgid()
    _unshare(CLONE.NEWUSER | CLONE.NEWNET)
    # a gid may be mapped without privilege only after setgroups is given up: user_namespaces(7)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def create() -> int:
    """A fresh network namespace beside ours, as a descriptor: it lives while the descriptor or a process in it does.

    Its only link is `lo`, which is up. Raises `NamespaceRefusedError`.
    """
    home = open_own()
    try:
        _unshare(CLONE.NEWNET)
        try:
            _set_link_up("lo")
            return open_own()
        finally:
            setns(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def inside(descriptor: int) -> Iterator[None]:
    """The calling thread is in that namespace for a while; sockets opened there belong to it for ever.

    Raises `NamespaceRefusedError`.
    """
    home = open_own()
    try:
        setns(descriptor)
        try:
            yield
        finally:
            setns(home)
    finally:
        os.close(home)


def setns(descriptor: int) -> None:
    """Move the calling thread into a network namespace. Raises `NamespaceRefusedError`."""
    if _libc.setns(descriptor, CLONE.NEWNET) != 0:
        code = ctypes.get_errno()
        raise NamespaceRefusedError(code, f"setns: {os.strerror(code)}")


def open_own() -> int:
    """The calling thread's network namespace, as a descriptor."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
