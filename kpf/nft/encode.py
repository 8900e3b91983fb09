"""Netlink messages for the table, encoded by hand: a library takes 0.4 ms for a small message and 45 µs for an element.

A message's sequence number is written in when it is sent. Numbers are those of include/uapi/linux/netfilter/
nf_tables.h and nfnetlink.h.
"""

import functools
import struct
from collections.abc import Iterable, Iterator

from kpf.model.rules import Verdict
from kpf.netlink.attributes import NESTED, attribute
from kpf.netlink.attributes import message as netlink_message
from kpf.netlink.socket import NLM_F_ACK, NLM_F_REQUEST
from kpf.nft import schema
from kpf.nft.expressions import NF_ACCEPT, NF_DROP, NFT_GOTO, number, text, verdict_data
from kpf.nft.forwards import AnonymousMap
from kpf.nft.schema import Chain, Hook, Set
from kpf.nft.values import Goto, Jump, Value

INET = 1  # NFPROTO_INET
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULE = 0, 2, 3, 5, 6, 8
NEW_SET, DELETE_SET, NEW_ELEMENTS, DELETE_ELEMENTS = 9, 11, 12, 14
ACCEPT = 1
SET_ANONYMOUS, SET_CONSTANT, SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_DYNAMIC = 1, 2, 4, 8, 0x10, 0x20
_FLAGS, _FLAGS_AT = struct.Struct("=H"), 6  # in struct nlmsghdr
# An attribute's length is 16 bits; many messages in a batch are fine.
MAX_ELEMENTS_BYTES = 60_000
ELEMENT_FLAGS, INTERVAL_END = 3, 1

_TABLE = text(1, schema.TABLE)
_NFGENMSG = struct.pack("=BBH", INET, 0, 0)


def _message(kind: int, attributes: bytes, flags: int = 0) -> bytes:
    return netlink_message(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | flags, _NFGENMSG + attributes)


@functools.cache
def boundary(kind: int) -> bytes:
    """The begin or the end of a transaction."""
    return netlink_message(kind, NLM_F_REQUEST, struct.pack("=BB", 0, 0) + struct.pack(">H", SUBSYSTEM))


def acknowledged(message: bytes) -> bytes:
    """The same message, to be answered also when it succeeds."""
    (flags,) = _FLAGS.unpack_from(message, _FLAGS_AT)
    return message[:_FLAGS_AT] + _FLAGS.pack(flags | NLM_F_ACK) + message[_FLAGS_AT + _FLAGS.size :]


def no_table() -> list[bytes]:
    """Whatever was there is gone.

    To destroy a table that may be absent in one message takes Linux 6.3.
    """
    return [new_table(), _message(DELETE_TABLE, _TABLE)]


def new_table() -> bytes:
    """Nothing happens if it is there already, chains and all."""
    return _message(NEW_TABLE, _TABLE, NLM_F_CREATE)


def new_chain(name: str, hook: Hook | None = None) -> bytes:
    """Without rules; nothing happens if it is there already, EEXIST if that has another hook."""
    # NFTA_CHAIN_NAME 3, _HOOK 4 (NFTA_HOOK_HOOKNUM 1, _PRIORITY 2), _POLICY 5, _TYPE 7
    attributes = _TABLE + text(3, name)
    if hook:
        place = number(1, hook.number) + attribute(2, struct.pack(">i", hook.priority))
        attributes += attribute(4 | NESTED, place) + number(5, ACCEPT) + text(7, hook.kind)
    return _message(NEW_CHAIN, attributes, NLM_F_CREATE)


def delete_chain(name: str) -> bytes:
    """ENOENT if it is not there, EBUSY while a rule or an element leads to it."""
    return _message(DELETE_CHAIN, _TABLE + text(3, name))


def new_rules(chain: Chain) -> Iterator[bytes]:
    """One message a rule, behind those that the chain has."""
    # NFTA_RULE_CHAIN 2, _EXPRESSIONS 4
    start = _TABLE + text(2, chain.name)
    for statements in chain.rules:
        expressions = attribute(4 | NESTED, b"".join(statement.expressions for statement in statements))
        yield _message(NEW_RULE, start + expressions, NLM_F_CREATE | NLM_F_APPEND)


def flush_chain(name: str) -> bytes:
    """All of its rules go; ENOENT if it is not there."""
    return _message(DELETE_RULE, _TABLE + text(2, name))


def flush_rules() -> bytes:
    """All rules of all chains go."""
    return _message(DELETE_RULE, _TABLE)


def flush_set(name: str) -> bytes:
    """All elements go: a deletion that names none."""
    return _message(DELETE_ELEMENTS, _TABLE + text(2, name))


def new_set(one: Set, identifier: int) -> bytes:
    """Empty; nothing happens if it is there already. `identifier`: its number within this transaction."""
    # NFTA_SET_NAME 2, _FLAGS 3, _KEY_TYPE 4, _KEY_LEN 5, _DATA_TYPE 6, _DATA_LEN 7, _ID 10
    flags = SET_MAP * (one.data is not None) | SET_INTERVAL * one.interval
    flags |= (SET_TIMEOUT | SET_DYNAMIC) * one.dynamic
    attributes = _TABLE + text(2, one.name) + number(3, flags) + number(4, one.key_type) + number(5, one.key_length)
    if one.data is not None:
        attributes += number(6, one.data) + number(7, 16 if one.data == schema.TYPE_VERDICT else 2)
    return _message(NEW_SET, attributes + number(10, identifier), NLM_F_CREATE)


def delete_set(name: str) -> bytes:
    """With its elements; ENOENT if it is not there, EBUSY while a rule looks it up."""
    return _message(DELETE_SET, _TABLE + text(2, name))


# for `nft list`: NFTNL_UDATA_SET_KEYBYTEORDER 0, 4 bytes, BYTEORDER_HOST_ENDIAN 1 (libnftnl's udata.h)
_HOST_BYTE_ORDER = bytes((0, 4)) + struct.pack("=I", 1)


def anonymous_map(one: AnonymousMap) -> Iterator[bytes]:
    """The map, which only one rule of the same transaction can have, and its elements."""
    flags = SET_ANONYMOUS | SET_CONSTANT | SET_MAP
    attributes = _TABLE + text(2, one.NAME) + number(3, flags) + number(4, schema.TYPE_INTEGER) + number(5, 4)
    attributes += number(6, one.data_type) + number(7, one.data_length) + number(10, one.identifier)
    attributes += attribute(13, _HOST_BYTE_ORDER)
    yield _message(NEW_SET, attributes, NLM_F_CREATE)
    elements = (element(struct.pack("=I", index), value) for index, value in enumerate(one.values))
    # NFTA_SET_ELEM_LIST_SET_ID 4
    yield from _messages(one.NAME, elements, NEW_ELEMENTS, NLM_F_CREATE, number(4, one.identifier))


def _data(value: Value) -> bytes:
    """What a map says: NFTA_DATA_VALUE, or NFTA_DATA_VERDICT."""
    if isinstance(value, bytes):
        return attribute(1, value)
    if isinstance(value, Goto | Jump):
        return verdict_data(value.code, value.chain)
    if value is Verdict.REFUSE:
        return verdict_data(NFT_GOTO, schema.REFUSE)
    return verdict_data(NF_DROP if value is Verdict.DROP else NF_ACCEPT)


def element(key: bytes, value: Value = None, *, interval_end: bool = False) -> bytes:
    """One list element. All that have as many bytes, one of two verdicts or nothing share their bytes but for these."""
    if isinstance(value, bytes):
        before, between, after = _shape(len(key), bytes(len(value)), interval_end)
        return before + key + between + value + after
    if isinstance(value, Goto | Jump):
        # NFTA_LIST_ELEM 1; NFTA_SET_ELEM_KEY 1, _DATA 2
        return attribute(1 | NESTED, attribute(1 | NESTED, attribute(1, key)) + attribute(2 | NESTED, _data(value)))
    before, between, after = _shape(len(key), value, interval_end)
    return before + key + between + after


@functools.cache
def _shape(key_length: int, value: Value, interval_end: bool) -> tuple[bytes, bytes, bytes]:
    """What stands before the key, between it and the value, and behind (all of a value that is no bytes).

    NFTA_SET_ELEM_KEY 1, _DATA 2, _FLAGS 3.
    """
    body = attribute(1 | NESTED, attribute(1, bytes(key_length)))
    if value is not None:
        body += attribute(2 | NESTED, _data(value))
    if interval_end:
        body += number(ELEMENT_FLAGS, INTERVAL_END)
    whole = attribute(1 | NESTED, body)
    # three headers before the key; bytes, padded, are the last thing in an element that has them
    end = 12 + key_length
    if not isinstance(value, bytes):
        return whole[:12], b"", whole[end:]
    start = len(whole) - (len(value) + 3 & ~3)
    return whole[:12], whole[end:start], whole[start + len(value) :]


def _messages(name: str, elements: Iterable[bytes], kind: int, flags: int, more: bytes = b"") -> Iterator[bytes]:
    # NFTA_SET_ELEM_LIST_TABLE 1, _SET 2, _ELEMENTS 3
    start = _TABLE + text(2, name) + more
    pending: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > MAX_ELEMENTS_BYTES:
            yield _message(kind, start + attribute(3 | NESTED, b"".join(pending)), flags)
            pending, size = [], 0
        pending.append(one)
        size += len(one)
    if pending:
        yield _message(kind, start + attribute(3 | NESTED, b"".join(pending)), flags)


def new_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """As many messages as the 16 bits of an attribute's length make it; EEXIST for a key with another value."""
    return _messages(name, elements, NEW_ELEMENTS, NLM_F_CREATE)


def delete_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """By their keys; ENOENT if one is not there."""
    return _messages(name, elements, DELETE_ELEMENTS, 0)
