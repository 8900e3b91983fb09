"""Readiness for the service manager: sd_notify(3)'s protocol, which is one datagram."""

import contextlib
import os
import socket

NOBODY_LISTENS = (ConnectionRefusedError, FileNotFoundError)


def notify(state: str) -> None:
    """Send `state` ("READY=1", "STOPPING=1", "STATUS=...") to `$NOTIFY_SOCKET`; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # a manager that does not listen (any more) is no reason to stop anything
    with contextlib.suppress(*NOBODY_LISTENS), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(address)
        manager.send(state.encode())
