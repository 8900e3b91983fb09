"""One dial of a backend: what it needs, who waits for it, what its errors mean, and how it ends unused."""

import contextlib
import errno
import socket
from typing import NamedTuple

from kpf.shm.balancer import Choice
from kpf.shm.health import ATTEMPT_DELAY_MS
from kpf.shm.layout import Reason
from kpf.uapi.sockets import TCPI_RTT
from kpf.worker.half import Half
from kpf.worker.listening import ListeningSocket
from kpf.worker.relay import RESET
from kpf.worker.retry import RetryState
from kpf.worker.sessions import Sessions
from kpf.worker.timers import NEVER
from kpf.worker.transfer import DONTWAIT

UNDER_WAY = {errno.EAGAIN}  # what send() says before connect() is through
REFUSALS = {errno.ECONNREFUSED, errno.ECONNRESET}
TIMEOUTS = {errno.ETIMEDOUT}
NO_PORTS = {errno.EADDRNOTAVAIL}
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# all others are UNREACHABLE: EHOSTUNREACH, ENETUNREACH, EPERM (a local packet filter), ...


class Attempt(NamedTuple):
    """A dial that is under way, and when it began."""

    backend: Half
    began_ms: int

    @property
    def choice(self) -> Choice:
        """Whom it dials. A client's half has none, and is never here."""
        choice = self.backend.choice
        assert choice is not None
        return choice

    def took_ms(self, now_ms: int, connect_time_ms: int) -> int:
        """How long the answer has taken.

        If longer than usual: without SYNs that were lost, as the kernel knows (0: it does not).
        """
        took_ms = now_ms - self.began_ms
        if took_ms <= max(connect_time_ms, ATTEMPT_DELAY_MS):
            return took_ms
        (rtt_us,) = TCPI_RTT.unpack(self.backend.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_RTT.size))
        return min(took_ms, -(-int(rtt_us) // 1000))


class Dial:
    """A client without a backend yet.

    `attempts`: its dials that are under way, the oldest first; none while it waits for descriptors or memory, or for
    its turn.
    """

    __slots__ = ("attempts", "client", "deadline_ms", "due_ms", "host", "listener", "retry")

    def __init__(self, client: Half, listener: ListeningSocket, host: str, deadline_ms: int) -> None:
        self.client, self.listener, self.host, self.deadline_ms = client, listener, host, deadline_ms
        self.retry = RetryState()
        self.attempts: list[Attempt] = []
        self.due_ms = NEVER


def reason_of(error: int) -> Reason:
    """What an errno of connect(), or of SO_ERROR, means; one that is in no set above: UNREACHABLE."""
    if error in REFUSALS:
        return Reason.REFUSED
    if error in TIMEOUTS:
        return Reason.TIMEOUT
    if error in NO_PORTS:
        return Reason.PORTS
    return Reason.RESOURCES if error in SHORTAGES else Reason.UNREACHABLE


def answer(backend: Half) -> int:
    """0 if it is connected, else what the errno is."""
    try:
        backend.send(b"", DONTWAIT)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def discard(sessions: Sessions, backend: Half) -> None:
    """Reset a connection that nobody will use, should it be one."""
    with contextlib.suppress(OSError):
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sessions.bury(backend)
