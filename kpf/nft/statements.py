"""The statements that kpf's rules are made of. Each knows its text (as `nft` reads it) and its netlink expressions.

Pure. Register numbers are those of the kernel's 32-bit registers (NFT_REG32_00 = 8, include/uapi/linux/netfilter/
nf_tables.h); 0 is the verdict register. Every statement leaves its registers to the next one.
"""

import struct
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from kpf.model.names import Family, IPAddress

Attributes = dict[str, list[tuple[str, Any]]]


class Statement(NamedTuple):
    text: str
    expressions: tuple[Attributes, ...]


VERDICT_REGISTER, REGISTER = 0, 8
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2

# include/uapi/linux/netfilter/nf_tables.h
META_NFPROTO, META_L4PROTO = 15, 16
CT_STATE, CT_STATUS = 0, 2
CMP_EQ, CMP_NEQ = 0, 1
FIB_DADDR = 2
REJECT_TCP_RST, REJECT_ICMPX, ICMPX_PORT_UNREACHABLE = 1, 2, 1
NAT_DNAT = 1
# include/uapi/linux/netfilter/nf_conntrack_common.h: bits of ct->status; state bits as nft counts them
STATUS_CONFIRMED, STATUS_DST_NAT, STATE_NEW = 1 << 3, 1 << 5, 1 << 3
RTN_LOCAL = 2
PROTOCOL_TCP = 6
NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}
NF_DROP, NFT_JUMP, NFT_GOTO = 0, -3, -4

_PREFIX = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_DESTINATION = {Family.IPV4: (16, 4), Family.IPV6: (24, 16)}


def expression(name: str, *attributes: tuple[str, Any]) -> Attributes:
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": list(attributes)})]}


def _data(value: bytes) -> Attributes:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def verdict(code: int, chain: str = "") -> Attributes:
    attributes: list[tuple[str, Any]] = [("NFTA_VERDICT_CODE", code)]
    if chain:
        attributes.append(("NFTA_VERDICT_CHAIN", chain))
    return {"attrs": [("NFTA_DATA_VERDICT", {"attrs": attributes})]}


def _meta(key: int, register: int = REGISTER) -> Attributes:
    return expression("meta", ("NFTA_META_DREG", register), ("NFTA_META_KEY", key))


def _compare(value: bytes, *, operator: int = CMP_EQ) -> Attributes:
    return expression("cmp", ("NFTA_CMP_SREG", REGISTER), ("NFTA_CMP_OP", operator), ("NFTA_CMP_DATA", _data(value)))


def _payload(base: int, offset: int, length: int, register: int) -> Attributes:
    return expression(
        "payload",
        ("NFTA_PAYLOAD_DREG", register),
        ("NFTA_PAYLOAD_BASE", base),
        ("NFTA_PAYLOAD_OFFSET", offset),
        ("NFTA_PAYLOAD_LEN", length),
    )


def _lookup(name: str, *, into: int | None = None) -> Attributes:
    attributes: list[tuple[str, Any]] = [("NFTA_LOOKUP_SET", name), ("NFTA_LOOKUP_SREG", REGISTER)]
    if into is not None:
        attributes.append(("NFTA_LOOKUP_DREG", into))
    return expression("lookup", *attributes)


def _immediate_verdict(code: int, chain: str = "") -> Attributes:
    data = ("NFTA_IMMEDIATE_DATA", verdict(code, chain))
    return expression("immediate", ("NFTA_IMMEDIATE_DREG", VERDICT_REGISTER), data)


def _bits(mask: int) -> tuple[Attributes, ...]:
    """The register, masked, in place."""
    word = struct.Struct("=I")
    return (
        expression(
            "bitwise",
            ("NFTA_BITWISE_SREG", REGISTER),
            ("NFTA_BITWISE_DREG", REGISTER),
            ("NFTA_BITWISE_LEN", 4),
            ("NFTA_BITWISE_MASK", _data(word.pack(mask))),
            ("NFTA_BITWISE_XOR", _data(word.pack(0))),
        ),
    )


def _ct(key: int) -> Attributes:
    return expression("ct", ("NFTA_CT_DREG", REGISTER), ("NFTA_CT_KEY", key))


def _family(family: Family) -> tuple[Attributes, ...]:
    return _meta(META_NFPROTO), _compare(bytes([NFPROTO[family]]))


def _daddr(family: Family, register: int = REGISTER) -> Attributes:
    offset, length = _DESTINATION[family]
    return _payload(NETWORK_HEADER, offset, length, register)


def _after(family: Family) -> int:
    """The register behind an address at `REGISTER`."""
    return REGISTER + (1 if family is Family.IPV4 else 4)


def _dport(register: int) -> Attributes:
    return _payload(TRANSPORT_HEADER, 2, 2, register)


def family(family_: Family) -> Statement:
    return Statement(f"meta nfproto {'ipv4' if family_ is Family.IPV4 else 'ipv6'}", _family(family_))


def tcp() -> Statement:
    return Statement("meta l4proto tcp", (_meta(META_L4PROTO), _compare(bytes([PROTOCOL_TCP]))))


def new_connection() -> Statement:
    zero = struct.pack("=I", 0)
    return Statement("ct state new", (_ct(CT_STATE), *_bits(STATE_NEW), _compare(zero, operator=CMP_NEQ)))


def not_redirected() -> Statement:
    """The connection's destination has not been rewritten."""
    zero = struct.pack("=I", 0)
    return Statement("ct status ! dnat", (_ct(CT_STATUS), *_bits(STATUS_DST_NAT), _compare(zero)))


def sent_before() -> Statement:
    """The connection's first packet has left this node already: its entry is confirmed."""
    zero = struct.pack("=I", 0)
    expressions = (_ct(CT_STATUS), *_bits(STATUS_CONFIRMED), _compare(zero, operator=CMP_NEQ))
    return Statement("ct status confirmed", expressions)


def local_destination() -> Statement:
    fib = expression(
        "fib",
        ("NFTA_FIB_DREG", REGISTER),
        # pyroute2 0.9.7 takes this for flags; UNSPEC | OIF are the bits of the value 3, ADDRTYPE
        ("NFTA_FIB_RESULT", {"NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF"}),
        ("NFTA_FIB_FLAGS", FIB_DADDR),
    )
    return Statement("fib daddr type local", (fib, _compare(struct.pack("=I", RTN_LOCAL))))


def destination_in(family_: Family, name: str) -> Statement:
    return Statement(f"{_PREFIX[family_]} daddr @{name}", (_daddr(family_), _lookup(name)))


def destination_port_in(family_: Family, name: str) -> Statement:
    """TCP destination address and port are in the set."""
    text = f"{_PREFIX[family_]} daddr . tcp dport @{name}"
    return Statement(text, (_daddr(family_), _dport(_after(family_)), _lookup(name)))


def address_verdict(family_: Family, name: str) -> Statement:
    """The verdict for destination address, protocol and port, if the map has one."""
    protocol = _after(family_)
    text = f"{_PREFIX[family_]} daddr . meta l4proto . th dport vmap @{name}"
    key = (_daddr(family_), _meta(META_L4PROTO, protocol), _dport(protocol + 1))
    return Statement(text, (*key, _lookup(name, into=VERDICT_REGISTER)))


def port_verdict(name: str) -> Statement:
    text = f"meta l4proto . th dport vmap @{name}"
    key = (_meta(META_L4PROTO), _dport(REGISTER + 1))
    return Statement(text, (*key, _lookup(name, into=VERDICT_REGISTER)))


def _to(family_: Family, address: IPAddress, key: tuple[Attributes, ...], name: str) -> tuple[Attributes, ...]:
    """Look the port up by `key` and rewrite the destination; a lookup that finds nothing ends the rule."""
    address_register = REGISTER + 8
    load = expression(
        "immediate", ("NFTA_IMMEDIATE_DREG", address_register), ("NFTA_IMMEDIATE_DATA", _data(address.packed))
    )
    nat = expression(
        "nat",
        ("NFTA_NAT_TYPE", NAT_DNAT),
        ("NFTA_NAT_FAMILY", NFPROTO[family_]),
        ("NFTA_NAT_REG_ADDR_MIN", address_register),
        ("NFTA_NAT_REG_PROTO_MIN", REGISTER),
    )
    return *key, _lookup(name, into=REGISTER), load, nat


def redirect_by_address(family_: Family, address: IPAddress, name: str) -> Statement:
    key = (_daddr(family_), _dport(_after(family_)))
    prefix = _PREFIX[family_]
    shown = str(address) if isinstance(address, IPv4Address) else f"[{address}]"
    text = f"dnat {prefix} to {shown} : {prefix} daddr . tcp dport map @{name}"
    return Statement(text, _to(family_, address, key, name))


def redirect_by_port(family_: Family, address: IPAddress, name: str) -> Statement:
    prefix = _PREFIX[family_]
    shown = str(address) if isinstance(address, IPv4Address) else f"[{address}]"
    text = f"dnat {prefix} to {shown} : tcp dport map @{name}"
    return Statement(text, _to(family_, address, (_dport(REGISTER),), name))


def jump(chain: str) -> Statement:
    return Statement(f"jump {chain}", (_immediate_verdict(NFT_JUMP, chain),))


def goto(chain: str) -> Statement:
    return Statement(f"goto {chain}", (_immediate_verdict(NFT_GOTO, chain),))


def drop() -> Statement:
    return Statement("drop", (_immediate_verdict(NF_DROP),))


def reject_reset() -> Statement:
    return Statement("reject with tcp reset", (expression("reject", ("NFTA_REJECT_TYPE", REJECT_TCP_RST)),))


def reject_port_unreachable() -> Statement:
    kind = ("NFTA_REJECT_TYPE", REJECT_ICMPX)
    code = ("NFTA_REJECT_ICMP_CODE", ICMPX_PORT_UNREACHABLE)
    return Statement("reject with icmpx port-unreachable", (expression("reject", kind, code),))
