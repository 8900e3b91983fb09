"""The kernel's expressions, encoded: what statements are made of. Pure.

Numbers are those of include/uapi/linux/netfilter/nf_tables.h. Registers are the 32-bit ones (NFT_REG32_00 = 8); 0 is
the verdict register. Numbers in attributes are big-endian, what the kernel computes with is as the machine has it.
"""

import functools
import struct

from kpf.model.names import Family, IPNetwork
from kpf.netlink.attributes import NESTED, attribute

VERDICT_REGISTER, REGISTER = 0, 8
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2

META_MARK, META_IIFNAME, META_OIFNAME, META_SKUID, META_NFPROTO, META_L4PROTO = 3, 6, 7, 10, 15, 16
META_IIFKIND, META_OIFKIND = 26, 27
CT_STATE, CT_STATUS = 0, 2
CMP_EQ, CMP_NEQ = 0, 1
FIB_SADDR, FIB_DADDR, FIB_RESULT_ADDRTYPE = 1, 2, 3
REJECT_TCP_RST, REJECT_ICMPX, ICMPX_PORT_UNREACHABLE = 1, 2, 1
NAT_DNAT, NAT_RANGE_PROTO_SPECIFIED = 1, 2
NUMGEN_INCREMENTAL = 0
DYNSET_UPDATE = 1
NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO, NFT_RETURN = 0, 1, -3, -4, -5
# include/uapi/linux/netfilter/nf_conntrack_common.h: bits of ct->status; state bits as nft counts them
STATUS_CONFIRMED, STATUS_DST_NAT, STATE_NEW = 1 << 3, 1 << 5, 1 << 3
RTN_LOCAL = 2
NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}
INTERFACE_NAME_SIZE = 16

_SOURCE = {Family.IPV4: (12, 4), Family.IPV6: (8, 16)}
_DESTINATION = {Family.IPV4: (16, 4), Family.IPV6: (24, 16)}
_WORD = struct.Struct("=I")
ZERO = _WORD.pack(0)


def expression(name: str, *attributes: bytes) -> bytes:
    """NFTA_LIST_ELEM with NFTA_EXPR_NAME and _DATA, in which the attributes are."""
    # NFTA_LIST_ELEM 1; NFTA_EXPR_NAME 1, NFTA_EXPR_DATA 2
    inner = attribute(1, name.encode() + b"\0") + attribute(2 | NESTED, b"".join(attributes))
    return attribute(1 | NESTED, inner)


@functools.cache
def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits, big-endian."""
    return attribute(kind, struct.pack(">I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute of text and a zero byte."""
    return attribute(kind, value.encode() + b"\0")


def _data(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(1, value))


def verdict_data(code: int, chain: str = "") -> bytes:
    """NFTA_DATA_VERDICT with NFTA_VERDICT_CODE and _CHAIN."""
    inner = attribute(1, struct.pack(">i", code)) + (text(2, chain) if chain else b"")
    return attribute(2 | NESTED, inner)


def word(value: int) -> bytes:
    """A number as the kernel computes with it."""
    return _WORD.pack(value)


@functools.cache
def meta(key: int, register: int = REGISTER) -> bytes:
    """Load what is known of the packet beside its bytes: `META_*`."""
    return expression("meta", number(1, register), number(2, key))


def set_meta(key: int) -> bytes:
    """Store the register there: META_MARK."""
    return expression("meta", number(2, key), number(3, REGISTER))


# source ranges are compared too, of which there is no end
@functools.lru_cache(maxsize=1024)
def compare(value: bytes, *, operator: int = CMP_EQ) -> bytes:
    """The rule goes on only if the register, as far as the value reaches, compares so with it."""
    return expression("cmp", number(1, REGISTER), number(2, operator), _data(3, value))


@functools.cache
def payload(base: int, offset: int, length: int, register: int) -> bytes:
    """Load bytes of a header: `offset` from its start, `length` of them."""
    return expression("payload", number(1, register), number(2, base), number(3, offset), number(4, length))


def lookup(name: str, *, into: int | None = None, set_id: int | None = None) -> bytes:
    """The rule goes on only if the set has the key at `REGISTER`.

    `into`: the register for what a map has there, None for a set. `set_id`: of a set that this transaction makes.
    """
    found = [text(1, name), number(2, REGISTER)]
    if into is not None:
        found.append(number(3, into))
    if set_id is not None:
        found.append(number(4, set_id))
    return expression("lookup", *found)


def immediate(value: bytes, register: int) -> bytes:
    """Load a constant; it fills as many registers as it needs."""
    return expression("immediate", number(1, register), _data(2, value))


def immediate_verdict(code: int, chain: str = "") -> bytes:
    """NF_* or NFT_*; `chain` where the code is NFT_JUMP or NFT_GOTO. Ends the rule."""
    return expression("immediate", number(1, VERDICT_REGISTER), attribute(2 | NESTED, verdict_data(code, chain)))


def bitwise(mask: bytes, xor: bytes) -> bytes:
    """The register, masked and flipped, in place."""
    return expression(
        "bitwise", number(1, REGISTER), number(2, REGISTER), number(3, len(mask)), _data(4, mask), _data(5, xor)
    )


def masked(mask: int) -> bytes:
    """The register's bits of the mask, in place; 32 bits as the kernel computes with them."""
    return bitwise(_WORD.pack(mask), ZERO)


def ct(key: int) -> bytes:
    """Load what conntrack has of the packet's connection: `CT_*`."""
    return expression("ct", number(1, REGISTER), number(2, key))


def fib_type(flags: int) -> bytes:
    """Load the type of route (RTN_*) of FIB_SADDR or FIB_DADDR."""
    return expression("fib", number(1, REGISTER), number(2, FIB_RESULT_ADDRTYPE), number(3, flags))


def family(one: Family) -> bytes:
    """The rule goes on only for packets of this family; a table of family inet sees both."""
    return meta(META_NFPROTO) + compare(bytes([NFPROTO[one]]))


def source(one: Family, register: int = REGISTER) -> bytes:
    """Load the source address, 4 or 16 bytes. The family must have been compared."""
    return payload(NETWORK_HEADER, *_SOURCE[one], register)


def destination(one: Family, register: int = REGISTER) -> bytes:
    """Load the destination address, 4 or 16 bytes. The family must have been compared."""
    return payload(NETWORK_HEADER, *_DESTINATION[one], register)


def destination_port(register: int) -> bytes:
    """Load 2 bytes: in the same place for TCP, UDP and SCTP."""
    return payload(TRANSPORT_HEADER, 2, 2, register)


def tcp_flags() -> bytes:
    """Load the byte that has them. The protocol must have been compared."""
    return payload(TRANSPORT_HEADER, 13, 1, REGISTER)


def after(one: Family) -> int:
    """The register behind an address at `REGISTER`."""
    return REGISTER + (1 if one is Family.IPV4 else 4)


def inside(network: IPNetwork) -> bytes:
    """The address in the register is of the network."""
    mask = network.netmask.packed
    return bitwise(mask, bytes(len(mask))) + compare(network.network_address.packed)


@functools.cache
def numgen(modulus: int) -> bytes:
    """0, 1, ... modulus - 1, 0, ...: the next one for each packet, over all CPUs."""
    kind = number(3, NUMGEN_INCREMENTAL)
    return expression("numgen", number(1, REGISTER), number(2, modulus), kind, number(4, 0))


@functools.cache
def dnat(one: Family, address: int, port: int, *, flags: int = 0) -> bytes:
    """Rewrite the destination, for the whole connection, to what these registers hold; `flags`: NF_NAT_RANGE_*."""
    found = [number(1, NAT_DNAT), number(2, NFPROTO[one]), number(3, address), number(5, port)]
    if flags:
        found.append(number(7, flags))
    return expression("nat", *found)


def masquerade() -> bytes:
    """Rewrite the source to an address of the interface that the packet leaves by; the port only if it must."""
    return expression("masq")


def reject(kind: int, code: int | None = None) -> bytes:
    """`kind`: REJECT_*; `code`: of ICMP, for REJECT_ICMPX. Ends the packet."""
    found = [number(1, kind)]
    if code is not None:
        found.append(attribute(2, bytes([code])))
    return expression("reject", *found)


def update_set(name: str, timeout_s: int) -> bytes:
    """The key in the register is an element from now on, for so long."""
    timeout = attribute(6, struct.pack(">Q", timeout_s * 1000))
    return expression("dynset", text(1, name), number(3, DYNSET_UPDATE), number(4, REGISTER), timeout)
