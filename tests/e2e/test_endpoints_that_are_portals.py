"""Endpoints whose address and port is somebody's portal: a node's own server, another node's, a pod that is claimed.

They are dialled as any other, whoever claims what: `semantics` says who answers whom.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kpf.config.model import DEFAULT_WORKER_USER
from kpf.lab.backends import Backends
from kpf.lab.cluster import (
    BRIDGE_ADDRESSES,
    NODE,
    NODE_ADDRESSES,
    OTHER_NODE,
    OUTSIDE_ADDRESSES,
    SECOND_NODE_ADDRESSES,
    Cluster,
    nodes,
)
from kpf.lab.crowd import Address, Outcome
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, dial
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, Object, endpoint_slice, service, with_ingress
from kpf.master.identity import worker_user
from tests.e2e.semantics import Cell, Client, Endpoints, Forwarding, Kind, Model, Origin, Policy

# else the old rule is in force, of which test_worker_user knows
pytestmark = pytest.mark.skipif(
    worker_user(DEFAULT_WORKER_USER) != DEFAULT_WORKER_USER, reason="nobody else exists in this user namespace"
)

LOOPBACK = ("127.0.0.1", "::1")
PODS = ("routed", "bridged")
ATTEMPTS = 4
TIMEOUT_S = 2.0

Pair = tuple[str, str]


class Shape(StrEnum):
    """Which endpoints, and whose portals they are."""

    EXTERNAL_IP = "the node's address, its own external IP"
    BALANCER = "the node's address, its own LB address, policy Local"
    TWO_HOSTS = "addresses of two hosts, both its own external IPs"
    NODE_PORT = "the node's address, its own node port"
    CLAIMED = "pods whose addresses are another Service's external IPs"
    BORROWED = "another host's address, another Service's LB address"


# the endpoints are another Service's portals
CLAIMED = {Shape.CLAIMED, Shape.BORROWED}


@dataclass(frozen=True)
class Shop:
    """One Service: `servers` by name, at the port `port` of each; `portals` beside the ClusterIP."""

    shape: Shape
    forwarding: Forwarding
    servers: Mapping[str, Pair]
    here: frozenset[str]
    port: int
    number: int
    portals: Mapping[Kind, tuple[Pair, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"shop-{self.number}"

    @property
    def protocol(self) -> str:
        return "UDP" if self.forwarding is Forwarding.UDP else "TCP"

    @property
    def external(self) -> Policy:
        return Policy.LOCAL if self.shape is Shape.BALANCER else Policy.CLUSTER

    @property
    def cluster_ips(self) -> Pair:
        return f"10.96.2.{self.number}", f"fd00:96::2{self.number:02x}"

    def targets(self, origin: Origin) -> Iterator[tuple[Cell, Address]]:
        """What is dialled from there."""
        everything = {Kind.CLUSTER_IP: (self.cluster_ips,), **self.portals}
        if self.shape is Shape.NODE_PORT and origin is Origin.NODE:
            everything[Kind.LOOPBACK] = (LOOPBACK,)
        for kind, pairs in everything.items():
            # the claimed pods' own Service has its pods' port
            port = self.port if self.shape is not Shape.CLAIMED else 80
            for pair, family in product(pairs, (4, 6)):
                if origin is Origin.OUTSIDE and pair == OUTSIDE_ADDRESSES:
                    # it would not leave the host
                    continue
                cell = Cell(origin, kind, Policy.CLUSTER, self.external, Endpoints.BOTH, self.forwarding, family)
                yield cell, (pair[family == 6], port)

    def objects(self) -> Iterator[Object]:
        port: dict[str, Any] = {"port": 80 if self.shape is Shape.CLAIMED else self.port, "protocol": self.protocol}
        spec: dict[str, Any] = {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}
        if self.shape is Shape.NODE_PORT:
            port["nodePort"], spec["type"] = self.port, "NodePort"
        if self.shape is Shape.BALANCER:
            spec |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": False}
        external = [address for pair in self.portals.get(Kind.EXTERNAL_IP, ()) for address in pair]
        made = service(
            self.name,
            cluster_ips=self.cluster_ips,
            annotations={"kpf.io/forwarding": "direct"} if self.forwarding is Forwarding.DIRECT_TCP else {},
            ports=[port],
            externalIPs=external,
            **spec,
        )
        yield with_ingress(made, *(one for pair in self.portals.get(Kind.BALANCER, ()) for one in pair))
        for server, addresses in self.servers.items():
            node = NODE if server in self.here else OTHER_NODE
            for family, address in zip((4, 6), addresses, strict=True):
                yield endpoint_slice(
                    self.name,
                    [address],
                    port=self.port,
                    suffix=f"{server}-{family}",
                    node_name=node,
                    protocol=self.protocol,
                )


def shops(cluster: Cluster) -> list[Shop]:
    found: list[Shop] = []
    pods = {name: (pod.addresses[0], pod.addresses[1]) for name, pod in vars(cluster).items() if name in PODS}
    both = {"node": NODE_ADDRESSES, "outside": OUTSIDE_ADDRESSES}
    own, here = {"node": NODE_ADDRESSES}, frozenset({"node"})
    for number, (shape, forwarding) in enumerate(product(Shape, Forwarding), 1):
        match shape:
            case Shape.EXTERNAL_IP:
                one = Shop(shape, forwarding, own, here, 443, number, {Kind.EXTERNAL_IP: (NODE_ADDRESSES,)})
            case Shape.BALANCER:
                one = Shop(shape, forwarding, own, here, 6443, number, {Kind.BALANCER: (NODE_ADDRESSES,)})
            case Shape.TWO_HOSTS:
                addresses = (NODE_ADDRESSES, OUTSIDE_ADDRESSES)
                one = Shop(shape, forwarding, both, here, 8443, number, {Kind.EXTERNAL_IP: addresses})
            case Shape.NODE_PORT:
                ways = {Kind.NODE_PORT: (NODE_ADDRESSES,), Kind.SECOND_NODE_PORT: (SECOND_NODE_ADDRESSES,)}
                one = Shop(shape, forwarding, own, here, 30777, number, ways)
            case Shape.CLAIMED:
                one = Shop(shape, forwarding, pods, frozenset(pods), 8080, number)
            case Shape.BORROWED:
                one = Shop(shape, forwarding, {"outside": OUTSIDE_ADDRESSES}, frozenset(), 9443, number)
        # no two of TCP share a port: one of both is direct
        shift = 1 if forwarding is Forwarding.DIRECT_TCP else 0
        found.append(Shop(one.shape, one.forwarding, one.servers, one.here, one.port + shift, number, one.portals))
    return found


def claimant(shop: Shop) -> Object:
    """A Service of somebody else that has the endpoints as its external addresses, and no endpoints."""
    addresses = [address for pair in shop.servers.values() for address in pair]
    made = service(
        f"claims-{shop.number}",
        namespace="elsewhere",
        cluster_ips=(f"10.96.3.{shop.number}", f"fd00:96::3{shop.number:02x}"),
        ports=[{"port": shop.port, "protocol": shop.protocol}],
        externalIPs=addresses if shop.shape is Shape.CLAIMED else [],
        type="LoadBalancer",
        allocateLoadBalancerNodePorts=False,
        ipFamilyPolicy="RequireDualStack",
        ipFamilies=["IPv4", "IPv6"],
    )
    return with_ingress(made, *(addresses if shop.shape is Shape.BORROWED else ()))


@dataclass(frozen=True)
class Portals:
    cluster: Cluster
    daemon: Daemon
    shops: list[Shop]

    def dial(self, origin: Origin, dials: Sequence[Dial]) -> list[Outcome]:
        machine: Machine = getattr(self.cluster, origin)
        outcomes: list[Outcome] = machine.call(dial, dials, at_once=len(dials), timeout_s=TIMEOUT_S)
        return outcomes


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Portals]:
    with ExitStack() as stack:
        made = shops(cluster)
        machines: dict[str, Machine] = {
            "node": cluster.node,
            "outside": cluster.outside,
            "routed": cluster.routed,
            "bridged": cluster.bridged,
        }
        servers = {name: stack.enter_context(Backends(machine)) for name, machine in machines.items()}
        for shop in made:
            mode = "datagrams" if shop.protocol == "UDP" else "tell"
            for name, addresses in shop.servers.items():
                for address in addresses:
                    servers[name].open(address, shop.port, name=name, mode=mode)  # type: ignore[arg-type]
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpf-")))
        manifests = Manifests(directory / "manifests")
        claimants = [claimant(shop) for shop in made if shop.shape in CLAIMED]
        manifests.write("all.yaml", *nodes(), *claimants, *(one for shop in made for one in shop.objects()))
        daemon = Daemon(cluster.node, directory, manifests=manifests.directory, args=("--hostname-override", NODE))
        yield Portals(cluster, stack.enter_context(daemon), made)


def seen(cluster: Cluster, origin: Origin, outcome: Outcome) -> str:
    if outcome.error:
        return outcome.error
    if outcome.client in (*NODE_ADDRESSES, *SECOND_NODE_ADDRESSES, *BRIDGE_ADDRESSES):
        return f"{outcome.name} sees {Client.NODE}"
    own = OUTSIDE_ADDRESSES if origin is Origin.OUTSIDE else getattr(cluster, origin).addresses
    return f"{outcome.name} sees {Client.KEPT if outcome.client in own else outcome.client}"


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("origin", Origin)
def test_an_endpoint_that_is_a_portal_serves(world: Portals, shape: Shape, origin: Origin) -> None:
    wrong: list[tuple[Cell, Address, str]] = []
    for shop in [one for one in world.shops if one.shape is shape]:
        model = Model(shop.here, frozenset(shop.servers) - shop.here)
        targets = [one for one in shop.targets(origin) for _ in range(ATTEMPTS)]
        outcomes = world.dial(origin, [Dial(shop.protocol, target) for _, target in targets])  # type: ignore[arg-type]
        for (cell, target), outcome in zip(targets, outcomes, strict=True):
            expected = model.expected(cell)
            allowed = (
                {"ECONNREFUSED" if expected == "refused" else "timed out"}
                if isinstance(expected, str)
                else {f"{server} sees {client}" for server, client in expected.items()}
            )
            if (found := seen(world.cluster, origin, outcome)) not in allowed:
                wrong.append((cell, target, f"{found} instead of {' or '.join(sorted(allowed))}"))
    assert not wrong, "\n".join(map(str, wrong))


def test_nothing_of_it_is_complained_about(world: Portals) -> None:
    log = world.daemon.log()
    assert "refused" not in log
    assert "listens on node port" not in log
