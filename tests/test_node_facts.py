"""This node as the plan sees it."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from kpf.config import Config
from kpf.config.model import DetectLocal
from kpf.master import facts, identity
from kpf.master.facts import NodeWatch, node_facts
from kpf.master.identity import NOBODY, worker_user
from kpf.model.names import Family, SocketAddress
from kpf.model.rules import OwnPods
from kpf.model.snapshot import Node, Snapshot
from kpf.netlink.addresses import LocalAddress, NodeAddresses
from kpf.netlink.own import DEFAULT, MARK
from kpf.plan.node import NodeFacts

HERE = NodeAddresses(tuple(LocalAddress(1, ip_address(one)) for one in ("192.0.2.1", "127.0.0.1", "2001:db8::1")))


def configured(*bind: str) -> Config:
    return Config.model_construct(
        bind_address=tuple(map(ip_address, bind)),
        node_name="node-1",
        node_port_addresses=(),
        allow_external_ips=True,
    )


@pytest.mark.parametrize(
    ("ids", "user"),
    [
        ("0 0 4294967295\n", 93040),
        ("0 1000 1\n", NOBODY),
        ("0 1000 1\n1 100000 93040\n", 93040),
        ("0 1000 1\n1 100000 93039\n", NOBODY),
        (None, 93040),
    ],
    ids=["all", "one", "just enough", "one too few", "no user namespaces"],
)
def test_workers_become_nobody_where_their_user_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str | None, user: int
) -> None:
    monkeypatch.setattr(identity, "UID_MAP", tmp_path / "uid_map")
    if ids is not None:
        (tmp_path / "uid_map").write_text(ids, encoding="ascii")
    assert worker_user(93040) == user


def test_the_networks_of_this_nodes_pods_are_its_nodes() -> None:
    fields: dict[str, Any] = {"detect_local_mode": "ClusterCIDR", "cluster_cidr": CLUSTER}
    detected = Config(**fields)
    assert _facts(detected, THIS_NODE).pod_networks == OF_NODE
    assert _facts(detected, Snapshot()).pod_networks == ()


def test_a_network_that_this_node_is_in_is_not_its_pods() -> None:
    """A cluster's range that overlaps its nodes' network, whose free addresses a load balancer gives out."""
    networks = tuple(map(ip_network, ("192.0.2.0/24", "2001:db9::/64")))
    node = Node("node-1", internal_ips=(ip_address("192.0.2.1"),), pod_cidrs=networks)
    assert _facts(configured(), Snapshot(node=node)).pod_networks == networks[1:]


def _facts(config: Config, snapshot: Snapshot) -> NodeFacts:
    return node_facts(config, HERE, snapshot, list[str]().append, own={})


@pytest.mark.parametrize("uid", [93040, NOBODY, 0, None])
def test_the_workers_dials_are_known_by_their_own_user_alone(uid: int | None) -> None:
    """None: they are not all the same."""
    node = NodeWatch(Config())
    assert node.facts(Snapshot()).worker_uid is None
    node.workers_are(uid)
    assert node.facts(Snapshot()).worker_uid == (uid if uid == 93040 else None)


CLUSTER = "10.244.0.0/16,fd00:10::/48"
NETWORKS = tuple(map(ip_network, CLUSTER.split(",")))
OF_NODE = tuple(map(ip_network, ("10.244.1.0/24", "fd00:10:0:1::/64")))
THIS_NODE = Snapshot(node=Node("node-1", pod_cidrs=OF_NODE))


@pytest.mark.parametrize(
    ("fields", "snapshot", "own"),
    [
        ({}, THIS_NODE, OwnPods(OF_NODE)),
        ({}, Snapshot(node=Node("node-1")), OwnPods()),
        ({}, Snapshot(), OwnPods()),
        ({"cluster_cidr": CLUSTER}, THIS_NODE, OwnPods(NETWORKS)),
        ({"detect_local_mode": "NodeCIDR", "cluster_cidr": CLUSTER}, THIS_NODE, OwnPods(OF_NODE)),
        ({"detect_local_mode": "ClusterCIDR", "cluster_cidr": "10.244.0.0/16"}, THIS_NODE, OwnPods(NETWORKS[:1])),
        ({"detect_local_mode": "BridgeInterface"}, THIS_NODE, OwnPods(interface="cbr0")),
        ({"detect_local_mode": "InterfaceNamePrefix"}, THIS_NODE, OwnPods(interface="cali", is_prefix=True)),
    ],
    ids=[
        "the Node's",
        "a Node that has none",
        "no Node",
        "of the cluster",
        "the Node's, though the cluster's are known",
        "of the cluster, of one family",
        "bridge",
        "prefix",
    ],
)
def test_which_pods_are_this_nodes(fields: dict[str, Any], snapshot: Snapshot, own: OwnPods) -> None:
    detect = DetectLocal(bridge_interface="cbr0", interface_name_prefix="cali")
    seen = node_facts(Config(detect_local=detect, **fields), HERE, snapshot, list[str]().append, own={})
    assert seen.own_pods == own
    known = {family: any(one.version == family for one in own.networks) or own.interface != "" for family in Family}
    assert {family: own.are_known(family) for family in Family} == known


@pytest.mark.parametrize(
    ("bind", "served", "said"),
    [
        ((), {4: "192.0.2.1", 6: "2001:db8::1"}, ""),
        (("192.0.2.9",), {6: "2001:db8::1"}, "bindAddress 192.0.2.9 is no address of this node"),
        (("127.0.0.9",), {4: "127.0.0.9", 6: "2001:db8::1"}, ""),
        (("0.0.0.0",), {4: "192.0.2.1", 6: "2001:db8::1"}, ""),
    ],
    ids=["found", "of another node", "loopback is a whole network", "wildcard"],
)
def test_only_an_address_of_this_node_serves(bind: tuple[str, ...], served: dict[int, str], said: str) -> None:
    warnings: list[str] = []
    seen = node_facts(configured(*bind), HERE, Snapshot(), warnings.append, own={})
    assert {int(family): str(address) for family, address in seen.proxy_addresses.items()} == served
    assert [said in warning for warning in warnings] == [True] * bool(said)


def test_kpfs_own_addresses_stand_for_nothing_but_proxies() -> None:
    own = {Family.IPV4: ip_address("169.254.77.1"), Family.IPV6: ip_address("fd77:6b70:66::1")}
    config = configured().model_copy(update={"node_port_addresses": "primary"})
    seen = node_facts(config, HERE, Snapshot(), list[str]().append, own=own)
    assert dict(seen.proxy_addresses) == own
    assert seen.own_addresses == frozenset(own.values())
    assert seen.local_addresses == HERE.all()
    assert [str(one) for one in seen.node_port_networks] == ["192.0.2.1/32", "2001:db8::1/128"]
    # nor is a family served that there is no other address of
    only_four = NodeAddresses(HERE.addresses[:2])
    seen = node_facts(config, only_four, Snapshot(), list[str]().append, own=own)
    assert (list(seen.proxy_addresses), len(seen.own_addresses)) == ([Family.IPV4], 1)


def test_where_kpf_serves_itself_is_nobodys_portal() -> None:
    health, metrics = SocketAddress(ip_address("0.0.0.0"), 10256), SocketAddress(ip_address("127.0.0.1"), 10249)
    assert _facts(Config(), Snapshot()).own_listeners == (health, metrics)
    assert _facts(
        Config.model_validate({"metricsBindAddress": ""}, by_alias=True, by_name=False), Snapshot()
    ).own_listeners == (health,)


def test_a_family_without_any_address_is_not_served_and_said() -> None:
    warnings: list[str] = []
    only_four = NodeAddresses(HERE.addresses[:2])
    assert set(node_facts(configured(), only_four, Snapshot(), warnings.append, own={}).proxy_addresses) == {
        Family.IPV4
    }
    assert warnings == ["this node has no IPv6 address: Services are not served over IPv6"]


FOUR, SIX = DEFAULT[Family.IPV4], DEFAULT[Family.IPV6]
LOOPBACK = LocalAddress(1, ip_address("127.0.0.1"), is_global=False), LocalAddress(1, ip_address("::1"), mark=1)
OWN = tuple(LocalAddress(1, one, bits=one.max_prefixlen, mark=MARK) for one in (FOUR, SIX))


class Told:
    """A look at the node that sees what it is told."""

    def __init__(self, *addresses: LocalAddress) -> None:
        self.found = addresses

    async def read(self) -> NodeAddresses:
        return NodeAddresses(self.found)


def watching(monkeypatch: pytest.MonkeyPatch, told: Told) -> NodeWatch:
    monkeypatch.setattr(facts, "AddressWatch", lambda: told)
    return NodeWatch(configured())


def looked(node: NodeWatch) -> NodeFacts:
    asyncio.run(node.start())
    return node.facts(Snapshot())


def test_what_the_daemon_has_put_is_no_address_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    node = watching(monkeypatch, Told(*HERE.addresses, *OWN))
    seen = looked(node)
    assert dict(seen.proxy_addresses) == DEFAULT
    assert seen.local_addresses == HERE.all()
    # but it has it
    assert node.addresses == HERE.all() | {FOUR, SIX}


def test_a_family_of_loopback_alone_gets_no_address_of_kpfs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else could reach it; and an address beside ::1 makes others ask for AAAA (getaddrinfo, AI_ADDRCONFIG)."""
    told = Told(*LOOPBACK)
    node = watching(monkeypatch, told)
    seen = looked(node)
    assert list(map(str, seen.proxy_addresses.values())) == ["127.0.0.1", "::1"]
    assert seen.own_addresses == frozenset()
    told.found = (*LOOPBACK, *HERE.addresses)
    assert dict(looked(node).proxy_addresses) == DEFAULT
    # while the node is renumbered
    told.found = (*LOOPBACK, *OWN)
    assert dict(looked(node).proxy_addresses) == DEFAULT


def test_addresses_that_cannot_be_read_for_a_while_end_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(facts, "RETRY_S", 0.01)

    class Watch:
        tries = 0

        async def changes(self) -> AsyncIterator[NodeAddresses]:
            self.tries += 1
            if self.tries < 3:
                raise OSError(24, "Too many open files")
            yield HERE
            await asyncio.Event().wait()

    async def scene() -> None:
        node = NodeWatch(configured())
        monkeypatch.setattr(node, "_watch", Watch())
        await asyncio.wait_for(anext(node.changes()), 2.0)
        assert node.facts(Snapshot()).local_addresses == HERE.all()

    asyncio.run(scene())
    assert "the last known ones stay" in caplog.text


@pytest.mark.parametrize("can_be_put", [True, False])
def test_an_address_that_is_put_back_has_not_gone(monkeypatch: pytest.MonkeyPatch, *, can_be_put: bool) -> None:
    """Else connections would be reset for it, should the next look fail."""

    class Watch:
        async def changes(self) -> AsyncIterator[NodeAddresses]:
            yield NodeAddresses((*HERE.addresses, *OWN))
            yield HERE

    async def put(_: object) -> None:
        if not can_be_put:
            raise OSError(13, "Permission denied")

    async def scene() -> None:
        node = NodeWatch(configured())
        monkeypatch.setattr(node, "_watch", Watch())
        changes = node.changes()
        await anext(changes)
        assert node.facts(Snapshot()).own_addresses == {FOUR, SIX}
        assert await anext(changes) == (set() if can_be_put else {FOUR, SIX})

    monkeypatch.setattr(facts, "put", put)
    asyncio.run(scene())
