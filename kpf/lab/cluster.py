"""The lab's cluster: a node with pods of every kind, another node with a pod behind it, and a host outside.

The node is the namespace we are in; its default route leads to the outside host and no further. Its own pods are
routed (as Calico does) or ports of the bridge `cni0`; they and those of the other node have networks of their own.
"""

from contextlib import ExitStack

from kpf.lab.hosts import Host, add_route, forward, lift_icmp_limits, set_sysctl, skip_duplicate_detection
from kpf.lab.machine import Machine
from kpf.lab.manifests import Object, node
from kpf.lab.namespace import NamespaceRefusedError
from kpf.lab.pods import Bridge, BridgedPod, RoutedPod

NODE, OTHER_NODE = "node-a", "node-b"
NODE_ADDRESSES = ("192.168.50.1", "fd00:192:168:50::1")
# on the link to the other node
SECOND_NODE_ADDRESSES = ("192.168.51.1", "fd00:192:168:51::1")
OUTSIDE_ADDRESSES = ("192.168.50.2", "fd00:192:168:50::2")
OTHER_NODE_ADDRESSES = ("192.168.51.2", "fd00:192:168:51::2")
POD_CIDRS = ("10.244.1.0/24", "fd00:10:244:1::/64")
OTHER_POD_CIDRS = ("10.244.2.0/24", "fd00:10:244:2::/64")
BRIDGE_ADDRESSES = ("10.244.1.129", "fd00:10:244:1:8000::1")
# the upper half of the node's pod network
_BRIDGE_BITS = (25, 65)
_LINK_BITS = (24, 64)


class Cluster:
    """Made in a namespace of one's own, once. Raises `NamespaceRefusedError` if the machine does not let it forward.

    `routed` and `bridged` are pods of this node, `neighbour` another one at the bridge, `remote` one of the other node.
    """

    def __init__(self) -> None:
        with ExitStack() as made:
            skip_duplicate_detection()
            if not forward():
                raise NamespaceRefusedError("the node may not forward: its sysctls cannot be set")
            lift_icmp_limits()
            self.node = Machine()
            self.outside = Host(
                "out0", ours=_with(NODE_ADDRESSES, _LINK_BITS), theirs=_with(OUTSIDE_ADDRESSES, _LINK_BITS)
            )
            made.callback(self.outside.close)
            self.other = Host(
                "node0", ours=_with(SECOND_NODE_ADDRESSES, _LINK_BITS), theirs=_with(OTHER_NODE_ADDRESSES, _LINK_BITS)
            )
            made.callback(self.other.close)
            for gateway in OUTSIDE_ADDRESSES:
                add_route("default", gateway)
            for network, gateway in zip(OTHER_POD_CIDRS, OTHER_NODE_ADDRESSES, strict=True):
                add_route(network, gateway)
            with self.other.inside():
                skip_duplicate_detection()
                forward()
            self.bridge = Bridge(self.node, "cni0", _with(BRIDGE_ADDRESSES, _BRIDGE_BITS))
            made.callback(self.bridge.close)
            self.remote = RoutedPod(self.other, "cali1", ("10.244.2.10", "fd00:10:244:2::10"))
            made.callback(self.remote.close)
            self.routed = RoutedPod(self.node, "cali1", ("10.244.1.10", "fd00:10:244:1::10"))
            made.callback(self.routed.close)
            self.bridged, self.neighbour = (self._at_the_bridge(made, number) for number in (130, 131))
            set_sysctl("net.ipv4.tcp_tw_reuse", "1")
            self._made = made.pop_all()

    def _at_the_bridge(self, made: ExitStack, number: int) -> BridgedPod:
        addresses = (f"10.244.1.{number}", f"fd00:10:244:1:8000::{number}")
        pod = BridgedPod(self.bridge, f"veth{number}", _with(addresses, _BRIDGE_BITS))
        made.callback(pod.close)
        return pod

    def close(self) -> None:
        """Unplug all hosts and pods, the last one first; the node's sysctls stay as they are set."""
        self._made.close()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nodes() -> list[Object]:
    """Both Nodes as the API has them."""
    return [
        node(NODE, internal_ips=NODE_ADDRESSES, pod_cidrs=POD_CIDRS),
        node(OTHER_NODE, internal_ips=OTHER_NODE_ADDRESSES, pod_cidrs=OTHER_POD_CIDRS),
    ]


def _with(addresses: tuple[str, str], bits: tuple[int, int]) -> tuple[str, str]:
    return f"{addresses[0]}/{bits[0]}", f"{addresses[1]}/{bits[1]}"
