"""What does a worker alone cost, and is it less than what another checkout's costs?

    python -m perf.worker [--against DIR]

A worker process relays between 127.0.0.1 and 127.0.0.9 in a network namespace of its own: no master, no nftables, no
conntrack. So what differs is the relay's own work, and that is what this is for: to compare a change with the checkout
that it began from, and both with HAProxy, which is added if it is installed. All are there all the time and
take short turns, so that what disturbs one disturbs the others; a ratio is of turns that lay side by side. CPU is user
and system time of the process.

What limits the answer: on loopback the kernel's part is smaller than on a node, so ratios are larger; what a node sees
is `make perf`. The other checkout must have the same layout of shared memory and the same messages.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from rich import box
from rich.console import Console
from rich.table import Table

from kpf.lab import interrupts, namespace
from kpf.lab.hosts import set_sysctl
from kpf.lab.machine import Machine
from kpf.net import channel, sockets
from kpf.net.messages import Configure, Listen
from kpf.shm.directory import Directory
from kpf.shm.layout import Address as Member
from kpf.shm.region import Region
from perf import options
from perf.cpu import Cpu, Meter
from perf.load import kept, short
from perf.load.result import Address, Result
from perf.own import backends
from perf.peers.subjects.base import Running, Site, Subject
from perf.peers.subjects.haproxy import HAPROXY, haproxy

NODE = "127.0.0.1"
PODS = (("127.0.0.9", 18501), ("127.0.0.9", 18502))
HAPROXY_PORT = 18600
# kpf and others close first towards backends: TIME_WAIT would run out of ports
SYSCTLS = {"net.ipv4.tcp_tw_reuse": "1", "net.ipv4.ip_local_port_range": "20000 65000"}
AT_ONCE = 16
KEPT_ALIVE = 64
OURSELVES = "kpf"
HERE = Path(__file__).parents[1]

Load = Callable[[Address], Result]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a subject has used for so many connections or requests."""

    units: int
    used: Cpu

    @property
    def cost_us(self) -> float:
        return self.used.total_s / self.units * 1e6


@contextmanager
def worker(checkout: Path) -> Iterator[Running]:
    """A worker of this checkout, behind a listener of ours. Raises `EOFError` if it ends instead of beginning."""
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(1)
    slot = directory.claim(b"")
    members = [Member(b"\0" * 10 + b"\xff\xff" + socket.inet_aton(ip), port) for ip, port in PODS]
    directory.set_members(slot, members, affinity_timeout_ms=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, sockets.listening_socket(NODE, 0, backlog=4096) as listener:
        command = [sys.executable, "-m", "kpf.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=checkout, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        try:
            channel.send(ours, Configure(0, 0, 1, os.getuid(), os.getgid(), 5.0), [region.descriptor])
            # that it is ready, and that it is configured
            channel.receive(ours)
            channel.receive(ours)
            channel.send(ours, Listen(1, (slot,)), [listener.fileno()])
            channel.receive(ours)
            yield Running(listener.getsockname(), {"worker": process.pid}, "", "")
        finally:
            process.kill()
            process.wait()


def loads(seconds: float) -> dict[str, Load]:
    """What is asked of every subject in its turn."""
    connections = partial(short.connections, seconds=seconds, at_once=AT_ONCE)
    return {
        "connection, closed by the server": partial(connections, closes="server"),
        "connection, closed by the client": partial(connections, closes="client"),
        "request on a kept connection": partial(kept.requests, seconds=seconds, connections=KEPT_ALIVE),
    }


def turn(subject: Running, meter: Meter, load: Load) -> Turn:
    """Raises `RuntimeError` if there were errors."""
    before = meter.read()
    result = load(subject.target)
    if result.errors or not result.units:
        raise RuntimeError(f"errors under load: {result.errors}")
    # what the clients are done with may not be over yet
    time.sleep(0.02)
    return Turn(result.units, meter.read() - before)


def measure(subjects: dict[str, Running], load: Load, rounds: int) -> dict[str, list[Turn]]:
    """The turns of each subject, but for the first, which warms up."""
    meters = {name: Meter(subject.pids.values()) for name, subject in subjects.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        # nobody always comes after the same other one
        for name in Random(number).sample(list(subjects), len(subjects)):
            turns[name].append(turn(subjects[name], meters[name], load))
    return {name: of_one[1:] for name, of_one in turns.items()}


def add_rows(table: Table, what: str, turns: dict[str, list[Turn]]) -> None:
    """A line for each subject: medians, and of the user part the mean, for the kernel samples it."""
    for name, of_one in turns.items():
        user_us = sum(one.used.user_s for one in of_one) / sum(one.units for one in of_one) * 1e6
        ratios = [
            f"{statistics.median(one.cost_us / two.cost_us for one, two in zip(of_one, turns[peer], strict=True)):.3f}"
            for peer in turns
            if peer != OURSELVES
        ]
        table.add_row(what, name, f"{statistics.median(one.cost_us for one in of_one):.1f}", f"{user_us:.1f}", *ratios)
    table.add_section()


def main() -> int:
    """Measure and print; 1 if it could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.number(parser, "--rounds", int, 1, 1000, 20, "rounds that count; one before them warms up")
    options.number(parser, "--seconds", float, 0.05, 60, 0.3, "how long a turn lasts, in seconds")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, whose worker is measured too")
    arguments = parser.parse_args()
    if arguments.against and not (arguments.against / "kpf" / "worker").is_dir():
        parser.error(f"--against: {arguments.against} is no checkout of kpf")
    interrupts.install()
    try:
        namespace.enter()
        for name, value in SYSCTLS.items():
            set_sysctl(name, value)
        with ExitStack() as stack:
            _compare(_subjects(stack, arguments.against), arguments.rounds, arguments.seconds)
    except (OSError, EOFError, RuntimeError) as error:
        print(f"python -m perf.worker: {str(error) or 'a worker ended instead of beginning'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        return interrupts.exit_status(interrupt)
    return 0


def _subjects(stack: ExitStack, against: Path | None) -> dict[str, Running]:
    node = Machine()
    stack.enter_context(backends(node, PODS))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpf-perf-")))
    subjects = {OURSELVES: stack.enter_context(worker(HERE))}
    if against:
        subjects["other"] = stack.enter_context(worker(against))
    peer = Subject("haproxy", "HAProxy", haproxy("haproxy", HAPROXY_PORT), (HAPROXY,))
    if peer.missing():
        print("HAProxy is not installed, so not measured: apt install haproxy", file=sys.stderr)
    else:
        subjects["haproxy"] = stack.enter_context(peer.start(Site(node, NODE, directory, PODS)))
    return subjects


def _compare(subjects: dict[str, Running], rounds: int, seconds: float) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    peers = [f"to {name}" for name in subjects if name != OURSELVES]
    kind = box.ROUNDED if console.is_terminal else box.ASCII
    table = Table("a ...", "through", "CPU, µs", "user, µs", *peers, box=kind)
    for what, load in loads(seconds).items():
        add_rows(table, what, measure(subjects, load, rounds))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
