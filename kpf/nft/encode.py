"""Netlink messages for the table, encoded by hand: a library takes 0.4 ms for a small message and 45 µs for an element.

A message's sequence number is written in when it is sent.
"""

import functools
import struct
from collections.abc import Iterable, Iterator

from kpf.model.rules import Verdict
from kpf.netlink.attributes import attribute, be32, be32_signed, nested, string
from kpf.netlink.attributes import message as netlink_message
from kpf.netlink.nfnetlink import nfgenmsg
from kpf.nft import schema
from kpf.nft.datatypes import INTEGER_SIZE, TYPE_INTEGER
from kpf.nft.expressions import verdict_data
from kpf.nft.forwards import AnonymousMap
from kpf.nft.objects import Chain, Hook, Set
from kpf.nft.values import Goto, Jump, Value
from kpf.uapi.netfilter import NF, NFPROTO
from kpf.uapi.netlink import NLM_F
from kpf.uapi.nf_tables import (
    NFT,
    NFT_MSG,
    NFT_SET,
    NFT_SET_ELEM,
    NFTA_CHAIN,
    NFTA_DATA,
    NFTA_HOOK,
    NFTA_LIST,
    NFTA_RULE,
    NFTA_SET,
    NFTA_SET_ELEM,
    NFTA_SET_ELEM_LIST,
    NFTA_TABLE,
)
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH, NFNL_SUBSYS

_LENGTH = struct.Struct("=H")  # nla_len, the first of struct nlattr
_FLAGS, _FLAGS_AT = struct.Struct("=H"), 6  # nlmsg_flags in struct nlmsghdr
# An attribute's length is 16 bits; many messages in a batch are fine.
MAX_ELEMENTS_BYTES = 60_000
# of what comes in thousands, looked up once: each time it takes 70 ns in Python 3.11
_SUBSYSTEM = NFNL_SUBSYS.NFTABLES << 8
_REQUEST, _CREATE, _ADD = int(NLM_F.REQUEST), int(NLM_F.CREATE), NLM_F.CREATE | NLM_F.APPEND
_ELEM, _KEY, _DATA, _VALUE = NFTA_LIST.ELEM, NFTA_SET_ELEM.KEY, NFTA_SET_ELEM.DATA, NFTA_DATA.VALUE
_NEWRULE, _RULE_CHAIN, _RULE_EXPRESSIONS = NFT_MSG.NEWRULE, NFTA_RULE.CHAIN, NFTA_RULE.EXPRESSIONS
_SET_NAME, _SET_ID = NFTA_SET.NAME, NFTA_SET.ID
_MAP, _INTERVAL, _DYNAMIC = NFT_SET.MAP, NFT_SET.INTERVAL, NFT_SET.TIMEOUT | NFT_SET.EVAL

# all that is of a table names it in its first attribute
_TABLE = string(NFTA_TABLE.NAME, schema.TABLE)
_NFGENMSG = nfgenmsg(NFPROTO.INET)


def _message(kind: NFT_MSG, attributes: bytes, flags: int = 0) -> bytes:
    return netlink_message(_SUBSYSTEM | kind, _REQUEST | flags, _NFGENMSG + attributes)


@functools.cache
def boundary(kind: NFNL_MSG_BATCH) -> bytes:
    """The begin or the end of a transaction."""
    return netlink_message(kind, NLM_F.REQUEST, nfgenmsg(0, NFNL_SUBSYS.NFTABLES))


def acknowledged(message: bytes) -> bytes:
    """The same message, to be answered also when it succeeds."""
    (flags,) = _FLAGS.unpack_from(message, _FLAGS_AT)
    return message[:_FLAGS_AT] + _FLAGS.pack(flags | NLM_F.ACK) + message[_FLAGS_AT + _FLAGS.size :]


def no_table() -> list[bytes]:
    """Whatever was there is gone.

    To destroy a table that may be absent in one message takes Linux 6.3.
    """
    return [new_table(), _message(NFT_MSG.DELTABLE, _TABLE)]


def new_table() -> bytes:
    """Nothing happens if it is there already, chains and all."""
    return _message(NFT_MSG.NEWTABLE, _TABLE, _CREATE)


def new_chain(name: str, hook: Hook | None = None) -> bytes:
    """Without rules; nothing happens if it is there already, EEXIST if that has another hook."""
    attributes = _TABLE + string(NFTA_CHAIN.NAME, name)
    if hook:
        place = be32(NFTA_HOOK.HOOKNUM, hook.number), be32_signed(NFTA_HOOK.PRIORITY, hook.priority)
        attributes += nested(NFTA_CHAIN.HOOK, *place) + be32(NFTA_CHAIN.POLICY, NF.ACCEPT)
        attributes += string(NFTA_CHAIN.TYPE, hook.kind)
    return _message(NFT_MSG.NEWCHAIN, attributes, _CREATE)


def delete_chain(name: str) -> bytes:
    """ENOENT if it is not there, EBUSY while a rule or an element leads to it."""
    return _message(NFT_MSG.DELCHAIN, _TABLE + string(NFTA_CHAIN.NAME, name))


def new_rules(chain: Chain) -> Iterator[bytes]:
    """One message a rule, behind those that the chain has."""
    start = _TABLE + string(_RULE_CHAIN, chain.name)
    for statements in chain.rules:
        expressions = nested(_RULE_EXPRESSIONS, *(statement.expressions for statement in statements))
        yield _message(_NEWRULE, start + expressions, _ADD)


def flush_chain(name: str) -> bytes:
    """All of its rules go; ENOENT if it is not there."""
    return _message(NFT_MSG.DELRULE, _TABLE + string(NFTA_RULE.CHAIN, name))


def flush_rules() -> bytes:
    """All rules of all chains go."""
    return _message(NFT_MSG.DELRULE, _TABLE)


def flush_set(name: str) -> bytes:
    """All elements go: a deletion that names none."""
    return _message(NFT_MSG.DELSETELEM, _TABLE + string(NFTA_SET_ELEM_LIST.SET, name))


def new_set(one: Set, identifier: int) -> bytes:
    """Empty; nothing happens if it is there already. `identifier`: its number within this transaction."""
    flags = _MAP * (one.data is not None) | _INTERVAL * one.interval | _DYNAMIC * one.dynamic
    described = _described(flags, one.key_type, one.key_length, one.data, one.data_length)
    return _message(
        NFT_MSG.NEWSET, _TABLE + string(_SET_NAME, one.name) + described + be32(_SET_ID, identifier), _CREATE
    )


@functools.cache
def _described(flags: int, key_type: int, key_length: int, data_type: int | None, data_length: int) -> bytes:
    """All of a set but its name and identifier."""
    key = be32(NFTA_SET.KEY_TYPE, key_type) + be32(NFTA_SET.KEY_LEN, key_length)
    data = b""
    if data_type is not None:
        data = be32(NFTA_SET.DATA_TYPE, data_type) + be32(NFTA_SET.DATA_LEN, data_length)
    return be32(NFTA_SET.FLAGS, flags) + key + data


def delete_set(name: str) -> bytes:
    """With its elements; ENOENT if it is not there, EBUSY while a rule looks it up."""
    return _message(NFT_MSG.DELSET, _TABLE + string(NFTA_SET.NAME, name))


# for `nft list`: a type, how long its value is, and it (libnftnl/udata.h; byte orders: nftables' include/datatype.h)
NFTNL_UDATA_SET_KEYBYTEORDER, BYTEORDER_HOST_ENDIAN = 0, 1
NFTNL_UDATA_SET_ELEM_COMMENT = 0
_HOST_BYTE_ORDER = struct.pack("=BBI", NFTNL_UDATA_SET_KEYBYTEORDER, 4, BYTEORDER_HOST_ENDIAN)


def anonymous_map(one: AnonymousMap) -> Iterator[bytes]:
    """The map, which only one rule of the same transaction can have, and its elements."""
    flags = NFT_SET.ANONYMOUS | NFT_SET.CONSTANT | NFT_SET.MAP
    described = _described(flags, TYPE_INTEGER, INTEGER_SIZE, one.data_type, one.data_length)
    attributes = _TABLE + string(_SET_NAME, one.NAME) + described + be32(_SET_ID, one.identifier)
    yield _message(NFT_MSG.NEWSET, attributes + attribute(NFTA_SET.USERDATA, _HOST_BYTE_ORDER), _CREATE)
    elements = (element(struct.pack("=I", index), value) for index, value in enumerate(one.values))
    of_map = be32(NFTA_SET_ELEM_LIST.SET_ID, one.identifier)
    yield from _messages(one.NAME, elements, NFT_MSG.NEWSETELEM, _CREATE, of_map)


def _data(value: Value) -> bytes:
    """What a map says: NFTA_DATA_VALUE, or NFTA_DATA_VERDICT."""
    if isinstance(value, bytes):
        return attribute(NFTA_DATA.VALUE, value)
    if isinstance(value, Goto | Jump):
        return verdict_data(value.code, value.chain)
    if value is Verdict.REFUSE:
        return verdict_data(NFT.GOTO, schema.REFUSE)
    return verdict_data(NF.DROP if value is Verdict.DROP else NF.ACCEPT)


def element(key: bytes, value: Value = None, comment: str = "", *, interval_end: bool = False) -> bytes:
    """One list element. `comment`: what `nft list` says beside it, ASCII, 254 bytes at most.

    All that have as many bytes, one of two verdicts or nothing share their bytes but for these.
    """
    if isinstance(value, bytes):
        before, between, after = _shape(len(key), bytes(len(value)), interval_end)
        plain = before + key + between + value + after
    elif isinstance(value, Goto | Jump):
        plain = nested(_ELEM, nested(_KEY, attribute(_VALUE, key)), nested(_DATA, _data(value)))
    else:
        before, between, after = _shape(len(key), value, interval_end)
        plain = before + key + between + after
    if not comment:
        return plain
    more = _commented(comment)
    return _LENGTH.pack(len(plain) + len(more)) + plain[_LENGTH.size :] + more


# several elements have the same one: of each of a port's portals
@functools.lru_cache(1 << 14)
def _commented(comment: str) -> bytes:
    text = comment.encode("ascii")
    return attribute(NFTA_SET_ELEM.USERDATA, bytes((NFTNL_UDATA_SET_ELEM_COMMENT, len(text) + 1)) + text + b"\0")


@functools.cache
def _shape(key_length: int, value: Value, interval_end: bool) -> tuple[bytes, bytes, bytes]:
    """What stands before the key, between it and the value, and behind (all of a value that is no bytes)."""
    body = nested(_KEY, attribute(_VALUE, bytes(key_length)))
    if value is not None:
        body += nested(_DATA, _data(value))
    if interval_end:
        body += be32(NFTA_SET_ELEM.FLAGS, NFT_SET_ELEM.INTERVAL_END)
    whole = nested(_ELEM, body)
    # three headers before the key; bytes, padded, are the last thing in an element that has them
    end = 12 + key_length
    if not isinstance(value, bytes):
        return whole[:12], b"", whole[end:]
    start = len(whole) - (len(value) + 3 & ~3)
    return whole[:12], whole[end:start], whole[start + len(value) :]


def _messages(name: str, elements: Iterable[bytes], kind: NFT_MSG, flags: int, more: bytes = b"") -> Iterator[bytes]:
    start = _TABLE + string(NFTA_SET_ELEM_LIST.SET, name) + more
    pending: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > MAX_ELEMENTS_BYTES:
            yield _message(kind, start + nested(NFTA_SET_ELEM_LIST.ELEMENTS, *pending), flags)
            pending, size = [], 0
        pending.append(one)
        size += len(one)
    if pending:
        yield _message(kind, start + nested(NFTA_SET_ELEM_LIST.ELEMENTS, *pending), flags)


def new_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """As many messages as the 16 bits of an attribute's length make it; EEXIST for a key with another value."""
    return _messages(name, elements, NFT_MSG.NEWSETELEM, _CREATE)


def delete_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """By their keys; ENOENT if one is not there."""
    return _messages(name, elements, NFT_MSG.DELSETELEM, 0)
