"""What clients do while kpf restarts, in one process.

New connections with one request each, and others past kpf for comparison; connections that are kept, with a message
each 100 ms; clients that must stay with their pod; and one client that counts turns. Everything is due at a moment that
is settled beforehand, and times are counted from that moment: a load that is late itself is late for all kinds alike.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import cycle
from multiprocessing.connection import Connection

from kpf.lab.beside import Beside
from kpf.lab.crowd import Address, Client, Crowd, Outcome
from kpf.lab.machine import CallFailedError, Machine

TIMEOUT_S = 10.0
# nobody forgets a load for longer than that
LONGEST_S = 120.0


class Kind(Enum):
    NEW = auto()
    CONTROL = auto()
    MESSAGE = auto()
    PINNED = auto()
    TURN = auto()


ROUND_S = 0.05
# 300 new connections a second, 100 past kpf, 500 messages, 100 pinned ones, 20 turns
ROUND = {Kind.NEW: 15, Kind.CONTROL: 5, Kind.MESSAGE: 25, Kind.PINNED: 5, Kind.TURN: 1}
KEPT = 50
PAUSE_S = ROUND_S / sum(ROUND.values())


@dataclass(frozen=True, slots=True)
class Load:
    """`new` has the kept connections, too; `control` is no Service. `clients`: addresses that come to `pinned`."""

    new: Address
    control: Address
    pinned: Address
    turn: Address
    clients: Sequence[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of each connection and message; `kept`: how many connections were kept."""

    kept: int
    outcomes: dict[Kind, list[Outcome]] = field(default_factory=lambda: {kind: [] for kind in Kind})


class UnderRestartLoad(Beside):
    """The load runs on a machine while the context is open; it has begun, with all kept connections open."""

    def __init__(self, machine: Machine, load: Load) -> None:
        super().__init__(machine, _bear, load, answer_s=TIMEOUT_S * 3)
        try:
            self._receive()
        except CallFailedError:
            self.close()
            raise

    def stop(self) -> Report:
        """End it: what is under way is waited for."""
        self._order("stop")
        report: Report = self._receive()
        return report


def in_turn() -> list[Kind]:
    """The kinds of a round, each spread over it."""
    places = [((place + 0.5) / number, kind) for kind, number in ROUND.items() for place in range(number)]
    return [kind for _, kind in sorted(places, key=lambda one: one[0])]


class _Clients:
    def __init__(self, connection: Connection, load: Load) -> None:
        self._connection, self._load = connection, load
        self._crowd = Crowd(TIMEOUT_S)
        self._sources = cycle(load.clients)
        self._kinds: dict[Client, Kind] = {}
        self._requests = 0
        self._turn_is_taken = False
        everybody = (Client(load.new, request=self._request()) for _ in range(KEPT))
        self._idle = deque(self._crowd.run(everybody, at_once=1))
        self.report = Report(len(self._idle))

    def bear(self) -> None:
        for client in self._crowd.run(self._due(), at_once=int(LONGEST_S / PAUSE_S), pause_s=PAUSE_S):
            kind = self._kinds.pop(client)
            if kind is Kind.MESSAGE and not client.error:
                self.report.outcomes[kind].append(client.outcome())
                self._idle.append(client)
                continue
            if kind is Kind.TURN:
                self._turn_is_taken = False
            self.report.outcomes[kind].append(client.close())

    def _due(self) -> Iterator[Client]:
        began_s = time.monotonic()
        kinds = in_turn()
        for number, kind in enumerate(cycle(kinds)):
            due_s = began_s + number * PAUSE_S
            if number % len(kinds) == 0 and (self._connection.poll() or due_s > began_s + LONGEST_S):
                return
            client = self._client(kind)
            # and nothing but the next one in the other cases: who waits for an answer has no time
            if client is None:
                kind, client = Kind.CONTROL, self._new(self._load.control)
            client.began_s = due_s
            self._kinds[client] = kind
            yield client

    def _client(self, kind: Kind) -> Client | None:
        match kind:
            case Kind.MESSAGE if not self._idle:
                return None
            case Kind.MESSAGE:
                client = self._idle.popleft()
                client.ask(self._request())
                return client
            case Kind.TURN if self._turn_is_taken:
                return None
            case Kind.TURN:
                self._turn_is_taken = True
                return self._new(self._load.turn)
            case Kind.PINNED:
                return self._new(self._load.pinned, next(self._sources))
        return self._new(self._load.new if kind is Kind.NEW else self._load.control)

    def _new(self, target: Address, source: str = "") -> Client:
        return Client(target, source, request=self._request())

    def _request(self) -> bytes:
        """Another one each time, so that nobody is content with somebody else's answer."""
        self._requests += 1
        return b"request %d\n" % self._requests


def _bear(connection: Connection) -> None:
    """The one load that comes over the connection, until it is told to stop."""
    clients = _Clients(connection, connection.recv())
    connection.send("begun")
    clients.bear()
    connection.recv()
    connection.send(clients.report)
