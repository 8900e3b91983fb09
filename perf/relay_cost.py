"""What a worker's relay costs: CPU per short connection and per request, beside other relays in the same run.

    python -m perf.relay_cost [--rounds N] [--other "NAME=COMMAND"]...

Each subject relays from 127.0.0.1 to two backends, with one process of client load and one of backends. Subjects take
short turns (A B A B), so that a machine that becomes slower does so for all. CPU is user + system, from /proc.
COMMAND of another subject may contain {port}, {first} and {second} (the backends' ports); HAProxy is added by itself if
it is installed. How many system calls a worker makes is a matter of `tests/test_perf_guard_worker.py`.
"""

import argparse
import multiprocessing
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kpf.lab import namespace
from kpf.net import channel, sockets
from kpf.net.messages import Configure, Listen
from kpf.shm.directory import Directory
from kpf.shm.layout import Address
from kpf.shm.region import Region

FORK = multiprocessing.get_context("fork")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: relay_cost\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + b"x" * 128
PORTS = (18501, 18502)
NODE = "127.0.0.1"
BACKENDS = "127.0.0.9"
CONCURRENT_SHORT = 16
KEPT_ALIVE = 64


def serve_backends() -> None:
    """Answers every request with 128 bytes; closes when the client does."""
    poll = select.epoll()
    listeners = {}
    for port in PORTS:
        listener = socket.create_server((BACKENDS, port), backlog=4096)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listeners[listener.fileno()] = listener
        poll.register(listener, select.EPOLLIN)
    open_: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in listeners:
                connection, _ = listeners[descriptor].accept()
                open_[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = open_[descriptor]
            try:
                data = connection.recv(65536)
                if data:
                    connection.send(ANSWER)
                    continue
            except OSError:
                pass
            del open_[descriptor]
            connection.close()


def short_connections(port: int, seconds: float) -> int:
    """Connect, one request, one answer, close; some at a time. Returns how many."""
    poll, done = select.epoll(), 0
    clients: dict[int, socket.socket] = {}

    def begin() -> None:
        client = socket.socket()
        client.connect((NODE, port))
        client.send(REQUEST)
        clients[client.fileno()] = client
        poll.register(client, select.EPOLLIN)

    for _ in range(CONCURRENT_SHORT):
        begin()
    deadline_s = time.monotonic() + seconds
    while clients:
        for descriptor, _ in poll.poll():
            client = clients.pop(descriptor)
            if client.recv(65536) != ANSWER:
                raise RuntimeError("a short connection got no answer")
            client.close()
            done += 1
            if time.monotonic() < deadline_s:
                begin()
    return done


def requests(port: int, seconds: float) -> int:
    """Requests on connections that are kept alive. Returns how many."""
    poll, done = select.epoll(), 0
    clients = {}
    for _ in range(KEPT_ALIVE):
        client = socket.create_connection((NODE, port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clients[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
        client.send(REQUEST)
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        for descriptor, _ in poll.poll():
            client = clients[descriptor]
            if client.recv(65536) != ANSWER:
                raise RuntimeError("a request got no answer")
            client.send(REQUEST)
            done += 1
    for client in clients.values():
        client.close()
    return done


LOADS: dict[str, Callable[[int, float], int]] = {"short connection": short_connections, "request": requests}


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of these single-threaded processes so far, to the nanosecond."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def user_share(pids: list[int]) -> float:
    """How much of their CPU was spent in user space, to the clock tick."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    user, system = (sum(int(row[column]) for row in fields) for column in (11, 12))
    return user / max(user + system, 1)


@contextmanager
def kpf_worker() -> Iterator[tuple[int, list[int]]]:
    """One worker as a subject: its port and its pid."""
    region = Region.create(1)
    directory = Directory(region)
    slot = directory.claim()
    packed = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(BACKENDS)
    directory.set_members(slot, [Address(packed, port) for port in PORTS], affinity_timeout_ms=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, sockets.listening_socket(NODE, 0, backlog=4096) as listener:
        command = [sys.executable, "-m", "kpf.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        try:
            channel.send(ours, Configure(0, 0, 1, 65534, 65534, 5.0), [region.descriptor])
            channel.receive(ours)
            channel.receive(ours)
            channel.send(ours, Listen(1, (slot,)), [listener.fileno()])
            channel.receive(ours)
            yield listener.getsockname()[1], [process.pid]
        finally:
            process.kill()
            process.wait()


@contextmanager
def other(command: str, port: int) -> Iterator[tuple[int, list[int]]]:
    """Another relay as a subject."""
    words = command.format(port=port, first=PORTS[0], second=PORTS[1]).split()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex((NODE, port)) == 0:
                    break
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield port, [process.pid, *map(int, children)]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


HAPROXY = f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend f
    bind {NODE}:%d backlog 4096
    default_backend b
backend b
    balance roundrobin
    server s1 {BACKENDS}:{PORTS[0]}
    server s2 {BACKENDS}:{PORTS[1]}
"""


def measure(pids: list[int], load: Callable[[int, float], int], port: int, seconds: float) -> float:
    """Microseconds of CPU per piece of load."""
    before = cpu_s(pids)
    done = load(port, seconds)
    time.sleep(0.02)
    return (cpu_s(pids) - before) / done * 1e6


def compare(others: dict[str, str], rounds: int, seconds: float) -> None:
    """All subjects are there all the time and take short turns: what disturbs one disturbs the others."""
    figures: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        subjects = {"kpf": stack.enter_context(kpf_worker())}
        for index, (name, command) in enumerate(others.items(), 1):
            subjects[name] = stack.enter_context(other(command, 18600 + index))
        for what, load in LOADS.items():
            for number in range(rounds + 1):
                for name, (port, pids) in subjects.items():
                    cost = measure(pids, load, port, seconds)
                    if number:
                        figures.setdefault((what, name), []).append(cost)
        shares = {name: user_share(pids) for name, (_, pids) in subjects.items()}
    print(f"{'microseconds of CPU per':24} {'':12} {'median':>7} {'best quarter':>13}")
    for (what, name), costs in figures.items():
        best = sorted(costs)[: max(len(costs) // 4, 1)]
        print(f"{what:24} {name:12} {statistics.median(costs):7.1f} {statistics.mean(best):13.1f}")
    print("in user space:", ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND")
    options = parser.parse_args()
    namespace.enter()
    # kpf and others close first towards backends: TIME_WAIT would run out of ports
    Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 65000")
    backends = FORK.Process(target=serve_backends, daemon=True)
    backends.start()
    others = dict(one.split("=", 1) for one in options.other)
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as configuration:
        if shutil.which("haproxy"):
            configuration.write(HAPROXY % (18600 + len(others) + 1))
            configuration.flush()
            others["haproxy"] = f"haproxy -f {configuration.name}"
        try:
            compare(others, options.rounds, options.seconds)
        finally:
            backends.kill()


if __name__ == "__main__":
    main()
