"""What a worker's loop costs, counted in what does not depend on the machine: system calls and function calls.

The worker is a real process that moves only when it is told to (`tests.syscalls`), so a conversation always costs the
same. A count that grows fails, and so does one that falls: whoever makes the worker cheaper writes the budget anew.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import budget
from tests.stage import ANSWER, OURSELVES, REQUEST, ProfiledNode, Stage, close_all, is_readable, own_namespace, staged
from tests.worker_driver import Node

SCENARIOS = (
    "1 connection, the server ends it",
    "1 connection, the client ends it",
    "8 connections at once, the servers end them",
    "8 connections at once, the clients end them",
    "the second request on a connection",
    "a later request on a connection",
    "8 later requests at once, on as many connections",
)
# In columns, by scenario: from the clients' connect() to the last close(), or from a request to the end of its answer.
# Function calls are those that kpf's own code makes.
# fmt: off
SYSTEM_CALLS = {
    #                 1 connection     8 connections    requests
    #                 server, client   servers, clients  2nd, later, 8 later
    "accept4":       (     1,      1,        9,       9,   0,     0,       0),
    "getsockname":   (     1,      1,        8,       8,   0,     0,       0),
    "fcntl":         (     2,      2,        8,       8,   0,     0,       0),
    "socket":        (     1,      1,        8,       8,   0,     0,       0),
    "setsockopt":    (     0,      0,        0,       0,   1,     0,       0),
    "connect":       (     1,      1,        8,       8,   0,     0,       0),
    "epoll_ctl":     (     2,      2,       16,      16,   0,     0,       0),
    "epoll_wait":    (     3,      4,        6,       7,   2,     2,       2),
    "recvfrom":      (     3,      4,       24,      32,   3,     2,      16),
    "sendto":        (     2,      2,       16,      16,   2,     2,      16),
    "shutdown":      (     1,      1,        8,       8,   0,     0,       0),
    "close":         (     2,      2,       16,      16,   0,     0,       0),
}
FUNCTION_CALLS = {
    "of Python":     (    27,     27,      151,     144,   6,     2,       2),
    "of C":          (    41,     44,      233,     243,  11,    10,      52),
}
# fmt: on
# at most, and not below half of it in all: how much the kernel hands over at once is its own affair
BULK_CALLS_PER_MIB = {"splice": 3.6, "epoll_wait": 0.6, "others": 0.3}
IDLE_WAITS_PER_S = 2

# the least of them counts: now and then the kernel delivers a packet late, and the worker has one more turn
ROUNDS = 5
MIB = 1 << 20
BULK_MIB = 64
# of Linux; a machine may have others, and bulk depends on them
BUFFERS = {"tcp_rmem": "4096 131072 6291456", "tcp_wmem": "4096 16384 4194304"}


def servers_end(stage: Stage, number: int) -> Counter[str]:
    with stage.counting() as cost:
        clients = stage.begin(number)
        backends = stage.served(clients)
        for backend in backends:
            backend.sendall(ANSWER)
        close_all(backends)
        stage.passed_on(clients, ANSWER)
        stage.passed_on(clients, b"")
        stage.end()
    return cost


def clients_end(stage: Stage, number: int) -> Counter[str]:
    with stage.counting() as cost:
        clients = stage.begin(number)
        backends = stage.served(clients)
        for backend in backends:
            backend.sendall(ANSWER)
        stage.passed_on(clients, ANSWER)
        close_all(clients)
        stage.passed_on(backends, b"")
        stage.end()
    return cost


def exchange(stage: Stage, clients: list[socket.socket], backends: list[socket.socket]) -> None:
    for client in clients:
        client.sendall(REQUEST)
    stage.passed_on(backends, REQUEST)
    for backend in backends:
        backend.sendall(ANSWER)
    stage.passed_on(clients, ANSWER)


def requests(stage: Stage, number: int, *, before: int = 2) -> Counter[str]:
    """One on each connection, after so many others."""
    clients = stage.begin(number)
    backends = stage.served(clients)
    for _ in range(before - 1):
        exchange(stage, clients, backends)
    with stage.counting() as cost:
        exchange(stage, clients, backends)
    stage.end()
    return cost


def second_requests(stage: Stage, number: int) -> Counter[str]:
    return requests(stage, number, before=1)


def bulk(stage: Stage) -> Counter[str]:
    """A client that sends as much as there is room for, and a backend that reads all there is, in turns."""
    clients = stage.begin(1)
    (client,), (backend,) = clients, stage.served(clients)
    left, data, got, buffer = BULK_MIB * MIB, memoryview(bytes(MIB)), 0, bytearray(MIB)
    client.setblocking(False)
    backend.setblocking(False)
    with stage.counting() as cost:
        while got < BULK_MIB * MIB:
            with suppress(BlockingIOError):
                while left:
                    left -= client.send(data[:left])
            stage.run(lambda: is_readable(backend))
            with suppress(BlockingIOError):
                while more := backend.recv_into(buffer):
                    got += more
    stage.end()
    return cost


PLAYS: dict[str, tuple[Callable[[Stage, int], Counter[str]], int]] = dict(
    zip(
        SCENARIOS,
        (
            *((servers_end, 1), (clients_end, 1), (servers_end, 8), (clients_end, 8)),
            *((second_requests, 1), (requests, 1), (requests, 8)),
        ),
        strict=True,
    )
)


def least_cost(play: Callable[[], Counter[str]]) -> Counter[str]:
    return min((play() for _ in range(ROUNDS)), key=Counter.total)


@pytest.fixture(scope="module", autouse=True)
def buffers() -> Iterator[None]:
    with own_namespace():
        for name, sizes in BUFFERS.items():
            Path(f"/proc/sys/net/ipv4/{name}").write_text(sizes)
        yield


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Counts system calls, by name."""
    with staged(Node(uid=OURSELVES), lambda tracee: tracee.calls.copy()) as made:
        yield made


@pytest.fixture(scope="module")
def profiled_stage() -> Iterator[Stage]:
    """Counts function calls."""
    node = ProfiledNode(uid=OURSELVES)
    with staged(node, lambda _: node.function_calls()) as made:
        yield made


def check(of_what: str, stage: Stage, table: budget.Table, scenario: str) -> None:
    play, number = PLAYS[scenario]
    cost = least_cost(lambda: play(stage, number))
    budget.check(f"{of_what}, {scenario}", table, SCENARIOS.index(scenario), cost)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_system_calls(stage: Stage, scenario: str) -> None:
    check("system calls", stage, SYSTEM_CALLS, scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_function_calls(profiled_stage: Stage, scenario: str) -> None:
    check("function calls", profiled_stage, FUNCTION_CALLS, scenario)


def test_system_calls_of_bulk(stage: Stage) -> None:
    cost = least_cost(lambda: bulk(stage))
    per_mib = {name: cost.pop(name) / BULK_MIB for name in ("splice", "epoll_wait")}
    per_mib["others"] = cost.total() / BULK_MIB
    told = f"a MiB costs {per_mib}, its budget is {BULK_CALLS_PER_MIB}; others are {dict(cost)} of {BULK_MIB} MiB"
    more = [name for name, most in BULK_CALLS_PER_MIB.items() if per_mib[name] > most]
    assert not more, told
    assert sum(per_mib.values()) >= sum(BULK_CALLS_PER_MIB.values()) / 2, f"less, write it into the budget: {told}"


def test_idle_turns(stage: Stage) -> None:
    """With a connection that is idle, too."""
    stage.served(stage.begin(1))
    stage.wait(1)
    begun_s = time.monotonic()
    with stage.counting() as cost:
        stage.wait(IDLE_WAITS_PER_S)
    took_s = time.monotonic() - begun_s
    budget.check("system calls, a second with nothing to do", {"epoll_wait": [IDLE_WAITS_PER_S]}, 0, cost)
    # to the tick of the clock that it waits by
    assert took_s > 0.99, f"it waited {IDLE_WAITS_PER_S} times in {took_s:.3f} s, not in a second"
    stage.end()
