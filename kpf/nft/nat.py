"""Statements that rewrite addresses: redirect to a proxy port, forward to an endpoint, masquerade. Pure."""

from ipaddress import IPv4Address

from kpf.model.names import Family, IPAddress, SocketAddress, family_of
from kpf.nft import expressions as ex
from kpf.nft.statements import PREFIX, Statement
from kpf.uapi.netfilter import NF_NAT_RANGE
from kpf.uapi.nf_expressions import NFT_META

# the bit by which Kubernetes' components mark what is to be masqueraded (kube-proxy's iptables.masqueradeBit is 14)
MASQUERADE_MARK = 1 << 14


def _to_proxy(one: Family, address: IPAddress, key: bytes, name: str) -> bytes:
    """Look the port up by `key` and rewrite the destination; a lookup that finds nothing ends the rule."""
    register = ex.REGISTER + 8
    load = ex.immediate(address.packed, register)
    return key + ex.lookup(name, into=ex.REGISTER) + load + ex.dnat(one, register, ex.REGISTER)


def redirect_by_address(one: Family, address: IPAddress, name: str) -> Statement:
    """To the proxy address, at the port that the map has for TCP destination address and port, if it has one."""
    key = ex.destination(one) + ex.destination_port(ex.after(one))
    prefix = PREFIX[one]
    text = f"dnat {prefix} to {_bracketed(address)} : {prefix} daddr . tcp dport map @{name}"
    return Statement(text, _to_proxy(one, address, key, name))


def redirect_by_port(one: Family, address: IPAddress, name: str) -> Statement:
    """To the proxy address, at the port that the map has for the TCP destination port, if it has one."""
    text = f"dnat {PREFIX[one]} to {_bracketed(address)} : tcp dport map @{name}"
    return Statement(text, _to_proxy(one, address, ex.destination_port(ex.REGISTER), name))


def _bracketed(address: IPAddress) -> str:
    return str(address) if isinstance(address, IPv4Address) else f"[{address}]"


def forward_to(endpoint: SocketAddress) -> Statement:
    """To this address and port; replies come back as from where the client has sent to."""
    one = family_of(endpoint.address)
    address, port = ex.REGISTER, ex.after(one)
    load = ex.immediate(endpoint.address.packed, address) + ex.immediate(endpoint.port.to_bytes(2, "big"), port)
    nat = ex.dnat(one, address, port, flags=NF_NAT_RANGE.PROTO_SPECIFIED)
    return Statement(f"dnat {PREFIX[one]} to {endpoint}", load + nat)


def forward_in_turn(one: Family, count: int, anonymous: str, set_id: int, shown: str) -> Statement:
    """To one after the other of so many endpoints: those of an anonymous map under 0, 1, ...; `shown`: its elements."""
    chosen = ex.numgen(count) + ex.lookup(anonymous, into=ex.REGISTER, set_id=set_id)
    text = f"dnat {PREFIX[one]} to numgen inc mod {count} map {{ {shown} }}"
    return Statement(text, chosen + ex.dnat(one, ex.REGISTER, ex.after(one)))


def mark_for_masquerade() -> Statement:
    """Set our bit of the packet's mark, and leave the others."""
    bits = ex.bitwise(ex.word(~MASQUERADE_MARK & 0xFFFFFFFF), ex.word(MASQUERADE_MARK))
    text = f"meta mark set meta mark | 0x{MASQUERADE_MARK:08x}"
    return Statement(text, ex.meta(NFT_META.MARK) + bits + ex.set_meta(NFT_META.MARK))


def take_mark_away() -> Statement:
    """Clear our bit, and leave the others: what a tunnel wraps the packet into has its mark, and is not masqueraded."""
    left = ~MASQUERADE_MARK & 0xFFFFFFFF
    text = f"meta mark set meta mark & 0x{left:08x}"
    return Statement(text, ex.meta(NFT_META.MARK) + ex.masked(left) + ex.set_meta(NFT_META.MARK))


def marked_for_masquerade() -> Statement:
    """Our bit of the mark is set. It is kube-proxy's, too, so it may be by that."""
    marked = ex.meta(NFT_META.MARK) + ex.masked(MASQUERADE_MARK) + ex.compare(ex.word(MASQUERADE_MARK))
    return Statement(f"meta mark & 0x{MASQUERADE_MARK:08x} == 0x{MASQUERADE_MARK:08x}", marked)


def masquerade() -> Statement:
    """The source becomes this node's, on the interface that the packet leaves by."""
    return Statement("masquerade", ex.masquerade())
