"""Asks the running daemon over its control socket."""

import http.client
import socket
from typing import Any

import orjson

TIMEOUT_S = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("kpf", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def fetch(control_socket: str) -> dict[str, Any]:
    """The daemon's state as in `kpf status --json`. Raises OSError if no daemon answers."""
    _, state = ask(control_socket, "/status")
    return state


def ask(control_socket: str, document: str) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of an answer. Raises OSError if no daemon answers, or answers something else."""
    connection = _UnixConnection(control_socket)
    try:
        connection.request("GET", document)
        answer = connection.getresponse()
        body: dict[str, Any] = orjson.loads(answer.read())
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"not an answer of kpf: {error}") from error
    finally:
        connection.close()
    return answer.status, body
