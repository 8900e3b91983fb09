"""The writer of the table and its double keep the same contract, the former with the real kernel."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, Protocol, ServicePortName
from kpf.model.rules import Action, Direct, Forward, Masquerade, NodePort, OwnPods, Portal, Rules, Verdict
from kpf.nft.elements import all_elements
from kpf.nft.fake import FakeKernel
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.nft.schema import name_of
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
    far={Portal(ip_address("10.96.0.3"), TCP, 80): Direct(LOCAL, Masquerade.NEVER), NODE_PORT: Verdict.DROP},
    loopback={NodePort(Family.IPV4, TCP, 30083): 20003},
    guards={Portal(ip_address("203.0.113.1"), TCP, 80): tuple(map(ip_network, ("10.0.0.0/8", "192.168.1.0/25")))},
    forwards={
        DNS: Forward((at("10.244.1.1:53"), at("10.244.2.1:53"))),
        DNS6: Forward((at("[fd00::1]:53"), at("[fd00::2]:53"), at("[fd00::3]:53")), 10800),
        LOCAL: Forward((at("10.244.1.1:8080"),), 10),
    },
    hairpins={ip_address("10.244.1.1"): 2, ip_address("fd00::1"): 1},
    listening=frozenset({at("192.168.1.10:20001"), at("[fd00::10]:20002")}),
)


INTERVALS = {name_of(kind, family) for kind in ("node-port-networks", "service-cidrs") for family in Family}


def expected(rules: Rules) -> dict[str, dict[bytes, object]]:
    found: dict[str, dict[bytes, object]] = {}
    for (name, key), value in all_elements(rules).items():
        found.setdefault(name, {})[key] = value
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
        replace(FULL, node_ports={}, cluster_ips=frozenset(), listening=frozenset()),
        replace(FULL, node_port_networks=(ip_network("192.168.0.0/16"), ip_network("192.168.1.0/24"))),
        replace(FULL, proxy_addresses={Family.IPV4: ip_address("192.168.1.11")}),
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


portals = st.builds(
    Portal, st.sampled_from([ip_address("10.0.0.1"), ip_address("fd00::1")]), st.just(TCP), st.sampled_from([80, 81])
)
actions: st.SearchStrategy[Action] = st.sampled_from([20001, 20002, Verdict.REFUSE, Verdict.DROP])
node_ports = st.builds(NodePort, st.sampled_from(list(Family)), st.just(TCP), st.sampled_from([30001, 30002]))
networks = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "11.0.0.0/8", "10.1.0.0/16", "255.0.0.0/8", "::/0", "fd00::/8", "ffff::/16"]
)
rules = st.builds(
    Rules,
    proxy_addresses=st.just(FULL.proxy_addresses),
    node_port_networks=st.lists(networks.map(ip_network), max_size=3).map(tuple),
    portals=st.dictionaries(portals, actions, max_size=4),
    node_ports=st.dictionaries(node_ports, actions, max_size=3),
    cluster_ips=st.frozensets(st.sampled_from([ip_address("10.0.0.1"), ip_address("fd00::1")])),
    listening=st.frozensets(st.sampled_from([at("10.0.0.9:20001"), at("[fd00::9]:20002")])),
)


@both
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(rules, min_size=1, max_size=5))
def test_any_history_of_updates_ends_in_the_last_state(kind: type[Writer], history: list[Rules]) -> None:
    async def scene(writer: Writer) -> None:
        now = Rules(proxy_addresses=FULL.proxy_addresses)
        await writer.replace(now)
        for state in history:
            await writer.update(now, state)
            now = state
            assert await seen(writer) == expected(state)

    play(kind, scene)
