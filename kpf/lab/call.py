"""The other end of `Machine.call` and `Machine.converse`: one function, run in a process of its own.

Started as `python -m kpf.lab.call DESCRIPTOR`; the descriptor is a connection to the one who asked. Every answer is a
pair: (True, value) or (False, traceback). A generator yields one answer after another and is given what comes back.
"""

import pickle
import resource
import sys
import traceback
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any


def raise_descriptor_limit() -> None:
    """As far as it goes without asking: the usual soft limit is too low for thousands of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run the one function that comes over the connection, descriptor argv[1], and send what becomes of it."""
    raise_descriptor_limit()
    with Connection(int(sys.argv[1])) as connection:
        try:
            sys.path[:] = pickle.loads(connection.recv_bytes())
            function, args, kwargs = pickle.loads(connection.recv_bytes())
            value = function(*args, **kwargs)
            if isinstance(value, Generator):
                _converse(connection, value)
            else:
                connection.send((True, value))
        except BaseException:
            connection.send((False, traceback.format_exc()))


def _converse(connection: Connection, generator: Generator[Any, Any, None]) -> None:
    try:
        connection.send((True, next(generator)))
        while True:
            connection.send((True, generator.send(connection.recv())))
    except (StopIteration, EOFError):
        generator.close()


if __name__ == "__main__":
    main()
