"""The state of `Rules` as elements of sets and maps: keys and values as the kernel has them. Pure."""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from kpf.model.names import Family, IPAddress, IPNetwork, Protocol, SocketAddress, family_of
from kpf.model.rules import Action, NodePort, Portal, Rules, Verdict
from kpf.nft.schema import name_of

PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PORT = struct.Struct(">H")

Value = bytes | Verdict | None
"""None in a set, a proxy port's bytes or a verdict in a map."""

Key = tuple[str, bytes]
"""Name of the set, and the key in it."""

Elements = dict[Key, Value]


def port_bytes(port: int) -> bytes:
    return _PORT.pack(port)


def address_key(address: IPAddress, port: int) -> bytes:
    return address.packed + _PORT.pack(port) + b"\0\0"


def _protocol_key(protocol: Protocol, port: int) -> bytes:
    return bytes((PROTOCOLS[protocol], 0, 0, 0)) + _PORT.pack(port) + b"\0\0"


def portal_element(portal: Portal, action: Action) -> tuple[Key, Value]:
    family = family_of(portal.address)
    if isinstance(action, Verdict):
        return (name_of("verdict", family), portal.address.packed + _protocol_key(portal.protocol, portal.port)), action
    return (name_of("proxy", family), address_key(portal.address, portal.port)), port_bytes(action)


def node_port_element(portal: NodePort, action: Action) -> tuple[Key, Value]:
    if isinstance(action, Verdict):
        return (name_of("verdict-node-ports", portal.family), _protocol_key(portal.protocol, portal.port)), action
    return (name_of("proxy-node-ports", portal.family), port_bytes(portal.port)), port_bytes(action)


def listening_element(at: SocketAddress) -> tuple[Key, Value]:
    return (name_of("listening", family_of(at.address)), address_key(at.address, at.port)), None


def cluster_ip_element(address: IPAddress) -> tuple[Key, Value]:
    return (name_of("cluster-ips", family_of(address)), address.packed), None


def node_port_networks(rules: Rules, family: Family) -> list[IPNetwork]:
    """Networks of this family, none inside another; a family that none is named for has all its addresses."""
    named = {network for network in rules.node_port_networks if network.version == family}
    # one family: mypy does not see it
    outer = [one for one in named if not any(one != two and one.subnet_of(two) for two in named)]  # type: ignore[arg-type]
    return sorted(outer) or [ip_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")]


def intervals(network: IPv4Network | IPv6Network) -> Iterator[tuple[bytes, bool]]:
    """(key, is the end): the end of an interval is the first key behind it, and missing where there is none."""
    yield network.network_address.packed, False
    size = 4 if network.version == 4 else 16
    behind = int(network.broadcast_address) + 1
    if behind < 1 << size * 8:
        yield behind.to_bytes(size, "big"), True


def all_elements(rules: Rules) -> Elements:
    """Everything but the interval sets."""
    found: Elements = {}
    found.update(portal_element(portal, action) for portal, action in rules.portals.items())
    found.update(node_port_element(portal, action) for portal, action in rules.node_ports.items())
    found.update(map(cluster_ip_element, rules.cluster_ips))
    found.update(map(listening_element, rules.listening))
    return found
