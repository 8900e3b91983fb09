"""A load on a Service from a process of its own: it goes on until it is told to stop, and tells what became of it.

New connections at a rate, each closed when it has its answer, and kept ones that go on asking in turn.
"""

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from kpf.lab.beside import Beside
from kpf.lab.crowd import Address, Client, Crowd, Outcome
from kpf.lab.machine import CallFailedError, Machine

QUESTION = b"still here\n"
TIMEOUT_S = 10.0
# nobody forgets a load for longer than that
LONGEST_S = 120.0

Order = Literal["still", "go on", "stop"]


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for. `kept`: connections that are opened first and kept, `kept_at` only those to these backends.

    `asks_per_s`: how often one of the kept connections asks, all together. The backends are of mode "greet".
    """

    target: Address
    new_per_s: float
    kept: int
    asks_per_s: float
    kept_at: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What became of it: each new connection, each question on a kept one, and how many each backend had of those."""

    new: list[Outcome]
    asked: list[Outcome]
    kept: Mapping[str, int]


class UnderLoad(Beside):
    """The load runs on a machine while the context is open; it has begun, with all kept connections open.

    What is asked of it raises `CallFailedError` if it has died, or does not answer in time.
    """

    def __init__(self, machine: Machine, load: Load) -> None:
        super().__init__(machine, _bear, load, answer_s=TIMEOUT_S * 3)
        try:
            self._receive()
        except CallFailedError:
            self.close()
            raise

    @contextmanager
    def still(self) -> Iterator[None]:
        """While this context is open nothing is under way: no new connection, no question."""
        self._order("still")
        self._receive()
        yield
        self._order("go on")

    def stop(self) -> Report:
        """End it: what is under way is waited for, and each kept connection asks once more."""
        self._order("stop")
        return Report(*self._receive())


def _bear(connection: Connection) -> None:
    """The one load that comes over the connection, until it is told to stop."""
    load: Load = connection.recv()
    crowd = Crowd(TIMEOUT_S)
    idle = deque(_kept(crowd, load))
    kept = frozenset(idle)
    kept_by = dict(Counter(client.outcome().name for client in idle))
    connection.send("begun")
    new, asked = [], []
    per_s = load.new_per_s + load.asks_per_s
    until_s = time.monotonic() + LONGEST_S
    order: Order = "go on"
    while order != "stop":
        clients = _in_turn(connection, load, idle, until_s)
        for client in crowd.run(clients, at_once=int(per_s * LONGEST_S), pause_s=1 / per_s):
            if client not in kept:
                new.append(client.close())
                continue
            asked.append(client.outcome())
            if client.error:
                client.close()
            else:
                idle.append(client)
        order = connection.recv()
        if order == "still":
            connection.send("still")
            order = connection.recv()
    once_more = (_ask(client) for client in tuple(idle))
    asked += [client.close() for client in crowd.run(once_more, at_once=len(kept) + 1)]
    connection.send((new, asked, kept_by))


def _kept(crowd: Crowd, load: Load) -> Iterator[Client]:
    for client in crowd.run((Client(load.target) for _ in range(load.kept)), at_once=1):
        if load.kept_at and client.outcome().name not in load.kept_at:
            client.close()
        else:
            yield client


def _in_turn(connection: Connection, load: Load, idle: deque[Client], until_s: float) -> Iterator[Client]:
    """New connections and questions in the proportion of their rates, until somebody says something."""
    share = load.asks_per_s / (load.new_per_s + load.asks_per_s)
    due = 0.0
    while not connection.poll() and time.monotonic() < until_s:
        due += share
        if due >= 1 and idle:
            due -= 1
            yield _ask(idle.popleft())
        else:
            yield Client(load.target)


def _ask(client: Client) -> Client:
    client.ask(QUESTION)
    return client
