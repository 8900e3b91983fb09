"""A steady load of datagrams on flows of fixed source ports, from a process of its own, until it is told to stop.

The servers are of mode "datagrams". What is lost is known, and on which flow.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Pipe
from typing import Literal, Self

from kpf.lab.crowd import Address
from kpf.lab.machine import CallFailedError, Machine

ANSWER_S = 10.0

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


class UnderFlows:
    """The load runs on a machine while the context is open. Raises `CallFailedError` if it has died."""

    def __init__(self, machine: Machine, flows: Flows) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = machine.start(
                [sys.executable, "-m", "kpf.lab.senders", str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._connection.send(flows)

    def report(self) -> Mapping[int, Flow]:
        """By source port, so far; what is under way counts as lost."""
        return self._ask("report")

    def stop(self) -> Mapping[int, Flow]:
        """By source port, after a last wait for answers."""
        return self._ask("stop")

    def _ask(self, order: Order) -> Mapping[int, Flow]:
        try:
            self._connection.send(order)
            if not self._connection.poll(ANSWER_S):
                raise CallFailedError(f"the flows did not answer within {ANSWER_S:g} s")
            answer: dict[int, Flow] = self._connection.recv()
        except (BrokenPipeError, EOFError):
            raise CallFailedError(f"the flows ended with status {self._process.wait()}") from None
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
