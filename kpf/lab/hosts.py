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
from kpf.uapi.rtnetlink import IFA_F


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
            set_up(ip, link)
            add_addresses(ip, link, ours)
        with self.inside(), IPRoute() as ip:
            set_up(ip, "eth0")
            add_addresses(ip, "eth0", theirs)
            for address in ours:
                ip.route("add", dst=_everything(address), gateway=str(ip_interface(address).ip))

    def add_addresses(self, addresses: Iterable[str]) -> None:
        """Give the host more addresses; without a prefix length they are single ones."""
        with self.inside(), IPRoute() as ip:
            add_addresses(ip, "eth0", addresses)

    def remove_address(self, address: str) -> None:
        """With the prefix length that it was given with. Raises `NetlinkError` if the host does not have it."""
        with self.inside(), IPRoute() as ip:
            remove_addresses(ip, "eth0", [address])

    def swallow(self, networks: Iterable[str]) -> None:
        """What comes for these networks, and no address of the host, vanishes without an answer."""
        with self.inside(), IPRoute() as ip:
            for network in networks:
                ip.route("add", dst=str(ip_network(network)), type="blackhole")

    def set_sysctl(self, name: str, value: str) -> bool:
        """Set a sysctl of the host; False if the machine does not let us."""
        with self.inside():
            return set_sysctl(name, value)

    def close(self) -> None:
        """Unplug the host. Its namespace ends with its last process."""
        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=self.link):
                ip.link("del", index=index)
        os.close(self._descriptor)


def add_route(network: str, gateway: str) -> None:
    """A route of the node; `network` "default" needs the gateway for its family. One that is there is replaced."""
    with IPRoute() as ip:
        ip.route("replace", dst=_everything(gateway) if network == "default" else network, gateway=gateway)


def set_sysctl(name: str, value: str) -> bool:
    """Set a sysctl of the namespace we are in ("net.ipv4.ip_forward"); False if the machine does not let us."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True


def skip_duplicate_detection() -> None:
    """Links that are made from now on in the namespace we are in have a link-local address that can be used at once."""
    set_sysctl("net.ipv6.conf.default.accept_dad", "0")


def forward() -> bool:
    """Let the namespace we are in forward packets, IPv4 and IPv6; False if the machine does not let us."""
    return all(set_sysctl(name, "1") for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"))


def lift_icmp_limits() -> None:
    """Let the namespace we are in tell of every datagram that is refused, as far as the machine lets us.

    By default a client that has thousands refused at once is told of six, and then of one a second.
    """
    for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
        set_sysctl(name, "0")
    for name in ("net.ipv4.icmp_msgs_per_sec", "net.ipv4.icmp_msgs_burst"):
        set_sysctl(name, "100000")


def set_up(ip: IPRoute, name: str) -> None:
    """A link of the namespace that `ip` was opened in. Raises `IndexError` if there is none of that name."""
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")


def add_addresses(ip: IPRoute, name: str, addresses: Iterable[str]) -> None:
    """With prefix lengths, single ones without; usable at once. Raises `NetlinkError` (EEXIST) if the link has one."""
    index = ip.link_lookup(ifname=name)[0]
    for address in addresses:
        interface = ip_interface(address)
        # an IPv6 address is unusable for the second that duplicate detection takes
        flags = IFA_F.NODAD if interface.version == 6 else 0
        ip.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, flags=flags)


def remove_addresses(ip: IPRoute, name: str, addresses: Iterable[str]) -> None:
    """With the prefix lengths they were given with. Raises `NetlinkError` (EADDRNOTAVAIL) if the link lacks one."""
    index = ip.link_lookup(ifname=name)[0]
    for address in addresses:
        interface = ip_interface(address)
        ip.addr("del", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)


def change_addresses(link: str, *, gone: Iterable[str] = (), come: Iterable[str] = ()) -> None:
    """Of a link of the namespace we are in; with prefix lengths, single ones without."""
    with IPRoute() as ip:
        remove_addresses(ip, link, gone)
        add_addresses(ip, link, come)


def _everything(address: str) -> str:
    return "::/0" if ip_address(address.partition("/")[0]).version == 6 else "0.0.0.0/0"
