"""UDP: flows that follow their Service wherever it goes, and exact turns."""

import time
from collections.abc import Callable

import pytest

from kpf.lab.clients import Address, names
from kpf.lab.datagrams import Dial, dial
from kpf.lab.flows import Flows, UnderFlows
from kpf.lab.hosts import Host
from kpf.lab.manifests import endpoint_slice, node, service
from kpf.lab.topology import NODE_ADDRESSES, NODE_POD_LINK_ADDRESSES, pod_address
from tests.e2e.world import World, eventually

pytestmark = pytest.mark.usefixtures("forwarding")

NODE = "node-a"
PORT = 53
FLOW = 5000
FLOWS = range(1024, 21024)
# fewer than a descriptor limit allows
FLOWS_AT_ONCE = 500


@pytest.mark.parametrize(
    ("cluster_ip", "family", "replacements"), [("10.96.0.53", 4, 100), ("fd00:96::53", 6, 20)], ids=["IPv4", "IPv6"]
)
def test_a_socket_is_answered_on_while_its_endpoint_is_replaced(
    world: World, figure: Callable[[str], None], cluster_ip: str, family: int, replacements: int
) -> None:
    # another pod, another port of the same pod
    places = [(pod_address(1, family), 8080), (pod_address(2, family), 8080), (pod_address(2, family), 8081)]

    def go_to(place: Address) -> str:
        name = f"{place[0]} {place[1]}"
        world.backends.open(*place, name=name, mode="datagrams")
        world.manifests.write(
            "dns.yaml",
            service("dns", cluster_ips=[cluster_ip], ports=[{"port": PORT, "protocol": "UDP"}]),
            endpoint_slice("dns", place[:1], port=place[1], protocol="UDP"),
        )
        return name

    first = go_to(places[0])
    with world.lasting, UnderFlows(world.lab.outside, Flows((cluster_ip, PORT), [FLOW], 200)) as flows:
        _wait_for(flows, first)
        began_s = time.monotonic()
        for number in range(replacements):
            name = go_to(places[(number + 1) % len(places)])
            world.backends.close(*places[number % len(places)], mode="datagrams")
            _wait_for(flows, name)
        took_s = time.monotonic() - began_s
        flow = flows.stop()[FLOW]
    figure(
        f"a UDP endpoint replaced {replacements} times (IPv{family}) in {took_s:.1f} s: longest silence "
        f"{flow.longest_gap_s * 1000:.0f} ms, {flow.answered} of {flow.sent} datagrams answered"
    )
    assert len(flow.servers) == replacements + 1
    assert flow.longest_gap_s < 1.0
    assert flow.dropped == 0


def test_a_client_that_asked_too_early_is_answered_when_the_service_comes(world: World) -> None:
    (pod,) = world.pods([1], mode="datagrams")
    with world.lasting as daemon, UnderFlows(world.lab.outside, Flows(("10.96.0.53", PORT), [FLOW], 200)) as flows:
        eventually(lambda: flows.report()[FLOW].sent > 20)
        world.serve("dns", "10.96.0.53", [pod], ports=[{"port": PORT, "protocol": "UDP"}])
        assert eventually(lambda: flows.report()[FLOW].server == pod) < 1.0
        world.manifests.remove("dns.yaml")
        eventually(lambda: daemon.status()["services"] == [])
        eventually(lambda: _is_silent(flows))


def _wait_for(flows: UnderFlows, name: str) -> None:
    """Until that server answers."""
    eventually(lambda: flows.report()[FLOW].server == name)


def _is_silent(flows: UnderFlows) -> bool:
    """Nobody answers, as long as the client goes on."""
    before = flows.report()[FLOW]
    eventually(lambda: flows.report()[FLOW].sent >= before.sent + 20)
    return flows.report()[FLOW].answered == before.answered


def test_20000_flows_over_5_endpoints_are_4000_each(world: World, figure: Callable[[str], None]) -> None:
    pods = world.pods(range(1, 6), mode="datagrams")
    target = ("10.96.0.53", PORT)
    # clients that are no pods of this node are masqueraded, so their flows end at one address of the node
    world.manifests.write("node.yaml", node(NODE, internal_ips=NODE_ADDRESSES, pod_cidrs=["10.200.0.0/24"]))
    world.serve("dns", target[0], pods, ports=[{"port": PORT, "protocol": "UDP"}])
    addresses = ("192.168.70.1/24", "192.168.70.2/24")
    fresh = Host("fresh0", ours=addresses[:1], theirs=addresses[1:])
    try:
        with world.daemon("--hostname-override", NODE):
            began_s = time.monotonic()
            dials = [Dial("UDP", target, "192.168.70.2", port) for port in FLOWS]
            outcomes = fresh.call(dial, dials, at_once=FLOWS_AT_ONCE)
            took_s = time.monotonic() - began_s
    finally:
        fresh.close()
    slowest_s = max(outcome.first_byte_s for outcome in outcomes)
    figure(
        f"{len(outcomes)} UDP flows over {len(pods)} endpoints in {took_s:.1f} s, slowest answer "
        f"{slowest_s * 1000:.0f} ms: {names(outcomes)}"
    )
    assert names(outcomes) == dict.fromkeys(pods, 4000)
    assert world.backends.accepted() == dict.fromkeys(pods, 4000)
    assert world.backends.dropped() == 0
    assert {outcome.client for outcome in outcomes} == {NODE_POD_LINK_ADDRESSES[0]}
