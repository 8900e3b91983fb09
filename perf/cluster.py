"""`python -m perf.cluster`: what the master costs at the size of a large cluster, against the tests' API server.

In a network namespace of its own: a real `kpf run` follows an API server over TLS, which is another process and whose
CPU is told apart. Every change is a slice: nine in ten swap one endpoint for another, one in ten makes all endpoints of
a Service unready, or ready again. The latter change the kernel's table, and they are what the lag is taken of: from the
moment that the server writes the bytes to the moment that the kernel tells of the new element. Endpoints that are
swapped in the same sync are in effect before that (workers take them from shared memory).

A second cluster is as large, and the kernel forwards to some of its Services by itself.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import psutil

from kpf.lab.changes import Change, TableChanges
from kpf.lab.daemon import Daemon
from kpf.lab.machine import wait_until
from kpf.lab.topology import Lab
from perf.core import Figure, tell
from perf.direct import DirectBench
from perf.mixture import forwarded, mixed
from tests.apiserver import ApiServer, Sent
from tests.apiserver.objects import node

NODE = "perf-node"
FIRST_CLUSTER_IP = IPv4Address("10.96.0.1")
SETTLE_S = 2.0
PATTERN = ("swap",) * 9 + ("flip",)
ALONE_S, ALONE_RATE = 5.0, 2.0
# an endpoint is ready again, or no more: the element comes that says so
SETS_OF_CHANGE = {True: {"proxy-ip4", "direct-ip4"}, False: {"verdict-ip4"}}


class Bench:
    """`services` with so many endpoints each, `direct` of which the kernel forwards to; then `rate` changes a second
    for `duration_s`."""

    def __init__(self, services: int, endpoints: int, rate: float, duration_s: float, *, direct: int = 0) -> None:
        self._services, self._endpoints, self._direct = services, endpoints, direct
        self._rate, self._duration_s = rate, duration_s

    def run(self, workers: int) -> list[Figure]:
        """Raises `DaemonFailedError`, TimeoutError."""
        with Lab() as lab, ApiServer() as server, tempfile.TemporaryDirectory(prefix="kpf-perf-") as directory:
            objects = list(mixed(self._services, self._endpoints, self._direct, NODE))
            server.put_all(objects)
            server.put(node(NODE))
            kubeconfig = server.kubeconfig(Path(directory) / "kubeconfig", token=server.token)
            served_s = server.cpu_s()
            args = ("--kubeconfig", str(kubeconfig), "--hostname-override", NODE)
            with Daemon(lab.node, Path(directory), workers=workers, args=args) as daemon:
                master = psutil.Process(daemon.pid)
                figures = self._first_sync(daemon, master, server.cpu_s() - served_s)
                figures += [*self._changes(server, master), *self._memory(daemon, master)]
                figures.append(self._alone(server))
                if self._direct:
                    figures += DirectBench(server, daemon, forwarded(objects)).run()
        prefix = f"{self._direct:,} direct: " if self._direct else ""
        return [replace(figure, what=prefix + figure.what) for figure in figures]

    def _first_sync(self, daemon: Daemon, master: psutil.Process, served_s: float) -> list[Figure]:
        what = f"{self._services:,} Services x {self._endpoints} endpoints"
        return [
            Figure(f"{what}: start to READY=1", daemon.ready_s, "s"),
            Figure(f"{what}: CPU of the master until then", cpu_s(master), "s", f"API server {served_s:.2f} s"),
            *self._memory(daemon, master),
        ]

    def _memory(self, daemon: Daemon, master: psutil.Process) -> list[Figure]:
        worker = psutil.Process(daemon.worker_pids()[0]).memory_full_info()
        memory = master.memory_full_info()
        return [
            Figure("memory of the master", memory.rss / 2**20, "MB", f"resident; private {memory.uss / 2**20:.1f}"),
            Figure("memory of a worker", worker.uss / 2**20, "MB", f"private; resident {worker.rss / 2**20:.1f}"),
        ]

    def _alone(self, server: ApiServer) -> Figure:
        """Changes so far apart that none waits for another."""
        with TableChanges() as table:
            self._drive(server, ALONE_S, ALONE_RATE, ("flip",))
        lags_ms = sorted(lag * 1000 for lag in lags(server.sent(), table.changes))
        detail = f"median of {len(lags_ms)}, most {lags_ms[-1]:.1f}"
        return Figure("a change alone: lag to the kernel", statistics.median(lags_ms), "ms", detail)

    def _drive(self, server: ApiServer, duration_s: float, rate: float, pattern: Sequence[str]) -> None:
        server.drive(duration_s, rate, pattern)
        wait_until(lambda: not server.is_driving(), timeout_s=2 * duration_s + 10, what="the end of the load")
        time.sleep(SETTLE_S)

    def _changes(self, server: ApiServer, master: psutil.Process) -> list[Figure]:
        time.sleep(SETTLE_S)
        before_s, served_s, began_s = cpu_s(master), server.cpu_s(), time.monotonic()
        with TableChanges() as table:
            self._drive(server, self._duration_s, self._rate, PATTERN)
        took_s = time.monotonic() - began_s
        used_s, served_s = cpu_s(master) - before_s, server.cpu_s() - served_s
        sent = server.sent()
        lags_ms = sorted(lag * 1000 for lag in lags(sent, table.changes))
        flips = sum(one.change == "flip" for one in sent)
        what = f"{self._rate:g} slices a second for {self._duration_s:g} s"
        detail = f"{len(lags_ms)} of {flips} flips in {len(sent)} changes; {table.transactions} transactions"
        return [
            Figure(f"{what}: lag to the kernel, p50", statistics.median(lags_ms), "ms", detail),
            Figure(
                f"{what}: lag to the kernel, p99", lags_ms[int(len(lags_ms) * 0.99)], "ms", f"most {lags_ms[-1]:.0f}"
            ),
            Figure(
                f"{what}: CPU of the master",
                100 * used_s / took_s,
                "% of a CPU",
                f"{1000 * used_s / max(len(sent), 1):.2f} ms a change; API server {100 * served_s / took_s:.1f} %",
            ),
        ]


def cpu_s(process: psutil.Process) -> float:
    """Of the process alone."""
    times = process.cpu_times()
    return float(times.user + times.system)


def lags(sent: Sequence[Sent], changes: Sequence[Change]) -> list[float]:
    """Seconds from each flip to the element that says so, in order. One that another overtook has none."""
    heard: dict[tuple[str, bool], list[float]] = {}
    for change in changes:
        for is_ready, names in SETS_OF_CHANGE.items():
            if change.is_new and change.set_name in names:
                heard.setdefault((service_at(change.key), is_ready), []).append(change.time_s)
    found = []
    for one in sent:
        if one.change == "flip":
            times = heard.get((one.name, bool(one.came)), [])
            later = [time_s for time_s in times if time_s >= one.time_s]
            if later:
                found.append(later[0] - one.time_s)
    return found


def service_at(key: bytes) -> str:
    """The slice of the Service whose ClusterIP begins this key, as `many` makes them."""
    return f"default/service-{int(ip_address(key[:4])) - int(FIRST_CLUSTER_IP)}-1"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf.cluster", description=__doc__.split("\n\n")[0])
    defaults: Mapping[str, float] = {
        "services": 5000,
        "direct": 1000,
        "endpoints": 10,
        "rate": 100,
        "duration": 30,
        "workers": 2,
    }
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, metavar="N", help=f"default: {value}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    numbers = given.services, given.endpoints, given.rate, given.duration
    benches = [Bench(*numbers), *([Bench(*numbers, direct=given.direct)] if given.direct else [])]
    return tell("perf.cluster", lambda: [one for bench in benches for one in bench.run(given.workers)], given.json)


if __name__ == "__main__":
    sys.exit(main())
