"""The writer of the table and its double keep the same contract, the former with the real kernel."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpf.model.names import (
    EndpointSet,
    Family,
    Forwarding,
    FrontendKey,
    Protocol,
    ServicePortName,
    SocketAddress,
)
from kpf.model.rules import Action, Direct, Forward, Masquerade, NodePort, OwnPods, Portal, Rules, Verdict
from kpf.netlink.attributes import attributes
from kpf.netlink.nfnetlink import type_of
from kpf.netlink.socket import frames
from kpf.nft import batch, schema, statements
from kpf.nft.elements import all_elements
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.nft.objects import Chain
from kpf.nft.schema import name_of
from kpf.nft.statements import Statement
from kpf.uapi.nf_tables import NFT_MSG, NFTA_SET
from kpf.uapi.nfnetlink import NFNL_SUBSYS
from tests.kernel_table import chains_of, maps_of, read_table, sets_of
from tests.nft_fake import FakeKernel
from tests.values import TCP, UDP, at

Writer = Kernel | FakeKernel


def forwarded(name: str, protocol: Protocol, family: Family, **fields: Any) -> FrontendKey:
    port = ServicePortName("kube-system", name, "a-port", protocol)
    return FrontendKey(port, family, fields.get("of", EndpointSet.CLUSTER), Forwarding.DIRECT)


DNS, DNS6 = (forwarded("dns", UDP, family) for family in Family)
LOCAL = forwarded("web", TCP, Family.IPV4, of=EndpointSet.LOCAL)
NODE_PORT = NodePort(Family.IPV4, UDP, 30082)
FULL = Rules(
    proxy_addresses={Family.IPV4: ip_address("192.168.1.10"), Family.IPV6: ip_address("fd00::10")},
    portals={
        Portal(ip_address("10.96.0.1"), TCP, 80): 20001,
        Portal(ip_address("fd00:96::1"), TCP, 443): 20002,
        Portal(ip_address("10.96.0.2"), TCP, 80): Verdict.REFUSE,
        Portal(ip_address("fd00:96::2"), TCP, 80): Verdict.DROP,
        Portal(ip_address("10.96.0.10"), UDP, 53): Direct(DNS, Masquerade.FOREIGN),
        Portal(ip_address("fd00:96::10"), UDP, 53): Direct(DNS6, Masquerade.ALWAYS),
    },
    node_ports={
        NodePort(Family.IPV4, TCP, 30080): 20001,
        NodePort(Family.IPV6, TCP, 30081): Verdict.REFUSE,
        NODE_PORT: Direct(DNS, Masquerade.ALWAYS),
        NodePort(Family.IPV4, TCP, 30083): Direct(LOCAL, Masquerade.NEVER),
    },
    cluster_ips=frozenset(map(ip_address, ("10.96.0.1", "10.96.0.2", "fd00:96::1"))),
    service_cidrs=tuple(map(ip_network, ("10.96.0.0/12", "fd00:96::/108"))),
    own_pods=OwnPods((ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")), "cali", is_prefix=True),
    off_node={Portal(ip_address("10.96.0.3"), TCP, 80): Direct(LOCAL, Masquerade.NEVER), NODE_PORT: Verdict.DROP},
    loopback={NodePort(Family.IPV4, TCP, 30083): 20003},
    source_ranges={
        Portal(ip_address("203.0.113.1"), TCP, 80): tuple(map(ip_network, ("10.0.0.0/8", "192.168.1.0/25")))
    },
    forwards={
        DNS: Forward((at("10.244.1.1:53"), at("10.244.2.1:53"))),
        DNS6: Forward((at("[fd00::1]:53"), at("[fd00::2]:53"), at("[fd00::3]:53")), 10800),
        LOCAL: Forward((at("10.244.1.1:8080"),), 10),
    },
    hairpins={ip_address("10.244.1.1"): 2, ip_address("fd00::1"): 1},
    listening=frozenset({at("192.168.1.10:20001"), at("[fd00::10]:20002")}),
    comments={
        Portal(ip_address("10.96.0.1"), TCP, 80): "shop/web:http",
        Portal(ip_address("fd00:96::2"), TCP, 80): "shop/web",
        Portal(ip_address("10.96.0.10"), UDP, 53): "kube-system/dns:a-port",
        Portal(ip_address("10.96.0.3"), TCP, 80): "kube-system/web:a-port",
        Portal(ip_address("203.0.113.1"), TCP, 80): "shop/guarded",
        NodePort(Family.IPV4, TCP, 30080): "shop/web:http",
        NodePort(Family.IPV4, TCP, 30083): "kube-system/web:a-port",
        NODE_PORT: "kube-system/dns:a-port",
    },
    worker_uid=93040,
)


NEW_SET = type_of(NFNL_SUBSYS.NFTABLES, NFT_MSG.NEWSET)
INTERVALS = {name_of(kind, family) for kind in ("node-port-networks", "service-cidrs") for family in Family}


def expected(rules: Rules) -> dict[str, dict[bytes, object]]:
    found: dict[str, dict[bytes, object]] = {}
    for (name, key), entry in all_elements(rules).items():
        found.setdefault(name, {})[key] = entry
    return found


async def seen(writer: Writer) -> dict[str, dict[bytes, object]]:
    contents = await writer.contents()
    return {name: dict(found) for name, found in contents.items() if found and name not in INTERVALS}


def play(kind: type[Writer], scene: Callable[[Writer], Awaitable[None]]) -> None:
    async def run() -> None:
        writer = kind()
        try:
            await writer.delete()
            await scene(writer)
            await writer.delete()
        finally:
            writer.close()

    asyncio.run(run())


both = pytest.mark.parametrize("kind", [Kernel, FakeKernel])


@both
def test_replace_makes_everything_whatever_was_there(kind: type[Writer]) -> None:
    async def scene(writer: Writer) -> None:
        await writer.replace(FULL)
        assert await seen(writer) == expected(FULL)
        await writer.replace(Rules())
        assert await seen(writer) == {}

    play(kind, scene)


@both
def test_update_changes_what_differs(kind: type[Writer]) -> None:
    portal = Portal(ip_address("10.96.0.1"), TCP, 80)
    states = [
        replace(FULL, portals={**FULL.portals, portal: 20003}),
        replace(FULL, portals={**FULL.portals, portal: Verdict.DROP}),
        FULL.dropping(),
        FULL.stepping_aside(),
        replace(FULL, node_ports={}, cluster_ips=frozenset(), listening=frozenset()),
        replace(FULL, node_port_networks=(ip_network("192.168.0.0/16"), ip_network("192.168.1.0/24"))),
        replace(FULL, proxy_addresses={Family.IPV4: ip_address("192.168.1.11")}),
        replace(FULL, comments={one: f"{comment}-2" for one, comment in FULL.comments.items()}),
        replace(FULL, comments={}),
        FULL,
    ]

    async def scene(writer: Writer) -> None:
        await writer.replace(FULL)
        now = FULL
        for state in states:
            await writer.update(now, state)
            now = state
            assert await seen(writer) == expected(state)

    play(kind, scene)


@both
def test_a_failed_update_changes_nothing_and_the_writer_goes_on(kind: type[Writer]) -> None:
    async def scene(writer: Writer) -> None:
        await writer.replace(FULL)
        # it is wrong about what is in force: one portal to delete is not there, one to add has another value
        believed = replace(FULL, portals={**FULL.portals, Portal(ip_address("10.9.9.9"), TCP, 80): 20009})
        with pytest.raises(TransactionFailedError):
            await writer.update(believed, replace(believed, portals={}))
        assert await seen(writer) == expected(FULL)
        await writer.update(FULL, Rules())
        assert await seen(writer) == {}

    play(kind, scene)


@both
def test_the_writer_knows_what_it_has_written(kind: type[Writer]) -> None:
    same = replace(FULL, service_cidrs=FULL.service_cidrs[::-1])

    async def scene(writer: Writer) -> None:
        assert writer.table.rules is None
        await writer.replace(FULL)
        assert writer.table.rules == FULL
        await writer.update(FULL, same)
        assert writer.table.rules == same, "there was nothing to write"
        with pytest.raises(TransactionFailedError):
            await writer.update(Rules(), FULL.dropping())
        assert writer.table.rules is None
        await writer.replace(FULL)
        await writer.delete()
        assert writer.table.rules is None

    play(kind, scene)


# what its maps lead to is not there
DANGLING = [
    replace(FULL, forwards={key: one for key, one in FULL.forwards.items() if key is not gone}) for gone in (DNS, LOCAL)
]


@both
@pytest.mark.parametrize("dangling", DANGLING, ids=["of a portal", "of what comes from elsewhere"])
def test_a_reference_to_a_chain_that_is_not_there_is_refused(kind: type[Writer], dangling: Rules) -> None:
    async def scene(writer: Writer) -> None:
        with pytest.raises(TransactionFailedError):
            await writer.replace(dangling)
        await writer.replace(FULL)
        with pytest.raises(TransactionFailedError):
            await writer.update(FULL, dangling)
        assert await seen(writer) == expected(FULL)

    play(kind, scene)


@both
@pytest.mark.parametrize("rule", [statements.jump("nowhere"), statements.source_in(Family.IPV4, "nowhere")])
def test_a_rule_that_refers_to_what_is_not_there_is_refused(
    kind: type[Writer], rule: Statement, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = schema.chains

    async def scene(writer: Writer) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(schema, "chains", lambda rules, **how: (*chains(rules, **how), Chain("stray", ((rule,),))))
            with pytest.raises(TransactionFailedError):
                await writer.replace(FULL)
        await writer.replace(FULL)
        assert await seen(writer) == expected(FULL)

    play(kind, scene)


@both
def test_without_a_table_an_update_fails_and_a_delete_does_not(kind: type[Writer]) -> None:
    async def scene(writer: Writer) -> None:
        with pytest.raises(TransactionFailedError):
            await writer.update(Rules(), FULL)
        with pytest.raises(FileNotFoundError):
            await writer.contents()
        await writer.delete()

    play(kind, scene)


@both
def test_nothing_to_change_is_no_transaction(kind: type[Writer]) -> None:
    async def scene(writer: Writer) -> None:
        # there is no table, so any transaction would fail
        await writer.update(FULL, replace(FULL))

    play(kind, scene)


def test_a_set_that_is_part_of_a_rule_has_an_identifier_of_its_own() -> None:
    """Linux before 6.12 finds the first set of the transaction that has it (nft_set_lookup_byid)."""
    for messages in (batch.whole_table(FULL), batch.difference(Rules(), FULL)):
        sets = [attributes(frame.payload[4:]) for one in messages for frame in frames(one) if frame.kind == NEW_SET]
        identifiers = [(bytes(one[NFTA_SET.NAME]).startswith(b"__"), bytes(one[NFTA_SET.ID])) for one in sets]
        anonymous = [identifier for is_anonymous, identifier in identifiers if is_anonymous]
        assert len(anonymous) == maps_of(FULL)
        assert all([one for _, one in identifiers].count(identifier) == 1 for identifier in anonymous)


ADDRESSES = {
    Family.IPV4: list(map(ip_address, ("10.0.0.1", "10.0.0.2"))),
    Family.IPV6: list(map(ip_address, ("fd00::1", "fd00::2"))),
}
PORTALS = [Portal(one, protocol, 80) for all_of in ADDRESSES.values() for one in all_of for protocol in (TCP, UDP)]
NODE_PORTS = [NodePort(family, protocol, port) for family in Family for protocol in (TCP, UDP) for port in (30001, 2)]
KEYS = [
    forwarded(name, protocol, family, of=of)
    for name, of in (("a", EndpointSet.CLUSTER), ("n" * 63, EndpointSet.LOCAL))
    for protocol in (TCP, UDP)
    for family in Family
]
networks = st.lists(
    st.sampled_from(
        ["0.0.0.0/0", "10.0.0.0/8", "11.0.0.0/8", "10.1.0.0/16", "255.0.0.0/8", "::/0", "fd00::/8", "ffff::/16"]
    ).map(ip_network),
    max_size=3,
).map(tuple)
own_pods = st.one_of(
    st.builds(OwnPods, networks),
    st.builds(OwnPods, st.just(()), st.sampled_from(["", "cbr0", "i" * 15]), st.booleans()),
)


@st.composite
def some_rules(draw: st.DrawFn) -> Rules:
    """Whatever a plan may make: a `Direct` action names a forward that is there, a node port has one proxy port."""
    forwards = {key: draw(forward_of(key.family)) for key in draw(st.frozensets(st.sampled_from(KEYS), max_size=4))}

    def actions(portal: Portal | NodePort) -> st.SearchStrategy[Action]:
        suited = [key for key in forwards if (key.family, key.port.protocol) == (portal.family, portal.protocol)]
        found: list[st.SearchStrategy[Action]] = [st.sampled_from(Verdict)]
        if portal.protocol is TCP:
            found.append(st.sampled_from([20001, 20002]))
        if suited:
            found.append(st.builds(Direct, st.sampled_from(suited), st.sampled_from(Masquerade)))
        return st.one_of(found)

    portals = {one: draw(actions(one)) for one in draw(st.frozensets(st.sampled_from(PORTALS)))}
    node_ports = {one: draw(actions(one)) for one in draw(st.frozensets(st.sampled_from(NODE_PORTS)))}
    everything: list[Portal | NodePort] = [*portals, *node_ports]
    off_node = draw(st.frozensets(st.sampled_from(everything))) if everything else frozenset()
    alone = [one for one, action in node_ports.items() if one.protocol is TCP and not isinstance(action, int)]
    guarded = draw(st.frozensets(st.sampled_from([*portals]))) if portals else frozenset()
    return Rules(
        proxy_addresses=draw(st.sampled_from([FULL.proxy_addresses, {Family.IPV4: ip_address("10.0.0.9")}, {}])),
        node_port_networks=draw(networks),
        portals=portals,
        node_ports=node_ports,
        off_node={one: draw(actions(one)) for one in off_node},
        loopback={one: draw(st.sampled_from([20001, 20003])) for one in alone if draw(st.booleans())},
        source_ranges={one: draw(networks) for one in guarded},
        forwards=forwards,
        hairpins=draw(st.dictionaries(st.sampled_from([ip_address("10.0.0.5"), ip_address("fd00::5")]), st.just(1))),
        cluster_ips=draw(st.frozensets(st.sampled_from([ip_address("10.0.0.1"), ip_address("fd00::1")]))),
        service_cidrs=draw(networks),
        comments={one: draw(st.sampled_from(["", "shop/web", "shop/web:http", "n" * 128])) for one in everything},
        listening=draw(st.frozensets(st.sampled_from([at("10.0.0.9:20001"), at("[fd00::9]:20002")]))),
        own_pods=draw(own_pods),
        masquerade_all=draw(st.booleans()),
        masquerade_bridged=draw(st.booleans()),
        worker_uid=draw(st.sampled_from([None, 93040, (1 << 32) - 2])),
    )


def forward_of(family: Family) -> st.SearchStrategy[Forward]:
    places = [SocketAddress(address, port) for address in ADDRESSES[family] for port in (53, 65535)]
    return st.builds(
        Forward,
        st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True).map(tuple),
        st.sampled_from([None, None, 1, 86400]),
    )


@both
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=st.lists(st.tuples(some_rules(), st.booleans()), min_size=1, max_size=5))
def test_any_state_follows_any_other(kind: type[Writer], history: list[tuple[Rules, bool]]) -> None:
    async def scene(writer: Writer) -> None:
        now = Rules(proxy_addresses=FULL.proxy_addresses)
        await writer.replace(now)
        for state, is_replaced in history:
            await (writer.replace(state) if is_replaced else writer.update(now, state))
            now = state
            assert await seen(writer) == expected(state)
            assert await writer.chains() == chains_of(state)
        if isinstance(writer, Kernel):
            in_steps = await read_table()
            assert in_steps[1:] == (sets_of(now), maps_of(now))
            for start_anew in (False, True):
                if start_anew:
                    writer.table.distrust()
                await writer.replace(now)
                assert await read_table() == in_steps

    play(kind, scene)
