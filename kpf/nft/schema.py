"""The table as data: chains and rules that hardly change, sets and maps whose elements carry the state. Pure.

Both the netlink messages (`encode`) and the text for people (`text`) are made of this. Names in the kernel outlive
those in the code: a daemon fills the table of the one before it in place only where both call its parts the same. What
the kernel forwards by itself has a chain of its own, and portals with source ranges have one (`forwards`).

A new connection passes, in prerouting or, from this node's own processes but the workers, in output:
  -110  it goes to a proxy address of kpf's own, which is for portals only; its portal does not want its source, or has
        a verdict: refuse or drop, before anything else happens to it
  -105  its portal has a proxy port: the destination becomes the proxy address of the family; or its portal has a
        chain of `forwards`, which makes it an endpoint's (CNI port maps sit at dstnat, -100, so theirs come after)
   -95  it still goes to a ClusterIP in use: no such port, refused; or to one that nobody has: dropped (the nat core
        runs at -100, whatever a chain says)
and at input, the guard: who reaches a listening proxy port without having been redirected is refused, and the SYN of
who has been is dropped while nobody listens there, so that TCP sends it again and the next kpf serves it; in
postrouting, before a CNI's masquerading, what was marked when it was forwarded is masqueraded.

What workers dial is a pod's, whatever portal is there: it passes nothing of this but -95. What comes over lo has been
through output. A TCP segment that is no SYN and new to conntrack belongs to a connection from before kpf, or to one
whose entry was lost: sent to an address of this node it is left alone, as that may be the near end of a connection to
elsewhere from the port of a portal; sent to any other address it goes to the proxy port, where its connection is.

`far-*` are for what is off-node: what comes neither from this node's processes nor from its pods. They are asked first:
with external policy Local, others than these get other endpoints. For them nothing else is asked then.
"""

import functools
from collections.abc import Iterator
from ipaddress import ip_network

from kpf.model.names import Family
from kpf.model.rules import Rules
from kpf.nft import nat
from kpf.nft import statements as st
from kpf.nft.datatypes import ADDRESS_TYPE, TYPE_PORT, TYPE_PROTOCOL, TYPE_VERDICT
from kpf.nft.objects import Chain, Hook, Rule, Set
from kpf.uapi.netfilter import NF_INET

TABLE = "kpf"
REFUSE, SOURCE_RANGES, PROXY_PORTS = "refuse", "guards", "proxy-ports"
REDIRECTS, OFF_NODE_REDIRECTS, OFF_NODE_VERDICTS = "redirects", "far-redirects", "far-verdicts"
VERDICTS_OUTPUT, REDIRECTS_OUTPUT = "verdicts-output", "redirects-output"
MASQUERADE_ALWAYS, MASQUERADE_FOREIGN, MASQUERADES = "masquerade-always", "masquerade-foreign", "masquerades"

LOOPBACK = {Family.IPV4: ip_network("127.0.0.0/8"), Family.IPV6: ip_network("::1/128")}

PREROUTING, INPUT = ("prerouting", NF_INET.PRE_ROUTING), ("input", NF_INET.LOCAL_IN)
OUTPUT, POSTROUTING = ("output", NF_INET.LOCAL_OUT), ("postrouting", NF_INET.POST_ROUTING)


@functools.cache
def name_of(kind: str, family: Family) -> str:
    """The family's own set of a kind: `proxy-ip4`."""
    return f"{kind}-ip{family.value}"


@functools.cache
def sets() -> tuple[Set, ...]:
    """Those that are always there, for each family."""
    return tuple(one for family in Family for one in _sets(family))


def _sets(family: Family) -> Iterator[Set]:
    address = ADDRESS_TYPE[family]
    for kind in ("verdict", "direct", "masquerade", "far-verdict", "far-direct"):
        yield Set(name_of(kind, family), (address, TYPE_PROTOCOL, TYPE_PORT), TYPE_VERDICT)
        yield Set(name_of(f"{kind}-node-ports", family), (TYPE_PROTOCOL, TYPE_PORT), TYPE_VERDICT)
    for kind in ("proxy", "far-proxy"):
        yield Set(name_of(kind, family), (address, TYPE_PORT), TYPE_PORT)
        yield Set(name_of(f"{kind}-node-ports", family), (TYPE_PORT,), TYPE_PORT)
    yield Set(name_of("guards", family), (address, TYPE_PROTOCOL, TYPE_PORT), TYPE_VERDICT)
    yield Set(name_of("hairpins", family), (address, address))
    yield Set(name_of("cluster-ips", family), (address,))
    yield Set(name_of("listening", family), (address, TYPE_PORT))
    for kind in ("node-port-networks", "service-cidrs"):
        yield Set(name_of(kind, family), (address,), interval=True)


def chains(rules: Rules, *, finds_sockets: bool = True) -> Iterator[Chain]:
    """Those that are always there, in an order in which each is defined before it is referred to.

    `finds_sockets`: the kernel's rules can ask for sockets (`trial`).
    """
    yield Chain(REFUSE, ((st.tcp(), st.reject_reset()), (st.reject_port_unreachable(),)))
    yield Chain(MASQUERADE_ALWAYS, ((nat.mark_for_masquerade(),),))
    yield Chain(MASQUERADE_FOREIGN, tuple(_masquerade_foreign(rules)))
    yield Chain(SOURCE_RANGES, tuple(_source_ranges(rules)))
    yield Chain(OFF_NODE_VERDICTS, (*_own_leave(rules), *_verdicts("far-verdict")))
    yield Chain("verdicts", tuple(_verdicts("verdict")))
    for family in Family:
        yield Chain(_ports_chain("far-", family), tuple(_node_ports_off_node(rules, family)))
        yield Chain(_ports_chain("", family), tuple(_node_ports(rules, family)))
    yield Chain(OFF_NODE_REDIRECTS, (*_own_leave(rules), *_redirects(rules, "far-")))
    yield Chain(REDIRECTS, tuple(_redirects(rules, "")))
    yield Chain("undefined-ports", tuple(_undefined_ports()))
    yield Chain(PROXY_PORTS, tuple(_proxy_ports(finds_sockets)))
    yield from _base_chains(rules)
    yield Chain(MASQUERADES, tuple(_masquerade(rules)), Hook("nat", *POSTROUTING, 95))


def of_node(rules: Rules) -> Iterator[Chain]:
    """The chains that say of this node what it is like."""
    return (chain for chain in chains(rules) if chain.name in _OF_NODE)


def _base_chains(rules: Rules) -> Iterator[Chain]:
    sources, off_node, verdicts = (st.jump(SOURCE_RANGES),), (st.jump(OFF_NODE_VERDICTS),), (st.jump("verdicts"),)
    redirects, undefined = (st.jump(REDIRECTS),), (st.new_connection(), st.jump("undefined-ports"))
    dialled = () if rules.worker_uid is None else ((st.sent_by(rules.worker_uid), st.leave()),)
    known, judged = (st.not_new(), st.leave()), (st.comes_from_interface("lo", is_prefix=False), st.leave())
    under_way = st.under_way(), st.local_destination(), st.leave()
    # a nat chain sees new connections only
    yield _base(
        "verdicts-prerouting", "filter", (*PREROUTING, -110), known, judged, under_way, sources, off_node, verdicts
    )
    yield _base(VERDICTS_OUTPUT, "filter", (*OUTPUT, -110), known, *dialled, under_way, sources, verdicts)
    yield _base(
        "redirects-prerouting", "nat", (*PREROUTING, -105), under_way, (st.jump(OFF_NODE_REDIRECTS),), redirects
    )
    yield _base(REDIRECTS_OUTPUT, "nat", (*OUTPUT, -105), *dialled, under_way, redirects)
    yield _base("undefined-ports-prerouting", "filter", (*PREROUTING, -95), undefined)
    yield _base("undefined-ports-output", "filter", (*OUTPUT, -95), undefined)
    yield _base("guard", "filter", (*INPUT, -110), *_guard())


def _base(name: str, kind: str, place: tuple[str, NF_INET, int], *rules: Rule) -> Chain:
    return Chain(name, rules, Hook(kind, *place))


def _source_ranges(rules: Rules) -> Iterator[Rule]:
    # what comes over a VRF is seen twice in prerouting (vrf_rcv_nfhook), then with the proxy address in it
    for address in sorted(rules.own_addresses, key=lambda one: one.packed):
        yield st.sent_to(address), st.not_redirected(), st.goto(REFUSE)
    for family in Family:
        yield st.family(family), st.address_verdict(family, name_of("guards", family))


def _own_leave(rules: Rules) -> Iterator[Rule]:
    """This node's own processes, as far as they come by here at all, and its pods leave the chain."""
    yield st.local_source(), st.leave()
    yield from _own_pods_leave(rules)


def _own_pods_leave(rules: Rules) -> Iterator[Rule]:
    own = rules.own_pods
    if own.interface:
        yield st.comes_from_interface(own.interface, is_prefix=own.is_prefix), st.leave()
    for network in own.networks:
        yield st.source_inside(network), st.leave()


def _masquerade_foreign(rules: Rules) -> Iterator[Rule]:
    if rules.masquerade_all:
        yield (nat.mark_for_masquerade(),)
        return
    yield from _own_pods_leave(rules)
    for family in Family:
        known = () if rules.own_pods.are_known(family) else (st.local_source(),)
        yield st.family(family), *known, nat.mark_for_masquerade()


def _local(family: Family) -> Rule:
    """The destination is an address of this node on which NodePorts answer."""
    return st.local_destination(), st.destination_in(family, name_of("node-port-networks", family))


def _verdicts(kind: str) -> Iterator[Rule]:
    for family in Family:
        yield st.family(family), st.address_verdict(family, name_of(kind, family))
        ports = st.port_verdict(name_of(f"{kind}-node-ports", family))
        yield st.family(family), *_local(family), ports


def _ports_chain(prefix: str, family: Family) -> str:
    return f"{prefix}node-ports-ip{family.value}"


def _redirects(rules: Rules, prefix: str) -> Iterator[Rule]:
    for family in Family:
        address = rules.proxy_addresses.get(family)
        if address is not None:
            proxied = nat.redirect_by_address(family, address, name_of(f"{prefix}proxy", family))
            yield st.family(family), st.tcp(), proxied
        if not prefix:
            yield st.family(family), st.address_verdict(family, name_of("masquerade", family))
        yield st.family(family), st.address_verdict(family, name_of(f"{prefix}direct", family))
        yield st.family(family), *_local(family), st.jump(_ports_chain(prefix, family))


def _node_ports(rules: Rules, family: Family) -> Iterator[Rule]:
    # the kernel forwards nothing from 127.0.0.1 (without route_localnet) or ::1
    elsewhere = st.not_to(LOOPBACK[family])
    yield elsewhere, st.port_verdict(name_of("masquerade-node-ports", family))
    yield elsewhere, st.port_verdict(name_of("direct-node-ports", family))
    yield from _proxied_node_ports(rules, family, "proxy-node-ports")


def _node_ports_off_node(rules: Rules, family: Family) -> Iterator[Rule]:
    yield (st.port_verdict(name_of("far-direct-node-ports", family)),)
    yield from _proxied_node_ports(rules, family, "far-proxy-node-ports")


def _proxied_node_ports(rules: Rules, family: Family, kind: str) -> Iterator[Rule]:
    address = rules.proxy_addresses.get(family)
    if address is not None:
        yield st.tcp(), nat.redirect_by_port(family, address, name_of(kind, family))


_OF_NODE = {
    SOURCE_RANGES,
    VERDICTS_OUTPUT,
    REDIRECTS_OUTPUT,
    MASQUERADE_FOREIGN,
    MASQUERADES,
    OFF_NODE_VERDICTS,
    OFF_NODE_REDIRECTS,
    REDIRECTS,
    *(_ports_chain(prefix, family) for prefix in ("", "far-") for family in Family),
}


def _undefined_ports() -> Iterator[Rule]:
    for family in Family:
        in_use = (st.family(family), st.destination_in(family, name_of("cluster-ips", family)))
        # A packet sent again, the first of which came before its portal: it must not be refused in the moment until its
        # entry is deleted (kpf.netlink.conntrack); the next one will find the portal.
        yield *in_use, st.sent_before(), st.drop()
        yield *in_use, st.goto(REFUSE)
        # with IPVS a ClusterIP is an address of this node
        unowned = st.destination_in(family, name_of("service-cidrs", family))
        yield st.family(family), unowned, st.foreign_destination(), st.drop()


def _guard() -> Iterator[Rule]:
    # A SYN may be of the connection that the last one from its port was, for conntrack: for 10 s, where this end has
    # reset it (TCP_CONNTRACK_CLOSE, nf_conntrack_tcp_packet). So it is asked for, whatever its state.
    yield st.not_new(), st.under_way(), st.leave()
    for family in Family:
        listening = st.destination_port_in(family, name_of("listening", family))
        yield st.family(family), st.tcp(), listening, st.goto(PROXY_PORTS)


def _proxy_ports(finds_sockets: bool) -> Iterator[Rule]:
    yield st.new_connection(), st.not_redirected(), st.goto(REFUSE)
    if finds_sockets:
        # who believes to be connected is told by the kernel that he is not
        yield st.under_way(), st.leave()
        yield st.has_socket(), st.leave()
        yield (st.drop(),)


def trial() -> Chain:
    """What a kernel refuses with ENOENT whose rules cannot ask for sockets."""
    return Chain("trial", ((st.has_socket(), st.leave()),))


def _masquerade(rules: Rules) -> Iterator[Rule]:
    # what stays on this node needs no other source, and workers are dialled over lo too
    yield st.leaves_by_interface("lo"), st.leave()
    yield nat.marked_for_masquerade(), nat.take_mark_away(), nat.masquerade()
    if rules.masquerade_bridged:
        yield st.redirected(), st.between_bridges(), nat.masquerade()
    for family in Family:
        own = st.source_and_destination_in(family, name_of("hairpins", family))
        yield st.redirected(), st.family(family), own, nat.masquerade()
