"""The statements that kpf's rules are made of. Each knows its text (as `nft` reads it) and its netlink expressions.

Pure. Every statement leaves its registers to the next one.
"""

import functools
from ipaddress import ip_network
from typing import NamedTuple

from kpf.model.names import Family, IPAddress, IPNetwork, Protocol, family_of
from kpf.netlink.nfnetlink import IPPROTO_OF
from kpf.nft import expressions as ex
from kpf.uapi.netfilter import IP_CT, IPS, NF, nf_ct_state_bit
from kpf.uapi.nf_expressions import NFT_CMP, NFT_CT, NFT_META, NFT_REJECT, NFT_REJECT_ICMPX, NFT_SOCKET, NFTA_FIB_F
from kpf.uapi.nf_tables import NFT
from kpf.uapi.rtnetlink import RTN
from kpf.uapi.sockets import IFNAMSIZ


class Statement(NamedTuple):
    """`text`: as nft reads it; `expressions`: what the kernel is given, encoded."""

    text: str
    expressions: bytes


# of TCP's header: FIN, SYN, RST and ACK together
SYN, ANY_FLAG = 0x02, 0x17

PREFIX = {Family.IPV4: "ip", Family.IPV6: "ip6"}


@functools.cache
def family(one: Family) -> Statement:
    """The packet is of this family: to be said before its addresses are looked at."""
    return Statement(f"meta nfproto {'ipv4' if one is Family.IPV4 else 'ipv6'}", ex.family(one))


@functools.cache
def protocol(one: Protocol) -> Statement:
    """One of "tcp", "udp" and "sctp". Raises KeyError for others."""
    compared = ex.compare(bytes([IPPROTO_OF[one]]))
    return Statement(f"meta l4proto {one.lower()}", ex.meta(NFT_META.L4PROTO) + compared)


def tcp() -> Statement:
    """To be said before ports or flags of it are looked at."""
    return protocol(Protocol.TCP)


def new_connection() -> Statement:
    """Conntrack has seen no reply: a SYN that is sent again is new, too."""
    state = ex.ct(NFT_CT.STATE) + ex.masked(nf_ct_state_bit(IP_CT.NEW))
    return Statement("ct state new", state + ex.compare(ex.ZERO, operator=NFT_CMP.NEQ))


def not_new() -> Statement:
    """Established, related, or nothing that conntrack makes sense of."""
    state = ex.ct(NFT_CT.STATE) + ex.masked(nf_ct_state_bit(IP_CT.NEW))
    return Statement("ct state ! new", state + ex.compare(ex.ZERO))


def under_way() -> Statement:
    """A TCP segment that does not ask for a connection, so that it must belong to one."""
    kind = ex.tcp_flags() + ex.bitwise(bytes([ANY_FLAG]), b"\0") + ex.compare(bytes([SYN]), operator=NFT_CMP.NEQ)
    return Statement("tcp flags & (fin | syn | rst | ack) != syn", protocol(Protocol.TCP).expressions + kind)


def sent_by(uid: int) -> Statement:
    """By a socket of this user's. Of what comes from elsewhere, or over lo, there is no socket to ask."""
    return Statement(f"meta skuid {uid}", ex.meta(NFT_META.SKUID) + ex.compare(ex.word(uid)))


def not_redirected() -> Statement:
    """The connection's destination has not been rewritten."""
    status = ex.ct(NFT_CT.STATUS) + ex.masked(IPS.DST_NAT)
    return Statement("ct status ! dnat", status + ex.compare(ex.ZERO))


def redirected() -> Statement:
    """The connection's destination has been rewritten, by us or by others."""
    status = ex.ct(NFT_CT.STATUS) + ex.masked(IPS.DST_NAT)
    return Statement("ct status dnat", status + ex.compare(ex.ZERO, operator=NFT_CMP.NEQ))


def sent_before() -> Statement:
    """The connection's first packet has left this node already: its entry is confirmed."""
    status = ex.ct(NFT_CT.STATUS) + ex.masked(IPS.CONFIRMED)
    return Statement("ct status confirmed", status + ex.compare(ex.ZERO, operator=NFT_CMP.NEQ))


def has_socket() -> Statement:
    """TCP would find a socket for it on this node: a connection of any state, or a listening one, whatever its group.

    Known at input; the kernel must have CONFIG_NFT_SOCKET. Of the keys, TRANSPARENT is the one that all sockets answer:
    the others end the rule at one in TIME_WAIT, where a SYN may begin the next connection.
    """
    return Statement(
        "socket transparent >= 0", ex.socket(NFT_SOCKET.TRANSPARENT) + ex.compare(b"\0", operator=NFT_CMP.GTE)
    )


def local_destination() -> Statement:
    """An address of this node, loopback included (RTN_LOCAL)."""
    return Statement("fib daddr type local", ex.fib_type(NFTA_FIB_F.DADDR) + ex.compare(ex.word(RTN.LOCAL)))


def foreign_destination() -> Statement:
    """No address of this node: somebody else's, broadcast or multicast."""
    found = ex.fib_type(NFTA_FIB_F.DADDR) + ex.compare(ex.word(RTN.LOCAL), operator=NFT_CMP.NEQ)
    return Statement("fib daddr type != local", found)


def local_source() -> Statement:
    """An address of this node, whoever has sent it."""
    return Statement("fib saddr type local", ex.fib_type(NFTA_FIB_F.SADDR) + ex.compare(ex.word(RTN.LOCAL)))


def _inside(one: Family, what: str, address: bytes, network: IPNetwork) -> Statement:
    shown = network.network_address if network.prefixlen == network.max_prefixlen else network
    return Statement(f"{PREFIX[one]} {what} {shown}", ex.family(one) + address + ex.inside(network))


def source_inside(network: IPNetwork) -> Statement:
    """The source is inside, and of the network's family."""
    one = family_of(network)
    return _inside(one, "saddr", ex.source(one), network)


def sent_to(address: IPAddress) -> Statement:
    """The destination is this very address."""
    one = family_of(address)
    return _inside(one, "daddr", ex.destination(one), ip_network(address))


def not_to(network: IPNetwork) -> Statement:
    """The destination is outside, and of the network's family."""
    one, mask = family_of(network), network.netmask.packed
    shown = network.network_address if network.prefixlen == network.max_prefixlen else network
    compared = ex.compare(network.network_address.packed, operator=NFT_CMP.NEQ)
    return Statement(
        f"{PREFIX[one]} daddr != {shown}",
        ex.family(one) + ex.destination(one) + ex.bitwise(mask, bytes(len(mask))) + compared,
    )


def _interface(word: str, key: int, name: str, *, is_prefix: bool) -> Statement:
    shown = f"{name}*" if is_prefix else name
    # a name is compared with the zeros behind it, the beginning of one without
    value = name.encode() if is_prefix else name.encode().ljust(IFNAMSIZ, b"\0")
    return Statement(f'{word} "{shown}"', ex.meta(key) + ex.compare(value))


def comes_from_interface(name: str, *, is_prefix: bool) -> Statement:
    """`name`: whole, or what names begin with where `is_prefix`. Nothing comes from one in output."""
    return _interface("iifname", NFT_META.IIFNAME, name, is_prefix=is_prefix)


def leaves_by_interface(name: str) -> Statement:
    """By its whole name; known once the packet is routed, so not in prerouting and input."""
    return _interface("oifname", NFT_META.OIFNAME, name, is_prefix=False)


def between_bridges() -> Statement:
    """It comes in by a bridge and goes out by a bridge, as it does from port to port of one."""
    bridge = ex.compare(b"bridge".ljust(IFNAMSIZ, b"\0"))
    kinds = ex.meta(NFT_META.IIFKIND) + bridge + ex.meta(NFT_META.OIFKIND) + bridge
    return Statement('meta iifkind "bridge" meta oifkind "bridge"', kinds)


def destination_in(one: Family, name: str) -> Statement:
    """The destination is in the set, of single addresses or of networks."""
    return Statement(f"{PREFIX[one]} daddr @{name}", ex.destination(one) + ex.lookup(name))


def source_in(one: Family, name: str) -> Statement:
    """The source is in the set, of single addresses or of networks."""
    return Statement(f"{PREFIX[one]} saddr @{name}", ex.source(one) + ex.lookup(name))


def source_and_destination_in(one: Family, name: str) -> Statement:
    """The pair of both is in the set."""
    prefix = PREFIX[one]
    key = ex.source(one) + ex.destination(one, ex.after(one))
    return Statement(f"{prefix} saddr . {prefix} daddr @{name}", key + ex.lookup(name))


def destination_port_in(one: Family, name: str) -> Statement:
    """TCP destination address and port are in the set."""
    key = ex.destination(one) + ex.destination_port(ex.after(one))
    return Statement(f"{PREFIX[one]} daddr . tcp dport @{name}", key + ex.lookup(name))


def address_verdict(one: Family, name: str) -> Statement:
    """The verdict for destination address, protocol and port, if the map has one."""
    after = ex.after(one)
    text = f"{PREFIX[one]} daddr . meta l4proto . th dport vmap @{name}"
    key = ex.destination(one) + ex.meta(NFT_META.L4PROTO, after) + ex.destination_port(after + 1)
    return Statement(text, key + ex.lookup(name, into=ex.VERDICT_REGISTER))


def port_verdict(name: str) -> Statement:
    """The verdict for protocol and destination port, whatever the address, if the map has one."""
    key = ex.meta(NFT_META.L4PROTO) + ex.destination_port(ex.REGISTER + 1)
    return Statement(f"meta l4proto . th dport vmap @{name}", key + ex.lookup(name, into=ex.VERDICT_REGISTER))


def go_in_turn(count: int, anonymous: str, set_id: int, shown: str) -> Statement:
    """To one after the other of so many chains."""
    chosen = ex.numgen(count) + ex.lookup(anonymous, into=ex.VERDICT_REGISTER, set_id=set_id)
    return Statement(f"numgen inc mod {count} vmap {{ {shown} }}", chosen)


def remember_source(one: Family, name: str, timeout_s: int) -> Statement:
    """The source is in the set from now on, for so long after the last packet that comes here."""
    text = f"update @{name} {{ {PREFIX[one]} saddr timeout {timeout_s}s }}"
    return Statement(text, ex.source(one) + ex.update_set(name, timeout_s))


def jump(chain: str) -> Statement:
    """And come back, if that chain has no verdict."""
    return Statement(f"jump {chain}", ex.immediate_verdict(NFT.JUMP, chain))


def goto(chain: str) -> Statement:
    """And never come back: behind that chain's end is whoever has jumped here, or the policy."""
    return Statement(f"goto {chain}", ex.immediate_verdict(NFT.GOTO, chain))


def leave() -> Statement:
    """Back to whoever has jumped here; in a base chain: its policy."""
    return Statement("return", ex.immediate_verdict(NFT.RETURN))


def drop() -> Statement:
    """Without a word, and whatever chains come after this."""
    return Statement("drop", ex.immediate_verdict(NF.DROP))


def reject_reset() -> Statement:
    """Of TCP, which must have been said; in both families, for connect() heeds ICMPv6 only after a second SYN."""
    return Statement("reject with tcp reset", ex.reject(NFT_REJECT.TCP_RST))


def reject_port_unreachable() -> Statement:
    """By ICMP or ICMPv6: for what is not TCP."""
    return Statement(
        "reject with icmpx port-unreachable", ex.reject(NFT_REJECT.ICMPX_UNREACH, NFT_REJECT_ICMPX.PORT_UNREACH)
    )
