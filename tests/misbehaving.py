"""A small server that does something wrong with each connection."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from perf.load.result import Address

Behaviour = Callable[[socket.socket], object]


@contextlib.contextmanager
def behaving(behaviour: Behaviour) -> Iterator[Address]:
    """A server that does this with each connection, one after another, after it has read the request's head."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                # shut down
                return
            with client, contextlib.suppress(OSError):
                if client.recv(4096):
                    behaviour(client)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def reset(client: socket.socket) -> None:
    """So that its closing is a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
