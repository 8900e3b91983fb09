"""`kpf status --ready`: whether the kpf at this control socket serves. For probes, so it imports next to nothing."""

import socket
import sys

from kpf.commands import FAILED, OK, no_answer

TIMEOUT_S = 5.0
_REQUEST = b"GET /ready HTTP/1.0\r\n\r\n"
# the status line, headers, and a sentence
_MOST_BYTES = 4096


def main(control_socket: str) -> int:
    """OK if it serves; else FAILED, and why not on standard error, in one line."""
    try:
        status, body = _ask(control_socket)
    except OSError as error:
        return _not_ready(no_answer(control_socket, error))
    if status == b"200":
        return OK
    return _not_ready(body if status == b"503" else f"what answers on {control_socket} does not tell")


def _ask(control_socket: str) -> tuple[bytes, str]:
    """The HTTP status, b"" if it is none, and the body. Raises OSError."""
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(TIMEOUT_S)
        asking.connect(control_socket)
        asking.sendall(_REQUEST)
        while len(answer) < _MOST_BYTES and (more := asking.recv(_MOST_BYTES)):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    _, status, *_ = *head.split(b" ", 2), b"", b""
    return status, body.decode(errors="replace")


def _not_ready(why: str) -> int:
    print(f"kpf status: not ready: {why}", file=sys.stderr)
    return FAILED
