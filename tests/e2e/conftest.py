"""What the end-to-end tests share: the lab, backends in it, and a world to start a daemon in."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from kpf.lab.backends import Backends
from kpf.lab.cluster import Cluster
from kpf.lab.namespace import NamespaceRefusedError
from kpf.lab.tables import list_tables
from kpf.lab.topology import Lab, pod_address
from tests.e2e.world import PODS, LastingDaemon, World


def _forget_entries() -> None:
    """Of conntrack: hosts of other modules had the same addresses, and left without a word.

    A client that takes a port again would follow the entry there, for minutes: to an address
    of kpf's own, say, that it has no more.
    """
    with NFCTSocket() as conntrack:
        conntrack.flush()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Node, pods and outside, one for a module."""
    _forget_entries()
    with Lab() as lab:
        for family in (4, 6):
            lab.pods.add_addresses(pod_address(number, family) for number in range(1, PODS + 1))
        yield lab


@pytest.fixture
def forwarding(lab: Lab) -> None:
    """For tests of what passes the node on its way."""
    if not lab.forwards:
        pytest.skip("the node may not forward packets here: its sysctls cannot be set")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node with pods of every kind, another node and an outside host, one for a module that has no `lab`."""
    _forget_entries()
    try:
        cluster = Cluster()
    except NamespaceRefusedError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture(scope="module")
def process(lab: Lab) -> Iterator[Backends]:
    """A process full of servers on the pods' host, one for a module."""
    with Backends(lab.pods) as process:
        yield process


@pytest.fixture
def backends(process: Backends) -> Iterator[Backends]:
    """A process full of servers on the pods' host, with no address yet."""
    yield process
    process.clear()


@pytest.fixture(scope="module")
def lasting_args() -> tuple[str, ...]:
    """More flags of the module's `lasting` daemon; a module may have a fixture of its own of this name."""
    return ()


@pytest.fixture(scope="module")
def lasting(lab: Lab, lasting_args: tuple[str, ...]) -> Iterator[LastingDaemon]:
    """Started by the first test that wants it."""
    daemon = LastingDaemon(lab.node, *lasting_args)
    yield daemon
    daemon.close()
    assert list_tables() == []


@pytest.fixture
def world(lab: Lab, backends: Backends, lasting: LastingDaemon) -> Iterator[World]:
    """A world without services; when the test is over there must be no table left in it, but the lasting daemon's."""
    # a Unix socket's path has 107 bytes at most, so not pytest's tmp_path
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        yield World(lab, backends, Path(directory), lasting)
    lasting.forget()
    if lasting.runs:
        return
    left = list_tables()
    if left:
        subprocess.run([sys.executable, "-m", "kpf", "cleanup"], check=True)
    assert left == []
