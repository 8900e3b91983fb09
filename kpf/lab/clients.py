"""Clients of the lab: functions to be run on a machine (`Machine.call`), each bounded in number and in time.

A client connects, and reads one line: who answers.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from statistics import median
from typing import Literal

from kpf.lab.crowd import Address, Client, Crowd, Outcome

__all__ = [
    "Address",
    "Outcome",
    "alternate",
    "connect",
    "each",
    "failures",
    "hold",
    "median_first_byte_ms",
    "names",
    "steady",
]

EVERYWHERE = ("",)


def names(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many connections each backend answered, in the order of their names; failures under their error."""
    return dict(sorted(Counter(outcome.name or outcome.error for outcome in outcomes).items()))


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that nobody has answered, in their order."""
    return [outcome for outcome in outcomes if outcome.error]


def median_first_byte_ms(outcomes: Iterable[Outcome]) -> float:
    """Of those that were answered. Raises `StatisticsError`, a ValueError, if none was."""
    return median(outcome.first_byte_s for outcome in outcomes if not outcome.error) * 1000


def connect(
    target: Address,
    count: int = 1,
    *,
    sources: Sequence[str] = EVERYWHERE,
    at_once: int = 1,
    timeout_s: float = 10.0,
) -> list[Outcome]:
    """`count` connections, at most `at_once` under way, each closed when it has its answer; sources take turns."""
    clients = (Client(target, source) for source in _in_turn(sources, count))
    crowd = Crowd(timeout_s)
    return [client.close() for client in crowd.run(clients, at_once=at_once)]


def alternate(targets: Sequence[Address], count: int, *, timeout_s: float = 10.0) -> list[list[Outcome]]:
    """`count` connections to each of the targets, one after another in turn: what disturbs one, disturbs all."""
    clients = (Client(target) for _ in range(count) for target in targets)
    outcomes = [client.close() for client in Crowd(timeout_s).run(clients, at_once=1)]
    return [outcomes[place :: len(targets)] for place in range(len(targets))]


def each(
    targets: Sequence[Address], *, source: str = "", source_port: int = 0, timeout_s: float = 10.0
) -> dict[Address, Outcome]:
    """One connection to each of the targets, all at once; from one source port if it is given."""
    clients = {target: Client(target, source, source_port=source_port) for target in targets}
    for _ in Crowd(timeout_s).run(iter(clients.values()), at_once=len(targets)):
        pass
    return {target: client.close() for target, client in clients.items()}


def steady(
    target: Address,
    rate_per_s: float,
    duration_s: float,
    *,
    sources: Sequence[str] = EVERYWHERE,
    timeout_s: float = 10.0,
) -> list[Outcome]:
    """New connections at a rate, for a time, whatever becomes of them."""
    count = int(rate_per_s * duration_s)
    clients = (Client(target, source) for source in _in_turn(sources, count))
    crowd = Crowd(timeout_s)
    return [client.close() for client in crowd.run(clients, at_once=count, pause_s=1 / rate_per_s)]


def hold(
    target: Address,
    count: int,
    *,
    sources: Sequence[str] = EVERYWHERE,
    at_once: int = 200,
    timeout_s: float = 10.0,
) -> Generator[list[Outcome], Literal["ping", "close"], None]:
    """Open that many connections and keep them; to be used with `Machine.converse`.

    At "ping" each sends a line, which a "greet" server sends back, and the outcomes are those of this exchange.
    At "close" all are closed.
    """
    crowd = Crowd(timeout_s)
    clients = list(crowd.run((Client(target, source) for source in _in_turn(sources, count)), at_once=at_once))
    outcomes = [client.outcome() for client in clients]
    while (yield outcomes) == "ping":
        outcomes = [client.outcome() for client in crowd.run((_again(client) for client in clients), at_once=at_once)]
    yield [client.close() for client in clients]


def _in_turn(sources: Sequence[str], count: int) -> Iterator[str]:
    return (sources[number % len(sources)] for number in range(count))


def _again(client: Client) -> Client:
    client.ask(b"still here\n")
    return client
