"""What Services that the kernel forwards to cost: changes alone, full syncs, flows, and the kernel's memory."""

import asyncio
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP

import psutil

from kpf.lab.changes import TableChanges
from kpf.lab.daemon import Daemon
from kpf.lab.machine import wait_until
from kpf.nft.kernel import Kernel
from perf.core import Figure
from perf.cpu import Meter
from tests.apiserver import ApiServer
from tests.apiserver.resources import Object

ROUNDS, FULL_SYNCS, FLOWS = 10, 5, 10_000
# longer than a sync is put off after another one
PAUSE_S = 0.15
FIRST_CLIENT_PORT = 1024
ENTRIES, MEMINFO = Path("/proc/sys/net/netfilter/nf_conntrack_count"), Path("/proc/meminfo")
FULL_SYNC = re.compile(r"in (\d+) ms, in full")

Pair = tuple[Object, Object]
"""A Service and its slice."""


class DirectBench:
    """`pairs`: the direct Services of the cluster that the daemon follows."""

    def __init__(self, server: ApiServer, daemon: Daemon, pairs: Sequence[Pair]) -> None:
        self._server, self._daemon = server, daemon
        self._meter = Meter([daemon.pid])
        udp = [pair for pair in pairs if _port(pair[0])["protocol"] == "UDP"]
        self._balanced = [pair for pair in udp if pair[0]["spec"]["sessionAffinity"] == "None"]
        self._with_affinity = [pair for pair in pairs if pair[0]["spec"]["sessionAffinity"] == "ClientIP"]

    def run(self) -> list[Figure]:
        """Leaves the cluster otherwise than it was, and no daemon. Raises TimeoutError."""
        return [
            *self._changes(),
            *self._full_syncs(),
            *self._flows(self._balanced[-1]),
            self._kernel_memory(),
        ]

    def _changes(self) -> list[Figure]:
        """Each of a Service that has not been changed before, so far apart that none waits for another."""
        put, chosen = self._server.put, self._balanced[:ROUNDS]
        figures = [
            self._change("an endpoint replaced", chosen, lambda pair: put(_replaced(pair[1]))),
            self._change("an endpoint more", chosen, lambda pair: put(_one_more(pair[1]))),
            self._change("Service removed", chosen, lambda pair: self._server.delete("Service", *_name(pair[0]))),
            self._change("Service added", chosen, lambda pair: put(pair[0])),
        ]
        with_affinity = self._with_affinity[:ROUNDS]
        return [
            *figures,
            self._change("with affinity, an endpoint replaced", with_affinity, lambda pair: put(_replaced(pair[1]))),
        ]

    def _change(self, what: str, pairs: Sequence[Pair], change: Callable[[Pair], object]) -> Figure:
        time.sleep(PAUSE_S)
        lags_ms, before_s = [], self._meter.read().total_s
        with TableChanges() as table:
            for pair in pairs:
                heard, began_s = table.transactions, time.monotonic()
                change(pair)
                # mypy infers no type for a lambda's default
                wait_until(lambda heard=heard: table.transactions > heard, what=what)  # type: ignore[misc]
                lags_ms.append((table.commits_s[heard] - began_s) * 1000)
                time.sleep(PAUSE_S)
        used_ms = (self._meter.read().total_s - before_s) * 1000 / len(pairs)
        detail = f"median of {len(lags_ms)}, most {max(lags_ms):.1f}; {used_ms:.1f} ms of CPU each"
        return Figure(f"{what}, alone: write to the kernel's word", statistics.median(lags_ms), "ms", detail)

    def _full_syncs(self) -> list[Figure]:
        with longest_answer(self._daemon.control_socket) as idle_ms:
            time.sleep(FULL_SYNCS * PAUSE_S)
        begun = len(self._told())
        with longest_answer(self._daemon.control_socket) as busy_ms:
            for number in range(1, FULL_SYNCS + 1):
                self._daemon.signal(SIGHUP)
                self._daemon.wait_for_log("in full", times=begun + number)
                time.sleep(PAUSE_S)
        took_ms = self._told()[begun:]
        detail = f"median of {len(took_ms)}, most {max(took_ms)}"
        return [
            Figure("full sync (SIGHUP)", statistics.median(took_ms), "ms", detail),
            Figure("full sync: whoever asks the master waits at most", busy_ms(), "ms", f"without {idle_ms():.1f}"),
        ]

    def _told(self) -> list[int]:
        """Milliseconds of each full sync so far, as the log has them."""
        return [int(took_ms) for took_ms in FULL_SYNC.findall(self._daemon.log())]

    def _flows(self, pair: Pair) -> list[Figure]:
        service, pieces = pair
        send_flows(service["spec"]["clusterIP"], int(_port(service)["port"]))
        stale = FLOWS // len(pieces["endpoints"])
        return [
            self._forget("an endpoint replaced", stale, lambda: self._server.put(_replaced(pieces))),
            self._forget("Service removed", FLOWS - stale, lambda: self._server.delete("Service", *_name(service))),
        ]

    def _forget(self, what: str, stale: int, change: Callable[[], object]) -> Figure:
        # connections come and go meanwhile
        left, before_s, began_s = _number(ENTRIES) - stale * 99 // 100, self._meter.read().total_s, time.monotonic()
        with longest_answer(self._daemon.control_socket) as busy_ms:
            change()
            wait_until(lambda: _number(ENTRIES) <= left, what=f"{stale} entries less")
            took_ms = (time.monotonic() - began_s) * 1000
            time.sleep(PAUSE_S)
        used_ms = (self._meter.read().total_s - before_s) * 1000
        detail = f"known to 10 ms; CPU {used_ms:.0f} ms; whoever asks waits {busy_ms():.0f} ms at most"
        return Figure(f"{FLOWS:,} UDP flows, {what}: its {stale:,} entries gone", took_ms, "ms", detail)

    def _kernel_memory(self) -> Figure:
        """What is free when the table has been deleted. Kills the daemon: notifications that it has not read, and
        sockets that are closed meanwhile, would count too."""
        workers = [psutil.Process(pid) for pid in self._daemon.worker_pids()]
        self._daemon.kill()
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers)
        before_kb = _settled_slab_kb()
        asyncio.run(_delete_table())
        freed_mb = (before_kb - _settled_slab_kb()) / 1024
        return Figure(
            "kernel memory of the table", freed_mb, "MB", "slabs that its deletion frees, of the whole machine"
        )


@contextmanager
def longest_answer(control_socket: Path) -> Iterator[Callable[[], float]]:
    """Asks the daemon for nothing, over and over; gives what tells how long the longest answer took, in ms."""
    longest_s, over = 0.0, threading.Event()

    def ask() -> None:
        nonlocal longest_s
        while not over.wait(0.001):
            began_s = time.monotonic()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(control_socket))
                sock.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
                while sock.recv(4096):
                    pass
            longest_s = max(longest_s, time.monotonic() - began_s)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield lambda: longest_s * 1000
    finally:
        over.set()
        asking.join()


def send_flows(address: str, port: int) -> None:
    """One datagram each from so many ports of this node, to a Service whose endpoints do not answer."""
    before = _number(ENTRIES)
    for client in range(FIRST_CLIENT_PORT, FIRST_CLIENT_PORT + FLOWS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", client))
            sock.sendto(b"query", (address, port))
    wait_until(lambda: _number(ENTRIES) >= before + FLOWS, what="an entry for each flow")


async def _delete_table() -> None:
    kernel = Kernel()
    try:
        await kernel.delete()
    finally:
        kernel.close()


def _settled_slab_kb() -> int:
    """The kernel frees a while after it was told to."""
    last_kb = 0
    while True:
        (now_kb,) = (int(line.split()[1]) for line in MEMINFO.read_text().splitlines() if line.startswith("Slab:"))
        if abs(now_kb - last_kb) < 100:
            return now_kb
        last_kb = now_kb
        time.sleep(0.3)


def _number(path: Path) -> int:
    return int(path.read_text())


def _port(service: Object) -> Object:
    port: Object = service["spec"]["ports"][0]
    return port


def _name(value: Object) -> tuple[str, str]:
    return value["metadata"]["namespace"], value["metadata"]["name"]


def _fresh(endpoint_slice: Object) -> Object:
    """An endpoint that the slice has not, at an address that nobody has."""
    last = endpoint_slice["endpoints"][-1]
    return {**last, "addresses": [last["addresses"][0].replace("10.128.", "10.64.").replace("10.129.", "10.65.")]}


def _replaced(endpoint_slice: Object) -> Object:
    return {**endpoint_slice, "endpoints": [*endpoint_slice["endpoints"][:-1], _fresh(endpoint_slice)]}


def _one_more(endpoint_slice: Object) -> Object:
    return {**endpoint_slice, "endpoints": [*endpoint_slice["endpoints"], _fresh(endpoint_slice)]}
