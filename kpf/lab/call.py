"""The other end of `Machine.call` and `Machine.converse`: one function, run in a process of its own.

It comes over a connection to the one who asked. Every answer is a pair: (True, value) or (False, traceback). A
generator yields one answer after another and is given what comes back.
"""

import traceback
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any


def answer(connection: Connection) -> None:
    """Run the one function that comes over the connection, and send what becomes of it."""
    try:
        function, args, kwargs = connection.recv()
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
