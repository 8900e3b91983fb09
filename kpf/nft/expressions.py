"""The kernel's expressions, encoded: what statements are made of. Pure.

Numbers in attributes are big-endian, what the kernel computes with is as the machine has it. What an expression loads
goes into the first register, if nothing else is said; `after` is the one behind an address.
"""

import functools
import struct

from kpf.model.names import Family, IPNetwork
from kpf.netlink.attributes import attribute, be32, be32_signed, be64, nested, string, u8
from kpf.netlink.nfnetlink import NFPROTO_OF
from kpf.uapi import nf_expressions as nf
from kpf.uapi.nf_expressions import NFT_CMP, NFT_META, NFT_PAYLOAD
from kpf.uapi.nf_tables import NFTA_DATA, NFTA_EXPR, NFTA_LIST, NFTA_VERDICT

VERDICT_REGISTER, REGISTER = int(nf.NFT_REG.VERDICT), int(nf.NFT_REG32._00)

# offset and length in the header
_SOURCE = {Family.IPV4: (12, 4), Family.IPV6: (8, 16)}
_DESTINATION = {Family.IPV4: (16, 4), Family.IPV6: (24, 16)}
_WORD = struct.Struct("=I")
ZERO = _WORD.pack(0)

# of what comes in thousands, looked up once: each time it takes 70 ns in Python 3.11
_ELEM, _EXPR_DATA, _VALUE = NFTA_LIST.ELEM, NFTA_EXPR.DATA, NFTA_DATA.VALUE
_VERDICT, _CODE, _CHAIN = NFTA_DATA.VERDICT, NFTA_VERDICT.CODE, NFTA_VERDICT.CHAIN
_IMMEDIATE_DREG, _IMMEDIATE_DATA = nf.NFTA_IMMEDIATE.DREG, nf.NFTA_IMMEDIATE.DATA
_LOOKUP_SET, _LOOKUP_SREG = nf.NFTA_LOOKUP.SET, be32(nf.NFTA_LOOKUP.SREG, REGISTER)


def expression(name: str, *attributes: bytes) -> bytes:
    """NFTA_LIST_ELEM with NFTA_EXPR_NAME and _DATA, in which the attributes are."""
    return nested(_ELEM, _name(name), nested(_EXPR_DATA, *attributes))


@functools.cache
def _name(expression: str) -> bytes:
    return string(NFTA_EXPR.NAME, expression)


def _data(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(_VALUE, value))


def verdict_data(code: int, chain: str = "") -> bytes:
    """NFTA_DATA_VERDICT with NFTA_VERDICT_CODE and _CHAIN."""
    if not chain:
        return nested(_VERDICT, be32_signed(_CODE, code))
    return nested(_VERDICT, be32_signed(_CODE, code), string(_CHAIN, chain))


def word(value: int) -> bytes:
    """A number as the kernel computes with it."""
    return _WORD.pack(value)


@functools.cache
def meta(key: NFT_META, register: int = REGISTER) -> bytes:
    """Load what is known of the packet beside its bytes: `META_*`."""
    return expression("meta", be32(nf.NFTA_META.DREG, register), be32(nf.NFTA_META.KEY, key))


def set_meta(key: NFT_META) -> bytes:
    """Store the register there: META_MARK."""
    return expression("meta", be32(nf.NFTA_META.KEY, key), be32(nf.NFTA_META.SREG, REGISTER))


# source ranges are compared too, of which there is no end
@functools.lru_cache(maxsize=1024)
def compare(value: bytes, *, operator: NFT_CMP = NFT_CMP.EQ) -> bytes:
    """The rule goes on only if the register, as far as the value reaches, compares so with it."""
    return expression(
        "cmp", be32(nf.NFTA_CMP.SREG, REGISTER), be32(nf.NFTA_CMP.OP, operator), _data(nf.NFTA_CMP.DATA, value)
    )


@functools.cache
def payload(base: NFT_PAYLOAD, offset: int, length: int, register: int) -> bytes:
    """Load bytes of a header: `offset` from its start, `length` of them."""
    return expression(
        "payload",
        be32(nf.NFTA_PAYLOAD.DREG, register),
        be32(nf.NFTA_PAYLOAD.BASE, base),
        be32(nf.NFTA_PAYLOAD.OFFSET, offset),
        be32(nf.NFTA_PAYLOAD.LEN, length),
    )


def lookup(name: str, *, into: int | None = None, set_id: int | None = None) -> bytes:
    """The rule goes on only if the set has the key at `REGISTER`.

    `into`: the register for what a map has there, None for a set. `set_id`: of a set that this transaction makes.
    """
    found = [string(_LOOKUP_SET, name), _LOOKUP_SREG]
    if into is not None:
        found.append(be32(nf.NFTA_LOOKUP.DREG, into))
    if set_id is not None:
        found.append(be32(nf.NFTA_LOOKUP.SET_ID, set_id))
    return expression("lookup", *found)


def immediate(value: bytes, register: int) -> bytes:
    """Load a constant; it fills as many registers as it needs."""
    return expression("immediate", be32(_IMMEDIATE_DREG, register), _data(_IMMEDIATE_DATA, value))


def immediate_verdict(code: int, chain: str = "") -> bytes:
    """NF_* or NFT_*; `chain` where the code is NFT_JUMP or NFT_GOTO. Ends the rule."""
    data = nested(_IMMEDIATE_DATA, verdict_data(code, chain))
    return expression("immediate", be32(_IMMEDIATE_DREG, VERDICT_REGISTER), data)


@functools.cache
def bitwise(mask: bytes, xor: bytes) -> bytes:
    """The register, masked and flipped, in place."""
    return expression(
        "bitwise",
        be32(nf.NFTA_BITWISE.SREG, REGISTER),
        be32(nf.NFTA_BITWISE.DREG, REGISTER),
        be32(nf.NFTA_BITWISE.LEN, len(mask)),
        _data(nf.NFTA_BITWISE.MASK, mask),
        _data(nf.NFTA_BITWISE.XOR, xor),
    )


def masked(mask: int) -> bytes:
    """The register's bits of the mask, in place; 32 bits as the kernel computes with them."""
    return bitwise(_WORD.pack(mask), ZERO)


def ct(key: nf.NFT_CT) -> bytes:
    """Load what conntrack has of the packet's connection: `CT_*`."""
    return expression("ct", be32(nf.NFTA_CT.DREG, REGISTER), be32(nf.NFTA_CT.KEY, key))


def socket(key: nf.NFT_SOCKET) -> bytes:
    """Load a byte about the socket that the packet belongs to; the rule goes on only if there is one."""
    return expression("socket", be32(nf.NFTA_SOCKET.KEY, key), be32(nf.NFTA_SOCKET.DREG, REGISTER))


def fib_type(flags: nf.NFTA_FIB_F) -> bytes:
    """Load the type of route (RTN_*) of FIB_SADDR or FIB_DADDR."""
    asked = be32(nf.NFTA_FIB.RESULT, nf.NFT_FIB_RESULT.ADDRTYPE), be32(nf.NFTA_FIB.FLAGS, flags)
    return expression("fib", be32(nf.NFTA_FIB.DREG, REGISTER), *asked)


def family(one: Family) -> bytes:
    """The rule goes on only for packets of this family; a table of family inet sees both."""
    return meta(NFT_META.NFPROTO) + compare(bytes([NFPROTO_OF[one]]))


def source(one: Family, register: int = REGISTER) -> bytes:
    """Load the source address, 4 or 16 bytes. The family must have been compared."""
    return payload(NFT_PAYLOAD.NETWORK_HEADER, *_SOURCE[one], register)


def destination(one: Family, register: int = REGISTER) -> bytes:
    """Load the destination address, 4 or 16 bytes. The family must have been compared."""
    return payload(NFT_PAYLOAD.NETWORK_HEADER, *_DESTINATION[one], register)


def destination_port(register: int) -> bytes:
    """Load 2 bytes: in the same place for TCP, UDP and SCTP."""
    return payload(NFT_PAYLOAD.TRANSPORT_HEADER, 2, 2, register)


def tcp_flags() -> bytes:
    """Load the byte that has them. The protocol must have been compared."""
    return payload(NFT_PAYLOAD.TRANSPORT_HEADER, 13, 1, REGISTER)


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
    return expression(
        "numgen",
        be32(nf.NFTA_NG.DREG, REGISTER),
        be32(nf.NFTA_NG.MODULUS, modulus),
        be32(nf.NFTA_NG.TYPE, nf.NFT_NG.INCREMENTAL),
        be32(nf.NFTA_NG.OFFSET, 0),
    )


@functools.cache
def dnat(one: Family, address: int, port: int, *, flags: int = 0) -> bytes:
    """`address`, `port`: the registers that have them."""
    found = [
        be32(nf.NFTA_NAT.TYPE, nf.NFT_NAT.DNAT),
        be32(nf.NFTA_NAT.FAMILY, NFPROTO_OF[one]),
        be32(nf.NFTA_NAT.REG_ADDR_MIN, address),
        be32(nf.NFTA_NAT.REG_PROTO_MIN, port),
    ]
    if flags:
        found.append(be32(nf.NFTA_NAT.FLAGS, flags))
    return expression("nat", *found)


def masquerade() -> bytes:
    """Rewrite the source to an address of the interface that the packet leaves by; the port only if it must."""
    return expression("masq")


def reject(kind: nf.NFT_REJECT, code: nf.NFT_REJECT_ICMPX | None = None) -> bytes:
    """`kind`: REJECT_*; `code`: of ICMP, for REJECT_ICMPX. Ends the packet."""
    found = [be32(nf.NFTA_REJECT.TYPE, kind)]
    if code is not None:
        found.append(u8(nf.NFTA_REJECT.ICMP_CODE, code))
    return expression("reject", *found)


def update_set(name: str, timeout_s: int) -> bytes:
    """The key in the register is an element from now on, for so long."""
    return expression(
        "dynset",
        string(nf.NFTA_DYNSET.SET_NAME, name),
        be32(nf.NFTA_DYNSET.OP, nf.NFT_DYNSET_OP.UPDATE),
        be32(nf.NFTA_DYNSET.SREG_KEY, REGISTER),
        be64(nf.NFTA_DYNSET.TIMEOUT, timeout_s * 1000),
    )
