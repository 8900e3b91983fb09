"""Pods as network plugins make them: namespaces of their own, joined to a node by veth pairs.

- `RoutedPod`, as Calico does: the node's end has no address, one route leads to the pod, and the pod's default route
  goes to a link-local address that nobody has, with a fixed neighbour entry.
- `BridgedPod`, as the bridge plugin does: a port of the node's bridge, which has an address of the pods' network.
"""

import os
from collections.abc import Sequence

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kpf.lab import namespace
from kpf.lab.hosts import add_addresses, set_sysctl, set_up, skip_duplicate_detection
from kpf.lab.machine import Machine
from kpf.uapi.rtnetlink import NUD

# Calico's: the same for all its links
ROUTED_MAC = "ee:ee:ee:ee:ee:ee"
ROUTED_GATEWAYS = ("169.254.1.1", "fe80::ecee:eeff:feee:eeee")


class Pod(Machine):
    """A namespace with a link `eth0` that has these addresses (with prefix length), and its other end in the node's.

    The node's namespace ends the link when it ends itself. Raises `NamespaceRefusedError`.
    """

    def __init__(self, node: Machine, link: str, addresses: Sequence[str], *, mac: str | None = None) -> None:
        self.node = node
        self.link = link
        self.addresses = tuple(address.partition("/")[0] for address in addresses)
        self._descriptor = namespace.create()
        super().__init__(self._descriptor)
        with self.inside():
            skip_duplicate_detection()
        with node.inside(), IPRoute() as ip:
            peer = {"ifname": "eth0", "net_ns_fd": self._descriptor}
            ip.link("add", ifname=link, kind="veth", peer=peer, **({"address": mac} if mac else {}))
            set_up(ip, link)
        with self.inside(), IPRoute() as ip:
            set_up(ip, "eth0")
            add_addresses(ip, "eth0", addresses)

    def close(self) -> None:
        """Unplug it. Its namespace ends with its last process."""
        _unplug(self.node, self.link)
        os.close(self._descriptor)


class RoutedPod(Pod):
    """A pod with one IPv4 and one IPv6 address, both without prefix length."""

    def __init__(self, node: Machine, link: str, addresses: tuple[str, str]) -> None:
        super().__init__(node, link, addresses, mac=ROUTED_MAC)
        with node.inside(), IPRoute() as ip:
            (index,) = ip.link_lookup(ifname=link)
            for address, bits in zip(addresses, (32, 128), strict=True):
                ip.route("add", dst=f"{address}/{bits}", oif=index)
        with self.inside(), IPRoute() as ip:
            (index,) = ip.link_lookup(ifname="eth0")
            ip.route("add", dst=f"{ROUTED_GATEWAYS[0]}/32", oif=index, scope="link")
            for gateway, everything in zip(ROUTED_GATEWAYS, ("0.0.0.0/0", "::/0"), strict=True):
                ip.neigh("replace", dst=gateway, lladdr=ROUTED_MAC, ifindex=index, state=NUD.PERMANENT)
                ip.route("add", dst=everything, gateway=gateway, oif=index)


class Bridge:
    """A bridge of the node, with addresses (with prefix length).

    `filtered`: the kernel shows what goes from port to port to the netfilter hooks of IP (br_netfilter); False if it
    cannot. Raises `NamespaceRefusedError` if it has no bridges.
    """

    def __init__(self, node: Machine, link: str, addresses: Sequence[str], *, filtered: bool = True) -> None:
        self.node = node
        self.link = link
        self.gateways = tuple(address.partition("/")[0] for address in addresses)
        with node.inside(), IPRoute() as ip:
            try:
                ip.link("add", ifname=link, kind="bridge")
            except NetlinkError as error:
                raise namespace.NamespaceRefusedError(error.code, "this kernel has no bridges") from error
            set_up(ip, link)
            add_addresses(ip, link, addresses)
        self.filtered = self.filter(filtered) and filtered

    def filter(self, wanted: bool) -> bool:
        """Let netfilter see what goes from port to port, or not; False if the machine does not let us."""
        with self.node.inside():
            value = str(int(wanted))
            names = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
            return all(set_sysctl(name, value) for name in names)

    def close(self) -> None:
        """Delete it; its ports stay, and lead nowhere."""
        _unplug(self.node, self.link)


class BridgedPod(Pod):
    """A pod at a bridge, with addresses of its networks (with prefix length); it may reach itself over its own port."""

    def __init__(self, bridge: Bridge, link: str, addresses: Sequence[str]) -> None:
        super().__init__(bridge.node, link, addresses)
        with bridge.node.inside(), IPRoute() as ip:
            (index,), (master,) = ip.link_lookup(ifname=link), ip.link_lookup(ifname=bridge.link)
            ip.link("set", index=index, master=master)
            ip.link("set", index=index, kind="bridge_slave", mode=1)
        with self.inside(), IPRoute() as ip:
            for gateway in bridge.gateways:
                ip.route("add", dst="::/0" if ":" in gateway else "0.0.0.0/0", gateway=gateway)


def _unplug(node: Machine, link: str) -> None:
    """Delete a link of the node, if it is still there."""
    with node.inside(), IPRoute() as ip:
        for index in ip.link_lookup(ifname=link):
            ip.link("del", index=index)
