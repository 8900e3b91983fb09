"""Every kind of portal, both families, from everywhere; what is refused, what is dropped."""

import pytest

from kpf.lab.clients import Address, connect, each, names
from kpf.lab.daemon import Daemon
from kpf.lab.machine import Machine
from kpf.lab.manifests import endpoint_slice, service, with_ingress
from kpf.lab.topology import NODE_ADDRESSES, NODE_POD_LINK_ADDRESSES, pod_address
from tests.e2e.world import POD_PORT, World, eventually

NODE = "node-a"
NODE_PORT = 30020
CLUSTER_IPS = ("10.96.0.20", "fd00:96::20")
EXTERNAL_IPS = ("203.0.113.20", "2001:db8::20")
INGRESS = ("203.0.113.21", "2001:db8::21")
PORTALS: list[Address] = [
    *((address, 80) for address in (*CLUSTER_IPS, *EXTERNAL_IPS, *INGRESS)),
    *((address, NODE_PORT) for address in (*NODE_ADDRESSES, *NODE_POD_LINK_ADDRESSES)),
]
LOOPBACK: list[Address] = [("127.0.0.1", NODE_PORT), ("::1", NODE_PORT)]


@pytest.fixture(scope="module")
def lasting_args() -> tuple[str, ...]:
    return ("--hostname-override", NODE)


def _everything(world: World, pods: list[str]) -> None:
    """A Service with every kind of portal in both families, and these endpoints."""
    shop = service(
        "shop",
        cluster_ips=CLUSTER_IPS,
        type="LoadBalancer",
        ipFamilyPolicy="RequireDualStack",
        ipFamilies=["IPv4", "IPv6"],
        externalIPs=list(EXTERNAL_IPS),
        ports=[{"port": 80, "nodePort": NODE_PORT}],
    )
    slices = [
        endpoint_slice("shop", [pod for pod in pods if (":" in pod) is six], port=POD_PORT, suffix=f"{six}".lower())
        for six in (False, True)
    ]
    world.manifests.write("shop.yaml", with_ingress(shop, *INGRESS), *(one for one in slices if one["endpoints"]))


def _origins(world: World) -> list[tuple[str, Machine, list[Address]]]:
    return [
        ("node", world.lab.node, [*PORTALS, *LOOPBACK]),
        ("pods", world.lab.pods, PORTALS),
        ("outside", world.lab.outside, PORTALS),
    ]


def test_every_portal_answers_from_everywhere(world: World) -> None:
    pods = [*world.pods([1]), *world.pods([1], family=6)]
    _everything(world, pods)
    with world.lasting:
        for origin, machine, targets in _origins(world):
            for target, outcome in machine.call(each, targets, timeout_s=3.0).items():
                assert outcome.name == pods[":" in target[0]], (origin, target, outcome)


def test_one_source_port_reaches_every_portal_at_once(world: World) -> None:
    pods = [*world.pods([1]), *world.pods([1], family=6)]
    _everything(world, pods)
    with world.lasting:
        for origin, machine, targets in _origins(world):
            for target, outcome in machine.call(each, targets, source_port=15000, timeout_s=3.0).items():
                assert outcome.name == pods[":" in target[0]], (origin, target, outcome)


def test_a_pod_reaches_itself_through_its_service(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", CLUSTER_IPS[0], pods)
    with world.lasting:
        assert names(world.lab.pods.call(connect, (CLUSTER_IPS[0], 80), 3, sources=pods)) == {pods[0]: 3}


def test_without_endpoints_every_portal_refuses_at_once(world: World) -> None:
    _everything(world, [])
    with world.lasting:
        for origin, machine, targets in _origins(world):
            for target, outcome in machine.call(each, targets, timeout_s=3.0).items():
                assert outcome.error == "ECONNREFUSED", (origin, target, outcome)
                assert outcome.first_byte_s < 0.5, (origin, target, outcome)


def test_endpoints_that_go_and_come_switch_between_refusing_and_serving(world: World) -> None:
    pods = world.pods([1])
    target = (CLUSTER_IPS[0], 80)
    world.serve("shop", target[0], pods)
    with world.lasting:
        assert world.answers(target) == {pods[0]: 1}
        world.serve("shop", target[0], [])
        eventually(lambda: world.answers(target) == {"ECONNREFUSED": 1})
        world.serve("shop", target[0], pods)
        eventually(lambda: world.answers(target) == {pods[0]: 1})


def test_an_undefined_port_of_a_cluster_ip_is_refused(world: World) -> None:
    _everything(world, [*world.pods([1]), *world.pods([1], family=6)])
    targets: list[Address] = [(address, 81) for address in CLUSTER_IPS]
    with world.lasting:
        for origin, machine, _ in _origins(world):
            for target, outcome in machine.call(each, targets, timeout_s=3.0).items():
                assert (outcome.error, outcome.first_byte_s < 0.5) == ("ECONNREFUSED", True), (origin, target, outcome)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [((NODE, "node-b"), "local"), (("node-b", "node-b"), "timed out"), ((), "ECONNREFUSED")],
    ids=["some here", "only elsewhere", "nowhere"],
)
def test_internal_traffic_policy_local(world: World, nodes: tuple[str, ...], expected: str) -> None:
    pods = world.pods([1, 2])
    slices = [
        endpoint_slice("shop", [pod], port=POD_PORT, suffix=str(index), node_name=node)
        for index, (pod, node) in enumerate(zip(pods, nodes, strict=False))
    ]
    world.manifests.write(
        "shop.yaml", service("shop", cluster_ips=CLUSTER_IPS[:1], internalTrafficPolicy="Local"), *slices
    )
    with world.lasting:
        for machine in (world.lab.outside, world.lab.pods):
            answers = names(machine.call(connect, (CLUSTER_IPS[0], 80), 4, at_once=4, timeout_s=0.5))
            assert answers == {pods[0] if expected == "local" else expected: 4}


def test_a_new_service_answers_within_a_second(world: World) -> None:
    pods = world.pods([1])
    target = (CLUSTER_IPS[0], 80)
    with world.lasting:
        assert world.answers(target, timeout_s=0.2) == {"timed out": 1}
        world.serve("shop", target[0], pods)
        assert eventually(lambda: world.answers(target, timeout_s=0.2) == {pods[0]: 1}) < 1.0
        world.manifests.remove("shop.yaml")
        eventually(lambda: world.answers(target, timeout_s=0.2) == {"timed out": 1})


def test_an_endpoint_that_is_a_portal_or_loopback_is_refused(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", CLUSTER_IPS[0], [*pods, "127.0.0.1"])
    world.serve("loop", "10.96.0.21", ["10.96.0.21", pod_address(1)])
    with world.lasting as daemon:
        assert world.answers((CLUSTER_IPS[0], 80), 4) == {pods[0]: 4}
        assert world.answers(("10.96.0.21", 80), 4) == {pods[0]: 4}
        daemon.wait_for_log("127.0.0.1")


def test_a_proxy_port_cannot_be_dialled(world: World) -> None:
    world.serve("shop", CLUSTER_IPS[0], world.pods([1]))
    with world.lasting as daemon:
        _refuses_dials(world, daemon)


def _refuses_dials(world: World, daemon: Daemon) -> None:
    """The proxy port of `shop`, from everywhere."""
    target = (daemon.status()["proxyAddresses"][0], daemon.service("shop")["proxyPort"])
    for _, machine, _ in _origins(world):
        assert names(machine.call(connect, target, timeout_s=3.0)) == {"ECONNREFUSED": 1}


def test_bound_a_proxy_port_cannot_be_dialled_and_another_programs_is_left_alone(world: World) -> None:
    world.serve("shop", CLUSTER_IPS[0], world.pods([1]))
    listen = "import socket, time; s = socket.create_server(('', 20123)); c, _ = s.accept(); c.send(b'other\\n')"
    with world.daemon("--bind-address", NODE_ADDRESSES[0]) as daemon:
        _refuses_dials(world, daemon)
        stranger = world.lab.node.start(["python3", "-c", listen])
        try:
            eventually(lambda: world.answers((NODE_ADDRESSES[0], 20123)) == {"other": 1})
        finally:
            stranger.kill()
            stranger.wait()


def test_nodeport_addresses_limit_where_node_ports_answer(world: World) -> None:
    pods = [*world.pods([1]), *world.pods([1], family=6)]
    _everything(world, pods)
    listed, unlisted = NODE_ADDRESSES[0], NODE_POD_LINK_ADDRESSES[0]
    with world.daemon("--nodeport-addresses", "192.168.50.0/24"):
        targets: list[Address] = [(listed, NODE_PORT), (unlisted, NODE_PORT), (NODE_ADDRESSES[1], NODE_PORT)]
        answers = world.lab.outside.call(each, targets, timeout_s=3.0)
        assert [answers[target].name for target in targets] == [pods[0], "", pods[1]]
        assert answers[unlisted, NODE_PORT].error == "ECONNREFUSED"
