"""A world of a script's own: the lab in a private network namespace, backends on several pods, and a real `kpf run`."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kpf.lab import namespace
from kpf.lab.daemon import Daemon
from kpf.lab.hosts import set_sysctl
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.lab.topology import Lab, client_address, pod_address
from perf import address
from perf.load.result import Address
from perf.subject import Subject, SubjectError

PODS = 4
POD_PORT = 8080
SERVICE = ("10.96.0.10", 80)
# each has ports of its own, so that none run out at any rate
SOURCES = 100


@contextmanager
def world(workers: int) -> Iterator[Subject]:
    """The calling process moves into it for good. Raises `SubjectError`, `DaemonFailedError`."""
    try:
        namespace.enter()
    except OSError as error:
        raise SubjectError(f"no network namespace of our own: {error.strerror}") from None
    with (
        Lab() as lab,
        tempfile.TemporaryDirectory(prefix="kpf-perf-") as directory,
        shop(lab, Path(directory), workers) as subject,
    ):
        yield subject


@contextmanager
def shop(lab: Lab, directory: Path, workers: int) -> Iterator[Subject]:
    """A Service of several pods and its kpf, in a lab; clients are outside. Raises `DaemonFailedError`."""
    pods = [pod_address(number) for number in range(1, PODS + 1)]
    lab.pods.add_addresses(pods)
    manifests = Manifests(directory / "manifests")
    manifests.write("service.yaml", service("shop", cluster_ips=[SERVICE[0]]))
    manifests.write("endpoints.yaml", endpoint_slice("shop", pods, port=POD_PORT))
    with (
        backends(lab.pods, [(pod, POD_PORT) for pod in pods]),
        Daemon(lab.node, directory, manifests=manifests.directory, workers=workers) as daemon,
    ):
        # a connection tracking entry for each of 15,000 connections a second, for 120 s, is more than the table holds
        set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1")
        yield Subject(
            SERVICE,
            lab.outside,
            [client_address(number) for number in range(SOURCES)],
            str(daemon.control_socket),
            manifests.directory / "endpoints.yaml",
        )


@contextmanager
def backends(machine: Machine, addresses: Sequence[Address]) -> Iterator[int]:
    """`perf.serve` at these addresses of a machine: the pid of its process. Raises `SubjectError`."""
    argv = [sys.executable, "-m", "perf.serve", *map(address.show, addresses)]
    process = machine.start(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        try:
            if not process.stdout.readline().startswith(b"listening on"):
                raise SubjectError("the backends did not start")
            yield process.pid
        finally:
            process.kill()
