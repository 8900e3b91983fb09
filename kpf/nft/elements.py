"""The state of `Rules` as elements of sets and maps: keys and values as the kernel has them. Pure."""

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from itertools import chain

from kpf.model.names import Family, IPAddress, IPNetwork, Protocol, SocketAddress, family_of
from kpf.model.rules import Action, Direct, Masquerade, NodePort, Portal, Rules, Verdict
from kpf.netlink.nfnetlink import IPPROTO_OF
from kpf.nft.forwards import chain_of, sources_chain_of
from kpf.nft.schema import MASQUERADE_ALWAYS, MASQUERADE_FOREIGN, name_of
from kpf.nft.values import Goto, Jump, Pass, Value

_PORT = struct.Struct(">H")
_MASQUERADES = {Masquerade.ALWAYS: Jump(MASQUERADE_ALWAYS), Masquerade.FOREIGN: Jump(MASQUERADE_FOREIGN)}

Key = tuple[str, bytes]
"""Name of the set, and the key in it."""

Entry = tuple[Value, str]
"""What a map says at a key, and what `nft list` says beside it (libnftnl's comment), "" for nothing."""

Elements = dict[Key, Entry]

Element = tuple[Key, Entry]


# a longer one nft shows, and does not take back (NFTNL_UDATA_COMMENT_MAXLEN)
COMMENT_LIMIT = 128
_NOTHING: Entry = (None, "")


def port_bytes(port: int) -> bytes:
    """A proxy port as a map has it: big-endian, without padding."""
    return _PORT.pack(port)


def address_key(address: IPAddress, port: int) -> bytes:
    """Of sets by address and port: each part fills whole registers of 4 bytes."""
    return address.packed + _PORT.pack(port) + b"\0\0"


def _protocol_key(protocol: Protocol, port: int) -> bytes:
    return bytes((IPPROTO_OF[protocol], 0, 0, 0)) + _PORT.pack(port) + b"\0\0"


def portal_elements(portal: Portal | NodePort, action: Action, comment: str = "") -> list[Element]:
    """What makes a portal do that, for everybody."""
    key, value = _action_element(portal, action, "")
    comment = _shortened(comment)
    found = [(key, (value, comment))]
    if isinstance(action, Direct) and action.masquerade in _MASQUERADES:
        found.append((_key("masquerade", portal), (_MASQUERADES[action.masquerade], comment)))
    return found


def off_node_elements(portal: Portal | NodePort, action: Action, comment: str = "") -> list[Element]:
    """What makes a portal do that for those who come from elsewhere; they are never masqueraded."""
    key, value = _action_element(portal, action, "far-")
    comment = _shortened(comment)
    found = [(key, (value, comment))]
    if not isinstance(action, Verdict):
        # and whatever verdict there is for everybody is not for them
        found.append((_key("far-verdict", portal), (Pass.PASS, comment)))
    return found


def _shortened(comment: str) -> str:
    return comment if len(comment) <= COMMENT_LIMIT else f"{comment[: COMMENT_LIMIT - 3]}..."


def _action_element(portal: Portal | NodePort, action: Action, prefix: str) -> tuple[Key, Value]:
    if isinstance(action, Verdict):
        return _key(f"{prefix}verdict", portal), action
    if isinstance(action, Direct):
        return _key(f"{prefix}direct", portal), Goto(chain_of(action.frontend))
    if isinstance(portal, Portal):
        return (name_of(f"{prefix}proxy", portal.family), address_key(portal.address, portal.port)), port_bytes(action)
    return (name_of(f"{prefix}proxy-node-ports", portal.family), port_bytes(portal.port)), port_bytes(action)


def _key(kind: str, portal: Portal | NodePort) -> Key:
    """In the map of that kind whose keys have the protocol."""
    key = _protocol_key(portal.protocol, portal.port)
    if isinstance(portal, Portal):
        return name_of(kind, portal.family), portal.address.packed + key
    return name_of(f"{kind}-node-ports", portal.family), key


def sources_element(portal: Portal, comment: str = "") -> Element:
    """What sends a portal's new connections through the chain of its source ranges first."""
    return _key("guards", portal), (Jump(sources_chain_of(portal)), _shortened(comment))


def hairpin_element(address: IPAddress) -> Element:
    """What masquerades an endpoint that reaches itself: the pair of its address and the same one."""
    return (name_of("hairpins", family_of(address)), address.packed * 2), _NOTHING


def listening_element(at: SocketAddress) -> Element:
    """What refuses whoever reaches this proxy port without having been redirected there."""
    return (name_of("listening", family_of(at.address)), address_key(at.address, at.port)), _NOTHING


def cluster_ip_element(address: IPAddress) -> Element:
    """What refuses the ports of a ClusterIP that are no portals."""
    return (name_of("cluster-ips", family_of(address)), address.packed), _NOTHING


def networks(rules: Rules, name: str) -> list[IPNetwork] | None:
    """What an interval set has, none overlapping another; None if `name` is not that of one."""
    for family in Family:
        if name == name_of("node-port-networks", family):
            # a family that none is named for has all its addresses
            everywhere = ip_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")
            return _collapsed(rules.node_port_networks, family) or [everywhere]
        if name == name_of("service-cidrs", family):
            return _collapsed(rules.service_cidrs, family)
    return None


def _collapsed(named: Iterable[IPNetwork], family: Family) -> list[IPNetwork]:
    # one family: mypy does not see it
    return list(collapse_addresses(one for one in named if one.version == family))  # type: ignore[type-var]


def intervals(network: IPv4Network | IPv6Network) -> Iterator[tuple[bytes, bool]]:
    """(key, is the end): the end of an interval is the first key behind it, and missing where there is none."""
    yield network.network_address.packed, False
    size = 4 if network.version == 4 else 16
    behind = int(network.broadcast_address) + 1
    if behind < 1 << size * 8:
        yield behind.to_bytes(size, "big"), True


def all_elements(rules: Rules) -> Elements:
    """Everything but the interval sets, and what packets add."""
    found: Elements = {}
    comment_of = rules.comments.get
    everybody: Iterable[tuple[Portal | NodePort, Action]] = chain(
        rules.portals.items(), rules.node_ports.items(), rules.loopback.items()
    )
    for portal, action in everybody:
        found.update(portal_elements(portal, action, comment_of(portal, "")))
    for portal, action in rules.off_node.items():
        found.update(off_node_elements(portal, action, comment_of(portal, "")))
    found.update(sources_element(portal, comment_of(portal, "")) for portal in rules.source_ranges)
    found.update(map(hairpin_element, rules.hairpins))
    found.update(map(cluster_ip_element, rules.cluster_ips))
    found.update(map(listening_element, rules.listening))
    return found
