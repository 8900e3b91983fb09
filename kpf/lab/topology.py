"""The lab's fixed world: a node, a host full of pods, and a host outside with many client addresses.

The node is the namespace we are in, whose default route leads to the outside host and no further. Pod addresses are
routed to the pods' host and not on a link: one that the host does not have, or has lost, is a black hole.
"""

from ipaddress import ip_address

from kpf.lab.hosts import Host, add_route, forward, lift_icmp_limits, set_sysctl
from kpf.lab.machine import Machine

NODE_ADDRESSES = ("192.168.50.1", "fd00:192:168:50::1")
NODE_POD_LINK_ADDRESSES = ("172.30.1.1", "fd00:172:30:1::1")
OUTSIDE_ADDRESSES = ("192.168.50.2", "fd00:192:168:50::2")
POD_NETWORKS = ("10.244.0.0/16", "fd00:10:244::/48")
CLIENTS = 200


def pod_address(number: int, family: int = 4) -> str:
    """The address of a pod, 1..254: it exists once it is given to the pods' host."""
    return str(ip_address("10.244.1.0" if family == 4 else "fd00:10:244:1::") + number)


def client_address(number: int, family: int = 4) -> str:
    """A client address of the outside host, 0..199."""
    return str(ip_address("192.168.50.11" if family == 4 else "fd00:192:168:50::100") + number)


class Lab:
    """Node, pods and outside, to be made in a namespace of one's own. Raises `NamespaceRefusedError`.

    `forwards`: the node forwards packets; False if the machine does not let it.
    """

    def __init__(self) -> None:
        self.node = Machine()
        self.forwards = forward()
        self.pods = Host(
            "pods0", ours=("172.30.1.1/30", "fd00:172:30:1::1/64"), theirs=("172.30.1.2/30", "fd00:172:30:1::2/64")
        )
        self.outside = Host(
            "out0",
            ours=("192.168.50.1/24", "fd00:192:168:50::1/64"),
            theirs=("192.168.50.2/24", "fd00:192:168:50::2/64"),
        )
        self.pods.swallow(POD_NETWORKS)
        for network, gateway in zip(POD_NETWORKS, ("172.30.1.2", "fd00:172:30:1::2"), strict=True):
            add_route(network, gateway)
        for gateway in OUTSIDE_ADDRESSES:
            add_route("default", gateway)
        self.outside.add_addresses(client_address(number) for number in range(CLIENTS))
        self.outside.add_addresses(client_address(number, 6) for number in range(10))
        # many connections between few addresses: what the README recommends to every node
        for set_there in (set_sysctl, self.pods.set_sysctl, self.outside.set_sysctl):
            set_there("net.ipv4.tcp_tw_reuse", "1")
            set_there("net.ipv4.ip_local_port_range", "32768 65535")
        for machine in (self.node, self.pods):
            with machine.inside():
                lift_icmp_limits()

    def close(self) -> None:
        """Unplug both hosts; their namespaces end with the last of their processes."""
        self.pods.close()
        self.outside.close()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
