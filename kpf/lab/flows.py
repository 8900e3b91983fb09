"""A steady load of datagrams on flows of fixed source ports, from a process of its own, until it is told to stop.

The servers are of mode "datagrams". What is lost is known, and on which flow.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kpf.lab.beside import Beside
from kpf.lab.crowd import Address
from kpf.lab.machine import Machine

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


class UnderFlows(Beside):
    """The load runs on a machine while the context is open. Raises `CallFailedError` if it has died."""

    def __init__(self, machine: Machine, flows: Flows) -> None:
        super().__init__(machine, "kpf.lab.senders", flows, answer_s=ANSWER_S)

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
