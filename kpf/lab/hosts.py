"""Hosts of the lab: machines beside the node, each a network namespace joined to ours by a veth pair.

A host is nothing but the descriptor of a namespace, gone when the process that made it is. Links, addresses and routes
are set through netlink; no `ip` binary.
"""

import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_interface, ip_network

from pyroute2 import IPRoute

from kpf.lab import namespace
from kpf.lab.machine import Machine

IFA_F_NODAD = 2


class Host(Machine):
    """A second machine: a network namespace joined to ours by a veth pair, `link` here and `eth0` there.

    `ours` and `theirs` are the two ends' addresses with prefix length; the host's default routes go through `ours`.
    Raises `NamespaceRefusedError`.
    """

    def __init__(self, link: str, *, ours: Sequence[str], theirs: Sequence[str]) -> None:
        self._descriptor = namespace.create()
        super().__init__(self._descriptor)
        self.link = link
        with IPRoute() as ip:
            ip.link("add", ifname=link, kind="veth", peer={"ifname": "eth0", "net_ns_fd": self._descriptor})
            _set_up(ip, link, ours)
        with namespace.inside(self._descriptor), IPRoute() as ip:
            _set_up(ip, "eth0", theirs)
            for address in ours:
                ip.route("add", dst=_everything(address), gateway=str(ip_interface(address).ip))

    def add_addresses(self, addresses: Iterable[str]) -> None:
        """Give the host more addresses; without a prefix length they are single ones."""
        with namespace.inside(self._descriptor), IPRoute() as ip:
            _add_addresses(ip, "eth0", addresses)

    def remove_address(self, address: str) -> None:
        with namespace.inside(self._descriptor), IPRoute() as ip:
            interface = ip_interface(address)
            ip.addr(
                "del",
                index=ip.link_lookup(ifname="eth0")[0],
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
            )

    def swallow(self, networks: Iterable[str]) -> None:
        """What comes for these networks, and no address of the host, vanishes without an answer."""
        with namespace.inside(self._descriptor), IPRoute() as ip:
            for network in networks:
                ip.route("add", dst=str(ip_network(network)), type="blackhole")

    def set_sysctl(self, name: str, value: str) -> bool:
        """Set a sysctl of the host; False if the machine does not let us."""
        with namespace.inside(self._descriptor):
            return set_sysctl(name, value)

    def close(self) -> None:
        """Unplug the host. Its namespace ends with its last process."""
        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=self.link):
                ip.link("del", index=index)
        os.close(self._descriptor)


def add_route(network: str, gateway: str) -> None:
    """A route of the node; `network` "default" needs the gateway for its family."""
    with IPRoute() as ip:
        ip.route("add", dst=_everything(gateway) if network == "default" else network, gateway=gateway)


def set_sysctl(name: str, value: str) -> bool:
    """Set a sysctl of the namespace we are in ("net.ipv4.ip_forward"); False if the machine does not let us."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True


def _set_up(ip: IPRoute, name: str, addresses: Iterable[str]) -> None:
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
    _add_addresses(ip, name, addresses)


def _add_addresses(ip: IPRoute, name: str, addresses: Iterable[str]) -> None:
    index = ip.link_lookup(ifname=name)[0]
    for address in addresses:
        interface = ip_interface(address)
        # an IPv6 address is unusable for the second that duplicate detection takes
        flags = IFA_F_NODAD if interface.version == 6 else 0
        ip.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, flags=flags)


def _everything(address: str) -> str:
    return "::/0" if ip_address(address.partition("/")[0]).version == 6 else "0.0.0.0/0"
