"""A steady load of datagrams on flows of fixed source ports, from a process of its own, until it is told to stop.

The servers are of mode "datagrams". Each datagram has a number, which the server sends back: what is lost is known, and
on which flow.
"""

import selectors
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

from kpf.lab import udp
from kpf.lab.beside import Beside
from kpf.lab.crowd import Address, error_name
from kpf.lab.machine import Machine

ANSWER_S = 10.0
# an answer that takes longer is lost
PATIENCE_S = 1.0
# nobody forgets a load for longer than that
LONGEST_S = 120.0
# of one flow, before the load waits for the next moment: a stall is not made up for by a burst
LATEST_S = 0.1

Order = Literal["report", "stop"]


@dataclass(frozen=True, slots=True)
class Flows:
    """What is asked for: datagrams to `target` at `per_s`, the source ports in turn."""

    target: Address
    ports: Sequence[int]
    per_s: float
    source: str = ""


@dataclass(slots=True)
class Flow:
    """What became of one flow's datagrams.

    `servers`: who has answered, in order, each with the time of its first answer in a row (monotonic clock).
    `longest_gap_s`: between two answers, or since the last one. `errors`: what kept datagrams from being sent, or was
    said of those that were. `dropped`: answers that found the socket's buffer full.
    """

    sent: int = 0
    answered: int = 0
    servers: list[tuple[float, str]] = field(default_factory=list)
    longest_gap_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    dropped: int = 0

    @property
    def lost(self) -> int:
        """Only after `UnderFlows.stop` is nothing still under way."""
        return self.sent - self.answered

    @property
    def server(self) -> str:
        """Who answered last; "" if nobody ever has."""
        return self.servers[-1][1] if self.servers else ""


class UnderFlows(Beside):
    """The load runs on a machine while the context is open. Raises `CallFailedError` if it has died."""

    def __init__(self, machine: Machine, flows: Flows) -> None:
        super().__init__(machine, _send, flows, answer_s=ANSWER_S)

    def report(self) -> Mapping[int, Flow]:
        """By source port, so far; what is under way counts as lost."""
        return self._ask("report")

    def stop(self) -> Mapping[int, Flow]:
        """By source port, after a last wait for answers."""
        return self._ask("stop")

    def _ask(self, order: Order) -> Mapping[int, Flow]:
        self._order(order)
        answer: dict[int, Flow] = self._receive()
        return answer


class _Sender:
    """One flow: its socket, what is under way on it, and its account."""

    def __init__(self, target: Address, source: Address) -> None:
        self.sock = udp.make_socket(target, source)
        udp.make_room(self.sock)
        self.sock.connect(target)
        self._account = Flow()
        self._next = 0
        self._under_way: set[int] = set()
        self._answered_s = time.monotonic()

    def send(self) -> None:
        try:
            self.sock.send(b"%d" % self._next)
        except OSError as error:
            # an ICMP message about an earlier one, or what the machine's own rules say of this one
            self._account.errors[error_name(error)] += 1
            return
        self._under_way.add(self._next)
        self._next += 1
        self._account.sent += 1

    def receive(self) -> None:
        try:
            name, _, number = self.sock.recv(4096).decode().split("\t")
        except OSError as error:
            self._account.errors[error_name(error)] += 1
            return
        if int(number) not in self._under_way:
            self._account.errors["answered twice"] += 1
            return
        self._under_way.discard(int(number))
        account, now_s = self._account, time.monotonic()
        account.answered += 1
        account.longest_gap_s = max(account.longest_gap_s, now_s - self._answered_s)
        self._answered_s = now_s
        if account.server != name:
            account.servers.append((now_s, name))

    @property
    def waits(self) -> bool:
        return bool(self._under_way)

    def account(self, now_s: float) -> Flow:
        self._account.longest_gap_s = max(self._account.longest_gap_s, now_s - self._answered_s)
        self._account.dropped = udp.dropped(self.sock)
        return self._account


class _Senders:
    def __init__(self, connection: Connection, flows: Flows) -> None:
        self._connection = connection
        self._pause_s = 1 / flows.per_s
        self._senders = {port: _Sender(flows.target, (flows.source, port)) for port in flows.ports}
        self._selector = selectors.EpollSelector()
        for sender in self._senders.values():
            self._selector.register(sender.sock, selectors.EVENT_READ, sender.receive)
        self._selector.register(connection, selectors.EVENT_READ, self._obey)
        self._over = False

    def run(self) -> None:
        next_s = time.monotonic()
        until_s = next_s + LONGEST_S
        while next_s < until_s:
            for sender in self._senders.values():
                self._handle_until(next_s)
                if self._over:
                    return
                sender.send()
                next_s = max(next_s + self._pause_s, time.monotonic() - LATEST_S)

    def _handle_until(self, end_s: float) -> None:
        self._handle(0.0)
        while not self._over and (wait_s := end_s - time.monotonic()) > 0:
            self._handle(wait_s)

    def _handle(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            key.data()

    def _obey(self) -> None:
        order: Order = self._connection.recv()
        now_s = time.monotonic()
        if order == "stop":
            self._over = True
            until_s = time.monotonic() + PATIENCE_S
            self._selector.unregister(self._connection)
            while time.monotonic() < until_s and any(sender.waits for sender in self._senders.values()):
                self._handle(0.05)
        self._connection.send({port: sender.account(now_s) for port, sender in self._senders.items()})


def _send(connection: Connection) -> None:
    """What comes over the connection, until it is told to stop, or the connection is closed."""
    _Senders(connection, connection.recv()).run()
