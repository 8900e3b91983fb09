"""Readiness for the service manager: sd_notify(3)'s protocol, which is one datagram."""

import logging
import os
import socket

log = logging.getLogger("kpf")


def notify(state: str) -> None:
    """Send `state` ("READY=1", "STOPPING=1", "STATUS=...") to `$NOTIFY_SOCKET`; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # one that does not read must not hold us up
            manager.setblocking(False)
            manager.connect(address)
            manager.send(state.encode())
    except OSError as error:
        # no reason to stop anything
        log.warning("the service manager was not told %s: %s", state, error)
