"""What counts as this node's pods, by each `detectLocalMode`: who is masqueraded, and who has other endpoints.

A Service of UDP whose one endpoint is on another node, with external policy Local: its ClusterIP serves everybody, and
the endpoint sees who came; its external address serves only this node's own processes and pods.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpf.lab.backends import Backends
from kpf.lab.cluster import NODE, NODE_ADDRESSES, OTHER_NODE, OUTSIDE_ADDRESSES, SECOND_NODE_ADDRESSES, Cluster, nodes
from kpf.lab.datagrams import Dial, dial
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, endpoint_slice, service
from tests.e2e.world import LastingDaemon

POD_PORT = 8080
CLUSTER_IPS, EXTERNAL_IPS = ("10.96.0.53", "fd00:96::53"), ("203.0.113.53", "2001:db8::53")
TIMEOUT_S = 1.0

CONFIGURATION = "apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\n"
MODES: dict[str, tuple[str, frozenset[str]]] = {
    "detectLocalMode: NodeCIDR": ("known", frozenset({"routed", "bridged"})),
    "clusterCIDR: 10.244.1.0/25,fd00:10:244:1::/65": ("known", frozenset({"routed"})),
    "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}": ("known", frozenset({"bridged"})),
    "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}": ("known", frozenset({"routed"})),
    # there is no Node of that name
    "hostnameOverride: node-z": ("unknown", frozenset()),
    "detectLocalMode: NodeCIDR\nmasqueradeAll: true": ("masqueraded", frozenset({"routed", "bridged"})),
}


@pytest.fixture(scope="module", autouse=True)
def servers(cluster: Cluster) -> Iterator[None]:
    with Backends(cluster.remote) as servers:
        for address in cluster.remote.addresses:
            servers.open(address, POD_PORT, name="remote", mode="datagrams")
        # so that afterwards nobody waits for his neighbours to be found
        dials = [Dial("UDP", (address, POD_PORT)) for address in cluster.remote.addresses]
        for machine, _ in _origins(cluster).values():
            assert {one.name for one in machine.call(dial, dials, at_once=2, timeout_s=5.0)} == {"remote"}
        yield


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """The daemon's configuration file, not written."""
    with tempfile.TemporaryDirectory(prefix="kpf-") as directory:
        yield Path(directory) / "kpf.yaml"


@pytest.fixture(scope="module")
def lasting(cluster: Cluster, config: Path) -> Iterator[LastingDaemon]:
    """Whatever the mode, all that is about it can be reloaded."""
    daemon = LastingDaemon(cluster.node, "--config", str(config))
    _write(daemon.manifests, cluster)
    yield daemon
    daemon.close()


def _write(manifests: Manifests, cluster: Cluster) -> None:
    shop = service(
        "shop",
        cluster_ips=CLUSTER_IPS,
        type="NodePort",
        ipFamilyPolicy="RequireDualStack",
        ipFamilies=["IPv4", "IPv6"],
        externalIPs=list(EXTERNAL_IPS),
        externalTrafficPolicy="Local",
        ports=[{"port": 53, "protocol": "UDP"}],
    )
    slices = [
        endpoint_slice("shop", [address], port=POD_PORT, suffix=f"{number}", node_name=OTHER_NODE, protocol="UDP")
        for number, address in enumerate(cluster.remote.addresses)
    ]
    manifests.write("shop.yaml", *nodes(), shop, *slices)


def _origins(cluster: Cluster) -> dict[str, tuple[Machine, tuple[str, ...]]]:
    """Where connections come from, and the addresses that are theirs."""
    return {
        "node": (cluster.node, ()),
        "routed": (cluster.routed, cluster.routed.addresses),
        "bridged": (cluster.bridged, cluster.bridged.addresses),
        "outside": (cluster.outside, OUTSIDE_ADDRESSES),
    }


def _expected(mode: str, origin: str) -> tuple[str, str]:
    """(whom the endpoint sees behind the ClusterIP, what becomes of the external address)."""
    known, own_pods = MODES[mode]
    is_own = origin in own_pods
    kept = origin != "node" and known != "masqueraded" and (is_own or known == "unknown")
    return ("itself" if kept else "the node"), ("served" if is_own or origin == "node" else "timed out")


@pytest.mark.parametrize("mode", MODES)
def test_who_is_masqueraded_and_who_has_all_endpoints(
    cluster: Cluster, config: Path, lasting: LastingDaemon, mode: str
) -> None:
    own = {*NODE_ADDRESSES, *SECOND_NODE_ADDRESSES}
    override = "" if "hostnameOverride" in mode else f"hostnameOverride: {NODE}\n"
    config.write_text(CONFIGURATION + override + mode + "\n")
    dials = [Dial("UDP", (address, 53)) for address in (*CLUSTER_IPS, *EXTERNAL_IPS)]
    origins = _origins(cluster)
    with lasting:
        calls = {
            origin: machine.begin(dial, dials, at_once=len(dials), timeout_s=TIMEOUT_S)
            for origin, (machine, _) in origins.items()
        }
        found = {origin: call.result() for origin, call in calls.items()}
    for origin, outcomes in found.items():
        addresses = origins[origin][1]
        seen = []
        for family in (0, 1):
            internal, external = outcomes[family], outcomes[family + 2]
            who = "itself" if internal.client in addresses else "the node" if internal.client in own else str(internal)
            seen.append((who, "served" if external.name == "remote" else external.error))
        assert seen == [_expected(mode, origin)] * 2, origin
