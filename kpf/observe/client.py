"""Asks the running daemon over its control socket."""

import http.client
import socket
from typing import Any

import orjson

TIMEOUT_S = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("kpf", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def fetch(control_socket: str) -> dict[str, Any]:
    """The daemon's state as in `kpf status --json`. Raises OSError if no daemon answers."""
    _, state = ask(control_socket, "/status")
    return state


def ask(control_socket: str, document: str, *, timeout_s: float = TIMEOUT_S) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of an answer. Raises OSError if no daemon answers, or answers something else."""
    connection = _UnixConnection(control_socket, timeout_s)
    try:
        connection.request("GET", document)
        answer = connection.getresponse()
        body: dict[str, Any] = orjson.loads(answer.read())
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"not an answer of kpf: {error}") from error
    finally:
        connection.close()
    return answer.status, body
