"""Services of two nodes whose endpoints are each other's node ports: what comes in goes round, within bounds."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kpf.commands.status_text import Options, lines
from kpf.commands.tables import Paper
from kpf.lab.backends import Backends
from kpf.lab.clients import connect, names, steady
from kpf.lab.cluster import NODE, OTHER_NODE, OTHER_NODE_ADDRESSES, SECOND_NODE_ADDRESSES, Cluster, nodes
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, dial
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, Object, endpoint_slice, service
from tests.e2e.world import eventually

HERE, THERE = (SECOND_NODE_ADDRESSES[0], 30701), (OTHER_NODE_ADDRESSES[0], 30702)
GOOD = ("10.96.4.3", 80)
FAR = ("10.96.4.4", "fd00:96::404")
# of each process: room for some 1,000 sessions of a worker
DESCRIPTORS = 2048
LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
os.execv(sys.argv[1], sys.argv[1:])
"""
# of two workers on each of two nodes, an eighth
MOST = 2 * 2 * DESCRIPTORS // 2 // 8


@dataclass(frozen=True)
class Ring:
    cluster: Cluster
    daemons: tuple[Daemon, Daemon]

    def sessions(self, field: str) -> int:
        """Of what goes round, on both nodes."""
        names = zip(self.daemons, ("round-1", "round-2"), strict=True)
        return sum(
            one[field]
            for daemon, name in names
            for one in daemon.status()["services"]
            if (one["name"], one["protocol"]) == (name, "TCP")
        )


def daemon_on(machine: Machine, directory: Path, name: str) -> Daemon:
    (directory / name).mkdir()
    args = ("--hostname-override", name)
    made = Daemon(machine, directory / name, manifests=directory / "manifests", args=args)
    made.argv = [sys.executable, "-c", LIMITED, *made.argv]
    return made


@pytest.fixture(scope="module")
def ring(cluster: Cluster) -> Iterator[Ring]:
    """The node port of `round-1` leads to the other node's of `round-2`, and that back to ours of `round-1`."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpf-")))
        manifests = Manifests(directory / "manifests")
        pods = stack.enter_context(Backends(cluster.routed))
        pods.open(cluster.routed.addresses[0], 8080, name="pod")
        far = stack.enter_context(Backends(cluster.remote))
        for address in cluster.remote.addresses:
            far.open(address, 8080, name="far", mode="tell")
            far.open(address, 8080, name="far", mode="datagrams")
        manifests.write("far.yaml", *nodes(), *claimed_far_away(cluster.remote.addresses))
        for name, ip, own, other in (("round-1", "10.96.4.1", HERE, THERE), ("round-2", "10.96.4.2", THERE, HERE)):
            ports = [{"name": one, "port": 80, "nodePort": own[1], "protocol": one.upper()} for one in ("tcp", "udp")]
            manifests.write(
                f"{name}.yaml",
                service(name, cluster_ips=[ip], type="NodePort", ports=ports),
                *(
                    endpoint_slice(name, other[:1], port=other[1], port_name=one, suffix=one, protocol=one.upper())
                    for one in ("tcp", "udp")
                ),
            )
        good = service("good", cluster_ips=GOOD[:1])
        manifests.write("good.yaml", good, endpoint_slice("good", cluster.routed.addresses[:1], port=8080))
        daemons = (daemon_on(cluster.node, directory, NODE), daemon_on(cluster.other, directory, OTHER_NODE))
        for daemon in daemons:
            stack.enter_context(daemon)
        yield Ring(cluster, daemons)


def claimed_far_away(addresses: Sequence[str]) -> Iterator[Object]:
    """A Service whose pod is on the other node, and one of somebody else that has its addresses, and no endpoints."""
    ports = [{"name": one, "port": 8080, "protocol": one.upper()} for one in ("tcp", "udp")]
    both: dict[str, Any] = {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"], "ports": ports}
    yield service("far", cluster_ips=FAR, **both)
    for address in addresses:
        for one in ("tcp", "udp"):
            suffix = f"{one}-{'6' if ':' in address else '4'}"
            yield endpoint_slice(
                "far", [address], port=8080, port_name=one, suffix=suffix, protocol=one.upper(), node_name=OTHER_NODE
            )
    claims = ("10.96.4.5", "fd00:96::405")
    yield service("claims", namespace="elsewhere", cluster_ips=claims, externalIPs=list(addresses), **both)


def test_what_goes_round_ends_and_takes_nothing_from_others(ring: Ring, figure: Callable[[str], None]) -> None:
    """A connection is dialled on until the share of a worker is full; then all of its ends are reset."""
    for clients in (1, 1, 8):
        before, began_s = ring.sessions("connectionsTotal"), time.monotonic()
        outcomes = ring.cluster.outside.call(connect, HERE, clients, at_once=clients, timeout_s=10.0)
        took_s = time.monotonic() - began_s
        assert names(outcomes) == {"ECONNRESET": clients}
        assert names(ring.cluster.outside.call(connect, GOOD, 20, at_once=20)) == {"pod": 20}
        total = ring.sessions("connectionsTotal") - before
        figure(f"{clients} connections that go round two nodes: {total} sessions in {took_s:.2f} s")
        assert total <= clients * (MOST + 1)
    eventually(lambda: ring.sessions("connectionsActive") == 0)


def test_others_are_served_while_it_goes_round(ring: Ring) -> None:
    with ring.cluster.outside.begin(steady, HERE, 20.0, 1.5, timeout_s=5.0) as load:
        answers = names(ring.cluster.remote.call(steady, GOOD, 50.0, 1.0, timeout_s=2.0))
        assert set(names(load.result())) == {"ECONNRESET"}
    assert answers == {"pod": 50}


def test_a_pod_of_another_node_serves_though_its_address_is_claimed(ring: Ring) -> None:
    """What this node dials comes to the other one from outside, where the claim is in force, too."""
    dials = [Dial(protocol, (address, 8080)) for address in FAR for protocol in ("TCP", "UDP") for _ in range(3)]
    for machine in (ring.cluster.outside, ring.cluster.routed, ring.cluster.node, ring.cluster.remote):
        outcomes = machine.call(dial, dials, at_once=len(dials), timeout_s=2.0)
        assert [one.name or one.error for one in outcomes] == ["far"] * len(dials)


def test_status_says_what_is_limited(ring: Ring) -> None:
    """On each node the one whose endpoint is on the other, where it is a node port or claimed."""
    for daemon, expected in zip(ring.daemons, ({"round-1", "far"}, {"round-2"}), strict=True):
        state = daemon.status()
        limited = {(one["name"], one["protocol"]) for one in state["services"] if one["limited"]}
        assert limited == {(name, "TCP") for name in expected}
        text = "\n".join(lines(state, Paper(), Options(), "2026-11-29T12:00:00Z"))
        assert text.count("limited: may come back") == len(expected)


def test_a_datagram_goes_round_until_its_hops_are_used_up(ring: Ring) -> None:
    """The kernel forwards it, and every node takes one of 64 hops away."""
    before, count = forwarded(ring.cluster.other), 5
    outcomes = ring.cluster.outside.call(dial, [Dial("UDP", HERE)] * count, at_once=count, timeout_s=0.5)
    assert not any(one.name for one in outcomes)
    assert 0 < forwarded(ring.cluster.other) - before <= 64 * count


def forwarded(machine: Machine) -> int:
    """IPv4 packets that the machine has passed on so far."""
    with machine.inside():
        names, values = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()[:2]
    return int(values.split()[names.split().index("ForwDatagrams")])
