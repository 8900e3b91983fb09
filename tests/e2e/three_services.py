"""Three Services with every kind of portal: TCP in user space, TCP in the kernel, and UDP; and who reaches them.

They are dialled at every portal in both families, from the node itself, from pods and from outside.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, Protocol, dial
from kpf.lab.machine import Machine
from kpf.lab.manifests import endpoint_slice, node, service, service_cidr, with_ingress
from kpf.lab.topology import NODE_ADDRESSES, pod_address
from tests.e2e.kube_proxy import POD_CIDRS, SERVICE_CIDRS
from tests.e2e.world import POD_PORT, World

NODE = "node-a"
ARGS = ("--hostname-override", NODE)
PODS = (1, 2)
# by Service: protocol, the last number of its addresses, node port
SERVICES: dict[str, tuple[Protocol, int, int]] = {
    "proxied": ("TCP", 30, 30130),
    "direct": ("TCP", 31, 30131),
    "datagrams": ("UDP", 32, 30132),
}

# origin, address, what answered or became of it
Found = set[tuple[str, str, str]]


def cluster_ips_of(number: int) -> tuple[str, str]:
    return f"10.96.0.{number}", f"fd00:96::{number}"


def external_ips_of(number: int) -> tuple[str, str]:
    return f"203.0.113.{number}", f"2001:db8::{number}"


def balancer_ips_of(number: int) -> tuple[str, str]:
    return f"198.51.100.{number}", f"2001:db8:1::{number}"


def of_kind(kind: str) -> list[Dial]:
    """Every portal of that kind, of all Services and both families."""
    addresses = {"cluster": cluster_ips_of, "external": external_ips_of, "balancer": balancer_ips_of}
    return [
        Dial(protocol, (address, 80 if kind in addresses else node_port))
        for protocol, number, node_port in SERVICES.values()
        for address in (addresses[kind](number) if kind in addresses else NODE_ADDRESSES)
    ]


PORTALS = [one for kind in ("cluster", "external", "balancer", "node port") for one in of_kind(kind)]


def write(world: World, which: Iterable[str] = SERVICES, *, pods: Sequence[int] = PODS) -> None:
    """These Services and their endpoints, this Node and the cluster's ranges."""
    for name in which:
        protocol, number, node_port = SERVICES[name]
        one = service(
            name,
            cluster_ips=cluster_ips_of(number),
            annotations={"kpf.io/forwarding": "direct"} if name == "direct" else {},
            type="LoadBalancer",
            ipFamilyPolicy="RequireDualStack",
            ipFamilies=["IPv4", "IPv6"],
            externalIPs=list(external_ips_of(number)),
            ports=[{"port": 80, "nodePort": node_port, "protocol": protocol}],
        )
        slices = [
            endpoint_slice(
                name, [pod_address(pod, six) for pod in pods], port=POD_PORT, suffix=f"{six}", protocol=protocol
            )
            for six in (4, 6)
            if pods
        ]
        world.manifests.write(f"{name}.yaml", with_ingress(one, *balancer_ips_of(number)), *slices)
    # the lab's pods are none of this node's own: they are masqueraded, so that answers to them come back by here
    this = node(NODE, internal_ips=NODE_ADDRESSES, pod_cidrs=POD_CIDRS)
    world.manifests.write("cluster.yaml", this, service_cidr(*SERVICE_CIDRS))


@contextmanager
def serving(world: World) -> Iterator[Daemon]:
    """A kpf that is started now, with all Services."""
    open_pods(world, PODS)
    write(world)
    with world.daemon(*ARGS, workers=1) as daemon:
        yield daemon


@contextmanager
def served(world: World) -> Iterator[Daemon]:
    """The module's lasting kpf, with all Services."""
    open_pods(world, PODS)
    write(world)
    with world.lasting as daemon:
        yield daemon


def open_pods(world: World, pods: Sequence[int]) -> None:
    for family in (4, 6):
        world.pods(pods, family=family, mode="tell")
        world.pods(pods, family=family, mode="datagrams")


def elsewhere(world: World, dials: Sequence[Dial] = PORTALS, *, timeout_s: float = 2.0) -> Found:
    """Who of node, pods and outside is not led to kpf's pods, to which address, and what becomes of it."""
    machines: dict[str, Machine] = {"node": world.lab.node, "pods": world.lab.pods, "outside": world.lab.outside}
    calls = {
        origin: machine.begin(dial, dials, at_once=len(dials), timeout_s=timeout_s)
        for origin, machine in machines.items()
    }
    ours = {pod_address(pod, family) for pod in PODS for family in (4, 6)}
    return {
        (origin, one.target[0], outcome.name or outcome.error)
        for origin, call in calls.items()
        for one, outcome in zip(dials, call.result(), strict=True)
        if outcome.name not in ours
    }
