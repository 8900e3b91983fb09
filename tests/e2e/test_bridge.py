"""Two pods at one bridge, where what goes from port to port may pass the node's rules, or may not.

Where it does not, the answer to a packet that the kernel has sent on would reach the client from an address that it
never asked; so there the client is masqueraded. What is proxied does not care.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpf.lab.backends import Backends
from kpf.lab.cluster import BRIDGE_ADDRESSES, NODE, Cluster, nodes
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, dial
from kpf.lab.manifests import Manifests, endpoint_slice, service

POD_PORT = 8080
CLUSTER_IPS = {"TCP": "10.96.0.80", "UDP": "10.96.0.53"}


@pytest.fixture
def bridge(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether rules see what goes from port to port."""
    if not cluster.bridge.filter(request.param) and request.param:
        pytest.skip("this kernel does not show bridged packets to its rules")
    yield request.param
    cluster.bridge.filter(cluster.bridge.filtered)


@pytest.mark.parametrize("bridge", [True, False], ids=["seen", "not seen"], indirect=True)
def test_a_pod_is_answered_by_its_neighbour(cluster: Cluster, bridge: bool) -> None:
    pod, neighbour = cluster.bridged.addresses[0], cluster.neighbour.addresses[0]
    with tempfile.TemporaryDirectory(prefix="kpf-") as name, Backends(cluster.neighbour) as servers:
        servers.open(neighbour, POD_PORT, name="neighbour", mode="datagrams")
        servers.open(neighbour, POD_PORT, name="neighbour", mode="tell")
        manifests = Manifests(Path(name) / "manifests")
        for protocol, ip in CLUSTER_IPS.items():
            shop = service(protocol.lower(), cluster_ips=[ip], ports=[{"port": 80, "protocol": protocol}])
            slices = endpoint_slice(protocol.lower(), [neighbour], port=POD_PORT, node_name=NODE, protocol=protocol)
            manifests.write(f"{protocol}.yaml", shop, slices)
        manifests.write("nodes.yaml", *nodes())
        daemon = Daemon(cluster.node, Path(name), manifests=manifests.directory, args=("--hostname-override", NODE))
        with daemon:
            dials = [Dial("UDP", (CLUSTER_IPS["UDP"], 80)), Dial("TCP", (CLUSTER_IPS["TCP"], 80))]
            direct, proxied = cluster.bridged.call(dial, dials, at_once=2, timeout_s=2.0)
    node = BRIDGE_ADDRESSES[0]
    assert (direct.name, direct.client) == ("neighbour", pod if bridge else node)
    assert (proxied.name, proxied.client) == ("neighbour", node)
