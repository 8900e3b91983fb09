"""The table as data: chains and rules that do not change, sets and maps whose elements carry the state. Pure.

Both the netlink messages (`encode`) and the text for people (`text`) are made of this.

A new connection passes, in prerouting or, from this node's own processes, in output:
  -110  its portal has a verdict: refuse or drop, before anything else happens to it
  -105  its portal has a proxy port: the destination becomes the proxy address of the family (dstnat is -100, where
        CNI port maps sit, so theirs come after)
   -95  it still goes to a ClusterIP in use: no such port, refused (the nat core runs at -100, whatever a chain says)
and at input, the guard: who reaches a listening proxy port without having been redirected is refused.

Room is left for direct forwarding: maps of their own beside `proxy-*`, and postrouting.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kpf.model.names import Family
from kpf.model.rules import Rules
from kpf.nft import statements as st
from kpf.nft.statements import Statement

TABLE = "kpf"
REFUSE = "refuse"
REDIRECTS = "redirects"

# Data types as nft numbers them (include/datatype.h of nftables 1.0); a concatenation shifts them by 6 bits.
TYPE_IP4, TYPE_IP6, TYPE_PROTOCOL, TYPE_PORT, TYPE_VERDICT = 7, 8, 12, 13, 0xFFFFFF00
_NAMES = {TYPE_IP4: "ipv4_addr", TYPE_IP6: "ipv6_addr", TYPE_PROTOCOL: "inet_proto", TYPE_PORT: "inet_service"}
SIZES = {TYPE_IP4: 4, TYPE_IP6: 16, TYPE_PROTOCOL: 4, TYPE_PORT: 4}


class Hook(NamedTuple):
    """A base chain's place. `number` is NF_INET_*'s (include/uapi/linux/netfilter.h)."""

    kind: str
    name: str
    number: int
    priority: int


PREROUTING, INPUT, OUTPUT = ("prerouting", 0), ("input", 1), ("output", 3)


@dataclass(frozen=True, slots=True)
class Chain:
    name: str
    rules: tuple[tuple[Statement, ...], ...]
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map where `data` is a type. Keys are `key` types, each padded to 4 bytes."""

    name: str
    key: tuple[int, ...]
    data: int | None = None
    interval: bool = False

    @property
    def key_type(self) -> int:
        number = 0
        for one in self.key:
            number = number << 6 | one
        return number

    @property
    def key_length(self) -> int:
        # a lone port is 2 bytes, in a concatenation each part fills whole registers
        return 2 if self.key == (TYPE_PORT,) else sum(SIZES[one] for one in self.key)

    @property
    def type_text(self) -> str:
        keys = " . ".join(_NAMES[one] for one in self.key)
        if self.data is None:
            return keys
        return f"{keys} : {'verdict' if self.data == TYPE_VERDICT else _NAMES[self.data]}"


@functools.cache
def name_of(kind: str, family: Family) -> str:
    """The family's own set of a kind: `proxy-ip4`."""
    return f"{kind}-ip{family.value}"


def sets() -> Iterator[Set]:
    for family, address in ((Family.IPV4, TYPE_IP4), (Family.IPV6, TYPE_IP6)):
        yield Set(name_of("proxy", family), (address, TYPE_PORT), TYPE_PORT)
        yield Set(name_of("proxy-node-ports", family), (TYPE_PORT,), TYPE_PORT)
        yield Set(name_of("verdict", family), (address, TYPE_PROTOCOL, TYPE_PORT), TYPE_VERDICT)
        yield Set(name_of("verdict-node-ports", family), (TYPE_PROTOCOL, TYPE_PORT), TYPE_VERDICT)
        yield Set(name_of("cluster-ips", family), (address,))
        yield Set(name_of("listening", family), (address, TYPE_PORT))
        yield Set(name_of("node-port-networks", family), (address,), interval=True)


def chains(rules: Rules) -> Iterator[Chain]:
    """In an order in which each is defined before it is referred to."""
    yield Chain(REFUSE, ((st.tcp(), st.reject_reset()), (st.reject_port_unreachable(),)))
    yield Chain("verdicts", tuple(_verdicts()))
    yield Chain(REDIRECTS, tuple(_redirects(rules)))
    yield Chain("undefined-ports", tuple(_undefined_ports()))
    for name, number in (PREROUTING, OUTPUT):
        yield _base(f"verdicts-{name}", "filter", (name, number, -110), st.jump("verdicts"))
        yield _base(f"redirects-{name}", "nat", (name, number, -105), st.jump(REDIRECTS))
        yield _base(f"undefined-ports-{name}", "filter", (name, number, -95), st.jump("undefined-ports"))
    yield Chain("guard", tuple(_guard()), Hook("filter", *INPUT, -110))


def _base(name: str, kind: str, place: tuple[str, int, int], then: Statement) -> Chain:
    # a nat chain sees new connections only
    rule = (then,) if kind == "nat" else (st.new_connection(), then)
    return Chain(name, (rule,), Hook(kind, *place))


def _local(family: Family) -> tuple[Statement, ...]:
    """The destination is an address of this node on which NodePorts answer."""
    return st.local_destination(), st.destination_in(family, name_of("node-port-networks", family))


def _verdicts() -> Iterator[tuple[Statement, ...]]:
    for family in Family:
        yield st.family(family), st.address_verdict(family, name_of("verdict", family))
    for family in Family:
        ports = name_of("verdict-node-ports", family)
        yield st.family(family), *_local(family), st.port_verdict(ports)


def _redirects(rules: Rules) -> Iterator[tuple[Statement, ...]]:
    for family, address in sorted(rules.proxy_addresses.items()):
        start = (st.family(family), st.tcp())
        yield *start, st.redirect_by_address(family, address, name_of("proxy", family))
        ports = name_of("proxy-node-ports", family)
        yield *start, *_local(family), st.redirect_by_port(family, address, ports)


def _undefined_ports() -> Iterator[tuple[Statement, ...]]:
    for family in Family:
        in_use = (st.family(family), st.destination_in(family, name_of("cluster-ips", family)))
        # A SYN sent again, the first of which came before its portal: it must not be refused in the moment until its
        # entry is deleted (kpf.netlink.conntrack); the next one will find the portal.
        yield *in_use, st.tcp(), st.sent_before(), st.drop()
        # Of other protocols nothing is kpf's yet, and with IPVS a ClusterIP is an address of this node.
        yield *in_use, st.tcp(), st.goto(REFUSE)


def _guard() -> Iterator[tuple[Statement, ...]]:
    for family in Family:
        listening = st.destination_port_in(family, name_of("listening", family))
        yield st.family(family), st.tcp(), st.new_connection(), st.not_redirected(), listening, st.goto(REFUSE)
