"""`python -m perf.core`: what kpf costs on this machine beside the load: sync times and memory.

All in a network namespace of its own, with the lab's hosts, backends and clients, which are other processes and not
counted. The lab sets net.ipv4.tcp_tw_reuse=1 and ip_local_port_range=32768-65535, as the README recommends to nodes.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich import box
from rich.table import Table

from kpf.lab import interrupts, namespace
from kpf.lab.backends import Backends
from kpf.lab.daemon import Daemon, DaemonFailedError
from kpf.lab.manifests import Manifests, Object, endpoint_slice, service
from kpf.lab.topology import Lab, pod_address
from perf import report

SERVICES = 500
CHANGES = 9
PORT = 8080


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `detail` says what it is a summary of."""

    what: str
    value: float
    unit: str
    detail: str = ""


def processes(daemon: Daemon) -> list[psutil.Process]:
    """The master and its workers."""
    return [psutil.Process(pid) for pid in (daemon.pid, *daemon.worker_pids())]


def many_services(pod: str) -> list[list[Object]]:
    """500 services of one endpoint each."""
    return [_one_service(number, pod) for number in range(SERVICES)]


def _one_service(number: int, pod: str) -> list[Object]:
    name, address = f"service-{number}", f"10.97.{number // 250}.{number % 250 + 1}"
    return [service(name, cluster_ips=[address]), endpoint_slice(name, [pod], port=PORT)]


class Bench:
    """The lab and what is measured in it; each method gives its figures."""

    def __init__(self, lab: Lab, backends: Backends) -> None:
        self._lab = lab
        self._backends = backends
        self._pods = [pod_address(number) for number in range(1, 9)]
        lab.pods.add_addresses(self._pods)

    @contextmanager
    def _daemon(self, files: dict[str, list[Object]]) -> Iterator[tuple[Daemon, Manifests]]:
        with tempfile.TemporaryDirectory(prefix="kpf-perf-") as directory:
            manifests = Manifests(Path(directory) / "manifests")
            for name, objects in files.items():
                manifests.write(name, *objects)
            with Daemon(self._lab.node, Path(directory), manifests=manifests.directory) as daemon:
                yield daemon, manifests

    def sync_of_files(self) -> list[Figure]:
        files = {f"service-{number}.yaml": objects for number, objects in enumerate(many_services(self._pods[0]))}
        return self._sync("one file each", files, lambda number, pod: ("service-0.yaml", _one_service(number, pod)))

    def sync_of_a_list(self) -> list[Figure]:
        def everything(pod: str) -> list[Object]:
            items = [one for objects in many_services(self._pods[0])[1:] for one in objects]
            return [{"apiVersion": "v1", "kind": "List", "items": [*_one_service(0, pod), *items]}]

        return self._sync(
            "one List", {"all.yaml": everything(self._pods[0])}, lambda _, pod: ("all.yaml", everything(pod))
        )

    def _sync(
        self, how: str, files: dict[str, list[Object]], changed: Callable[[int, str], tuple[str, list[Object]]]
    ) -> list[Figure]:
        for pod in self._pods[:2]:
            self._backends.open(pod, PORT)
        with self._daemon(files) as (daemon, manifests):
            times_ms = []
            for round_ in range(CHANGES):
                pod = self._pods[(round_ + 1) % 2]
                manifests.write(".prepared", *changed(0, pod)[1])
                times_ms.append(self._until_in_effect(manifests.directory, changed(0, pod)[0], pod) * 1000)
                # a pause longer than any coalescing of changes
                time.sleep(0.3)
            memory = [process.memory_full_info() for process in processes(daemon)]
            figures = [
                Figure(f"{SERVICES} services, {how}: start to READY=1", daemon.ready_s, "s"),
                Figure(
                    f"{SERVICES} services, {how}: one changed endpoint in effect",
                    statistics.median(times_ms),
                    "ms",
                    f"median of {CHANGES}, most {max(times_ms):.0f}",
                ),
                Figure(
                    f"{SERVICES} services, {how}: memory of the master",
                    memory[0].uss / 2**20,
                    "MB",
                    _pss(memory[0].pss),
                ),
                Figure(
                    f"{SERVICES} services, {how}: memory of a worker", memory[1].uss / 2**20, "MB", _pss(memory[1].pss)
                ),
            ]
        for pod in self._pods[:2]:
            self._backends.close(pod, PORT)
        return figures

    def _until_in_effect(self, directory: Path, name: str, pod: str) -> float:
        """Seconds from the file's change to the beginning of the first connection that reaches the new endpoint."""
        began_s = time.monotonic()
        os.rename(directory / ".prepared", directory / name)
        while (asked_s := time.monotonic()) < began_s + 10.0:
            with socket.create_connection(("10.97.0.1", 80), timeout=5.0) as sock:
                if sock.recv(100).strip().decode() == pod:
                    return asked_s - began_s
            time.sleep(0.002)
        raise TimeoutError(f"{pod} did not answer within 10 s")


def _pss(pss_bytes: int) -> str:
    return f"private (USS); PSS {pss_bytes / 2**20:.1f}"


def show(figures: list[Figure]) -> None:
    console = report.wide_console(sys.stdout)
    table = Table("figure", "value", "unit", "detail", box=box.ROUNDED if console.is_terminal else box.ASCII)
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:,.2f}", figure.unit, figure.detail)
    console.print(report.machine_line())
    console.print(table)


def tell(name: str, measure: Callable[[], list[Figure]], output: Path | None) -> int:
    """Measure in a network namespace of our own and print; `output`: a file for JSON. The exit status: 128 + n after
    signal n. `measure` may raise `DaemonFailedError` and TimeoutError."""
    try:
        namespace.enter()
    except OSError as error:
        print(f"no network namespace of our own: {error.strerror}", file=sys.stderr)
        return 1
    interrupts.install()
    try:
        figures = measure()
    except (DaemonFailedError, TimeoutError) as error:
        print(f"python -m {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        return interrupts.exit_status(interrupt)
    show(figures)
    if output:
        output.write_text(json.dumps([asdict(figure) for figure in figures], indent=2), encoding="utf-8")
    return 0


def measure_core() -> list[Figure]:
    with Lab() as lab, Backends(lab.pods) as backends:
        bench = Bench(lab, backends)
        return [*bench.sync_of_files(), *bench.sync_of_a_list()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf.core", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return tell("perf.core", measure_core, parser.parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
