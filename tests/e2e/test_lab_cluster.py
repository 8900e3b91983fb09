"""The lab's cluster itself: pods of every kind, without kpf."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute

from kpf.lab.backends import Backends
from kpf.lab.cluster import NODE_ADDRESSES, OTHER_NODE_ADDRESSES, OUTSIDE_ADDRESSES, Cluster
from kpf.lab.datagrams import Dial, dial
from kpf.lab.machine import Machine
from kpf.lab.pods import ROUTED_GATEWAYS

Places = Mapping[str, tuple[Machine, tuple[str, ...]]]


@pytest.fixture(scope="module")
def places(cluster: Cluster) -> Iterator[Places]:
    """Machines with their addresses, with servers that tell whom they see."""
    with ExitStack() as servers:
        places: Places = {
            "node": (cluster.node, NODE_ADDRESSES),
            "routed": (cluster.routed, cluster.routed.addresses),
            "bridged": (cluster.bridged, cluster.bridged.addresses),
            "neighbour": (cluster.neighbour, cluster.neighbour.addresses),
            "remote": (cluster.remote, cluster.remote.addresses),
            "other node": (cluster.other, OTHER_NODE_ADDRESSES),
            "outside": (cluster.outside, OUTSIDE_ADDRESSES),
        }
        for name, (machine, addresses) in places.items():
            backends = servers.enter_context(Backends(machine))
            for address in addresses:
                backends.open(address, 8080, name=name, mode="tell")
                backends.open(address, 8080, name=name, mode="datagrams")
        yield places


@pytest.mark.parametrize("origin", ["node", "routed", "bridged", "remote", "outside"])
def test_everybody_reaches_everybody(places: Places, origin: str) -> None:
    machine, own = places[origin]
    dials = [
        Dial(protocol, (address, 8080))
        for protocol in ("TCP", "UDP")
        for _, addresses in places.values()
        for address in addresses
    ]
    outcomes = machine.call(dial, dials, at_once=len(dials), timeout_s=2.0)
    assert [one.name for one in outcomes] == [name for _ in ("TCP", "UDP") for name in places for _ in own]
    if origin != "node":
        assert {one.client for one in outcomes} == set(own)


def test_the_link_of_a_routed_pod_has_only_a_link_local_address(places: Places) -> None:
    assert places
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="cali1")
        addresses = [one.get_attr("IFA_ADDRESS") for one in ip.get_addr(index=index)]
    assert addresses == [ROUTED_GATEWAYS[1]]
