"""Clients that dial many places at once, by TCP and UDP: a function to be run on a machine (`Machine.call`).

UDP servers are of mode "datagrams", TCP servers of mode "tell" or "greet".
"""

import selectors
import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from kpf.lab import udp
from kpf.lab.crowd import Address, Client, Crowd, Outcome, error_name

Protocol = Literal["TCP", "UDP"]

QUESTION = b"?"


class Dial(NamedTuple):
    """One TCP connection, or one datagram; `source_port` is for datagrams, 0 leaves it to the kernel."""

    protocol: Protocol
    target: Address
    source: str = ""
    source_port: int = 0


class Datagram:
    """One question and its answer, if one comes.

    The error is "EPERM" if the rules of the client's own machine have dropped the question. What they refuse comes as
    "ECONNREFUSED", as if it were refused from afar. Raises `OSError` if the source is not to be had.
    """

    awaits = selectors.EVENT_READ

    def __init__(self, target: Address, source: Address = ("", 0)) -> None:
        self.sock = udp.make_socket(target, source)
        self.finished = False
        self._source = source[0]
        self._answer = b""
        self._error = self._send_error = ""
        self._ended_s = 0.0
        self.began_s = time.monotonic()
        try:
            self.sock.connect(target)
            self.sock.send(QUESTION)
        except PermissionError as error:
            # said of what is dropped and of what is refused, but the latter is followed by an ICMP message
            self._send_error = error_name(error)
        except OSError as error:
            self.fail(error_name(error))

    def advance(self) -> None:
        """The answer can be read, or what an ICMP message has said of the question."""
        try:
            self._answer = self.sock.recv(4096)
        except OSError as error:
            self._send_error = ""
            self.fail(error_name(error))
        else:
            self._finish()

    def fail(self, why: str) -> None:
        """It has finished without an answer. What was said when it was sent is the better reason, if it is known."""
        self._error = self._send_error or why
        self._finish()

    def _finish(self) -> None:
        self.finished, self._ended_s = True, time.monotonic()

    def close(self) -> Outcome:
        """`connect_s` is 0, `first_byte_s` the time until the answer or the failure."""
        self.sock.close()
        name, client = self._answer.decode().split("\t")[:2] if self._answer else ("", "")
        return Outcome(self._source, name, self._error, self.began_s, 0.0, self._ended_s - self.began_s, client)


def dial(dials: Sequence[Dial], *, at_once: int, pause_s: float = 0.0, timeout_s: float = 10.0) -> list[Outcome]:
    """Dial them all, at most `at_once` under way and at least `pause_s` apart; what became of each, in their order.

    Raises `OSError` if a source is not to be had.
    """
    places: dict[Client | Datagram, int] = {}

    def clients() -> Iterator[Client | Datagram]:
        for place, one in enumerate(dials):
            client: Client | Datagram
            if one.protocol == "TCP":
                client = Client(one.target, one.source)
            else:
                client = Datagram(one.target, (one.source, one.source_port))
            places[client] = place
            yield client

    finished = Crowd(timeout_s).run(clients(), at_once=at_once, pause_s=pause_s)
    outcomes = {places.pop(client): client.close() for client in finished}
    return [outcomes[place] for place in range(len(dials))]
