"""Netlink messages for the table: small ones through pyroute2's classes, elements packed by struct.

pyroute2 takes 45 µs for an element as a dictionary and 0.4 ms for a small message, so elements are packed here (2 µs),
and the bytes of the static part are kept. A message's sequence number is written in when it is sent.
"""

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import pyroute2.netlink.nfnetlink.nftsocket as nft
from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg

from kpf.model.rules import Verdict
from kpf.netlink.attributes import NESTED, attribute
from kpf.netlink.attributes import message as netlink_message
from kpf.netlink.socket import NLM_F_ACK
from kpf.nft import schema
from kpf.nft.elements import Value
from kpf.nft.schema import Chain, Hook, Set
from kpf.nft.statements import Statement

INET = 1  # NFPROTO_INET
BATCH_BEGIN, BATCH_END = 0x10, 0x11
_FLAGS, _FLAGS_AT = struct.Struct("=H"), 6  # in struct nlmsghdr
# An attribute's length is 16 bits; many messages in a batch are fine.
MAX_ELEMENTS_BYTES = 60_000
ELEMENT_FLAGS, INTERVAL_END = 3, 1
MAX_KEPT_RULES = 200


def _encoded(message: Any, kind: int, flags: int) -> bytes:
    message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | kind
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["nfgen_family"] = INET
    message.reset()
    message.encode()
    return bytes(message.data)


def _message(cls: Any, attributes: list[tuple[str, Any]]) -> Any:
    message = cls()
    message["attrs"] = attributes
    return message


@functools.cache
def boundary(kind: int) -> bytes:
    """The begin or the end of a transaction."""
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    message.encode()
    return bytes(message.data)


def acknowledged(message: bytes) -> bytes:
    """The same message, to be answered also when it succeeds."""
    (flags,) = _FLAGS.unpack_from(message, _FLAGS_AT)
    return message[:_FLAGS_AT] + _FLAGS.pack(flags | NLM_F_ACK) + message[_FLAGS_AT + _FLAGS.size :]


def no_table() -> list[bytes]:
    """Whatever was there is gone. (To destroy a table that may be absent in one message takes Linux 6.3.)"""
    return [new_table(), _delete_table()]


@functools.cache
def _delete_table() -> bytes:
    return _encoded(_message(nft.nft_table_msg, [("NFTA_TABLE_NAME", schema.TABLE)]), nft.NFT_MSG_DELTABLE, 0)


@functools.cache
def new_table() -> bytes:
    message = _message(nft.nft_table_msg, [("NFTA_TABLE_NAME", schema.TABLE)])
    return _encoded(message, nft.NFT_MSG_NEWTABLE, NLM_F_CREATE)


@functools.cache
def new_chain(name: str, hook: Hook | None) -> bytes:
    attributes: list[tuple[str, Any]] = [("NFTA_CHAIN_TABLE", schema.TABLE), ("NFTA_CHAIN_NAME", name)]
    if hook:
        place = [("NFTA_HOOK_HOOKNUM", hook.number), ("NFTA_HOOK_PRIORITY", hook.priority)]
        attributes += [
            ("NFTA_CHAIN_HOOK", {"attrs": place}),
            ("NFTA_CHAIN_POLICY", 1),
            ("NFTA_CHAIN_TYPE", hook.kind),
        ]
    return _encoded(_message(nft.nft_chain_msg, attributes), nft.NFT_MSG_NEWCHAIN, NLM_F_CREATE)


def new_rules(chain: Chain) -> Iterator[bytes]:
    for statements in chain.rules:
        key = chain.name, tuple(statement.text for statement in statements)
        if key not in _rules:
            if len(_rules) >= MAX_KEPT_RULES:
                _rules.clear()
            _rules[key] = _new_rule(chain.name, statements)
        yield _rules[key]


_rules: dict[tuple[str, tuple[str, ...]], bytes] = {}
"""Encoded rules by chain and text, which says all of a rule. Only the proxy addresses ever change."""


def _new_rule(chain_name: str, statements: tuple[Statement, ...]) -> bytes:
    expressions = [one for statement in statements for one in statement.expressions]
    attributes = [
        ("NFTA_RULE_TABLE", schema.TABLE),
        ("NFTA_RULE_CHAIN", chain_name),
        ("NFTA_RULE_EXPRESSIONS", expressions),
    ]
    message = _message(nft.nft_rule_msg, attributes)
    return _encoded(message, nft.NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)


def flush_chain(chain: Chain) -> bytes:
    attributes = [("NFTA_RULE_TABLE", schema.TABLE), ("NFTA_RULE_CHAIN", chain.name)]
    return _encoded(_message(nft.nft_rule_msg, attributes), nft.NFT_MSG_DELRULE, 0)


@functools.cache
def flush_rules() -> bytes:
    """All rules of all chains go."""
    return _encoded(_message(nft.nft_rule_msg, [("NFTA_RULE_TABLE", schema.TABLE)]), nft.NFT_MSG_DELRULE, 0)


@functools.cache
def flush_set(name: str) -> bytes:
    """All elements go: a deletion that names none."""
    attributes = [("NFTA_SET_ELEM_LIST_TABLE", schema.TABLE), ("NFTA_SET_ELEM_LIST_SET", name)]
    return _encoded(_message(nft.nft_set_elem_list_msg, attributes), nft.NFT_MSG_DELSETELEM, 0)


@functools.cache
def new_set(one: Set, number: int) -> bytes:
    flags = set()
    if one.data is not None:
        flags.add("NFT_SET_MAP")
    if one.interval:
        flags.add("NFT_SET_INTERVAL")
    attributes: list[tuple[str, Any]] = [
        ("NFTA_SET_TABLE", schema.TABLE),
        ("NFTA_SET_NAME", one.name),
        ("NFTA_SET_FLAGS", flags),
        ("NFTA_SET_KEY_TYPE", one.key_type),
        ("NFTA_SET_KEY_LEN", one.key_length),
    ]
    if one.data is not None:
        length = 16 if one.data == schema.TYPE_VERDICT else 2
        attributes += [("NFTA_SET_DATA_TYPE", one.data), ("NFTA_SET_DATA_LEN", length)]
    attributes.append(("NFTA_SET_ID", number))
    return _encoded(_message(nft.nft_set_msg, attributes), nft.NFT_MSG_NEWSET, NLM_F_CREATE)


# NFTA_DATA_VALUE 1, NFTA_DATA_VERDICT 2; NFTA_VERDICT_CODE 1, NFTA_VERDICT_CHAIN 2
_VERDICTS = {
    Verdict.DROP: attribute(2 | NESTED, attribute(1, struct.pack(">i", 0))),
    Verdict.REFUSE: attribute(
        2 | NESTED, attribute(1, struct.pack(">i", -4)) + attribute(2, schema.REFUSE.encode() + b"\0")
    ),
}


def element(key: bytes, value: Value = None, *, interval_end: bool = False) -> bytes:
    """One list element. All of one shape share their bytes but for the key, and the port if the value is one."""
    if isinstance(value, bytes):
        before, between, after = _shape(len(key), b"\0\0", interval_end)
        return before + key + between + value + after
    before, between, after = _shape(len(key), value, interval_end)
    return before + key + between + after


@functools.cache
def _shape(key_length: int, value: Value, interval_end: bool) -> tuple[bytes, bytes, bytes]:
    """What stands before the key, between it and the value, and behind (all of a value that is no port).

    NFTA_SET_ELEM_KEY 1, _DATA 2, _FLAGS 3.
    """
    body = attribute(1 | NESTED, attribute(1, bytes(key_length)))
    if value is not None:
        data = _VERDICTS[value] if isinstance(value, Verdict) else attribute(1, value)
        body += attribute(2 | NESTED, data)
    if interval_end:
        body += attribute(ELEMENT_FLAGS, struct.pack(">I", INTERVAL_END))
    whole = attribute(1 | NESTED, body)
    # three headers before the key; the port, 2 bytes and 2 of padding, is the last thing in an element that has one
    end = 12 + key_length
    start = len(whole) - 4 if isinstance(value, bytes) else end
    return whole[:12], whole[end:start], whole[start + (2 if isinstance(value, bytes) else 0) :]


def _element_message(name: str, elements: bytes, kind: int, flags: int) -> bytes:
    # struct nfgenmsg, then NFTA_SET_ELEM_LIST_TABLE 1, _SET 2, _ELEMENTS 3
    body = struct.pack("=BBH", INET, 0, 0)
    body += attribute(1, schema.TABLE.encode() + b"\0") + attribute(2, name.encode() + b"\0")
    body += attribute(3 | NESTED, elements)
    return netlink_message(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, body)


def _messages(name: str, elements: Iterable[bytes], kind: int, flags: int) -> Iterator[bytes]:
    pending: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > MAX_ELEMENTS_BYTES:
            yield _element_message(name, b"".join(pending), kind, flags)
            pending, size = [], 0
        pending.append(one)
        size += len(one)
    if pending:
        yield _element_message(name, b"".join(pending), kind, flags)


def new_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    return _messages(name, elements, nft.NFT_MSG_NEWSETELEM, NLM_F_CREATE)


def delete_elements(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    return _messages(name, elements, nft.NFT_MSG_DELSETELEM, 0)
