"""What sessions there are, told a few at a time. Whatever the hot path has not noted is asked of the kernel now."""

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

from kpf.net.messages import Tell, Told
from kpf.shm.layout import F_BYTES_IN, FRONTEND_COUNTERS, Layout
from kpf.uapi.internal import TCP
from kpf.uapi.sockets import SO_ORIGINAL_DST, SOCKADDR_IN, SOCKADDR_IN6, TCPI_BYTES_RECEIVED
from kpf.worker.clock import Clock
from kpf.worker.dialer import Dialer
from kpf.worker.half import Half
from kpf.worker.sessions import Sessions
from kpf.worker.states import DEAD, DIALLING

# of one answer, before others get their turn: 1 to 2 ms, and a quarter of what a frame holds
MOST = 64
# descriptors that are looked at for one answer: their sessions may all be of others
LOOKED_AT = 1024

# the peer's FIN has come, and is counted as a byte
_ENDED = {TCP.CLOSE, TCP.CLOSE_WAIT, TCP.LAST_ACK, TCP.CLOSING}


class _Session(NamedTuple):
    """As in `Told`."""

    frontend: int
    client: str
    portal: str
    endpoint: str
    state: str
    age_ms: int
    bytes_in: int
    bytes_out: int


class Inventory:
    """`worker`: its slot."""

    def __init__(self, sessions: Sessions, dialer: Dialer, clock: Clock, layout: Layout, *, worker: int) -> None:
        self._sessions, self._dialer, self._clock = sessions, dialer, clock
        self._first_counter = layout.frontend_counter(worker, 0) + F_BYTES_IN

    def some(self, asked: Tell) -> Told:
        """The next few."""
        halves, start = self._sessions.halves, max(asked.start, 0)
        end = min(start + LOOKED_AT, len(halves))
        found: list[_Session] = []
        for descriptor in range(start, end):
            backend = halves[descriptor]
            # each session has one of these
            if backend is None or backend.choice is None:
                continue
            found += self._told(backend, asked)
            if len(found) == MOST:
                end = descriptor + 1
                break
        columns = zip(*found, strict=True) if found else ((),) * len(_Session._fields)
        return Told(asked.number, 0 if end == len(halves) else end, *columns)

    def _told(self, backend: Half, asked: Tell) -> Iterator[_Session]:
        """The session, if it is asked for."""
        choice = backend.choice
        client = self._dialer.client_of(backend) if backend.state & DIALLING else backend.peer
        if choice is None or client is None or client.state & DEAD:
            return
        frontend = (client.counter - self._first_counter) // FRONTEND_COUNTERS
        if asked.frontends and frontend not in asked.frontends:
            return
        endpoint = _shown(choice.address)
        try:
            peer = client.getpeername()
        except OSError:
            # it has been reset, and will be noticed
            return
        if asked.address and asked.address not in (peer[0], _shown(peer), choice.address[0], endpoint):
            return
        is_dialled, has_ended = backend.state & DIALLING, client.end or backend.end
        yield _Session(
            frontend,
            _shown(peer),
            _portal(client),
            endpoint,
            "dialling" if is_dialled else "half-closed" if has_ended else "open",
            self._clock.now_ms - client.began_ms,
            _received(client),
            0 if is_dialled else _received(backend),
        )


def _shown(address: tuple[str, int]) -> str:
    """`address`: of either family, as Python's sockets tell it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _portal(client: Half) -> str:
    """Where it was sent before it was redirected; "" if that is not known any more."""
    level, form = socket.IPPROTO_IP, SOCKADDR_IN
    if client.family == socket.AF_INET6:
        level, form = socket.IPPROTO_IPV6, SOCKADDR_IN6
    with contextlib.suppress(OSError):
        port, address = form.unpack(client.getsockopt(level, SO_ORIGINAL_DST, form.size))
        return _shown((socket.inet_ntop(client.family, address), port))
    return ""


def _received(half: Half) -> int:
    """Bytes that have come there, since it was opened."""
    state, received = TCPI_BYTES_RECEIVED.unpack(
        half.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_BYTES_RECEIVED.size)
    )
    return int(received) - (state in _ENDED and received > 0)
