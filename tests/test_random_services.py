"""A thousand random Services and EndpointSlices through the whole plan and into the real kernel: never an exception,
never a failed transaction, and the kernel has what it must have."""

import asyncio
import errno
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kpf.model.names import Family, Forwarding
from kpf.model.rules import OwnPods, Portal, Rules
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.plan.allocation import Listener, ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.node import NodeFacts
from kpf.plan.planner import Planner
from kpf.plan.transition import WriteRules, transition
from kpf.sources.cache import Cache
from kpf.sources.decode import decode
from tests.kernel_table import chains_of, maps_of, read_table, sets_of
from tests.raw_objects import FORWARDING, LONG, NAMES, RawObjects
from tests.test_nft_contract import expected, seen
from tests.transition_world import World
from tests.values import FACTS, TCP, WORKERS, at

A_TRANSACTION = 50
NODE = replace(
    FACTS,
    zone="a",
    has_sctp=True,
    own_pods=OwnPods(tuple(map(ip_network, ("10.244.1.0/24", "fd00:10:244::/64")))),
    service_cidrs=tuple(map(ip_network, ("10.96.0.0/16", "10.96.0.0/24", "fd00:96::/108"))),
    own_listeners=(at("0.0.0.0:10256"),),
)
# mostly it is the same node
NODES = (
    *(NODE,) * 6,
    replace(NODE, own_pods=OwnPods(interface="cali", is_prefix=True), forwarding=Forwarding.DIRECT),
    replace(NODE, node_port_networks=(ip_network("192.168.0.0/16"),), local_addresses=frozenset()),
    replace(NODE, proxy_addresses={Family.IPV4: FACTS.proxy_addresses[Family.IPV4]}, external_ips_allowed=False),
    *(replace(NODE, worker_uid=uid) for uid in (WORKERS, WORKERS, WORKERS + 1)),
    replace(NODE, masquerade_all=True, masquerade_bridged=True, has_sctp=False, zone="", forwarding=Forwarding.PROXIED),
)


class Proxy:
    """Everything from raw objects to the kernel's table, but for workers, sockets and conntrack."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.cache, self.planner, self.state, self.world = Cache("node-1"), Planner(), DesiredState(), World()

    def take(self, raw: dict[str, Any]) -> None:
        """This object is all that the file of its name has now."""
        metadata = raw.get("metadata")
        name = str(metadata.get("name")) if isinstance(metadata, dict) else ""
        self.cache.put(name, decode(raw, name))

    def is_free(self, place: Listener) -> bool:
        return all(place.at.port != listener.at.port for listener in self.world.now.frontends)

    async def sync(self, facts: NodeFacts = NODE) -> Rules:
        """Bring what is known into force, and see that the kernel has what it must have."""
        plans, ownership = self.planner.plan(self.cache.snapshot(), facts)
        opened = self.world.now.frontends
        ports = ProxyPorts(range(20000, 20200), 1000, self.is_free)
        still_open, before = frozenset(opened), self.state.allocation
        allocation = allocate(ownership, facts, ports, before=before, open_now=opened, still_open=still_open)
        self.state = desired_state(plans, allocation, self.state)
        for step in transition(self.world.now, self.world.table.rules, self.state):
            if isinstance(step, WriteRules) and step.old is None:
                await self.kernel.replace(step.new)
            elif isinstance(step, WriteRules) and step.old is not None:
                await self.kernel.update(step.old, step.new)
            self.world.perform(step)
        await self.check()
        self.check_promises()
        return self.state.rules

    async def check(self) -> None:
        rules = self.state.rules
        assert await seen(self.kernel) == expected(rules)
        assert await self.kernel.chains() == chains_of(rules)
        assert (await read_table())[1:] == (sets_of(rules), maps_of(rules))

    def check_promises(self) -> None:
        """No dial comes back to kpf, and an address of a load balancer is kept to its Service's source ranges."""
        rules, services = self.state.rules, self.cache.snapshot().services
        dialled = [(listener.frontend, one.endpoints) for listener, one in self.state.frontends.items()]
        for key, endpoints in (*dialled, *((key, forward.endpoints) for key, forward in rules.forwards.items())):
            assert key.port.protocol is not TCP or rules.listening.isdisjoint(endpoints)
            if key.forwarding is Forwarding.PROXIED and rules.worker_uid is None:
                assert not any(Portal(one.address, TCP, one.port) in rules.portals for one in endpoints)
        for name, claims in self.state.captured.items():
            own = services[name]
            for portal in [claim.portal for claim in claims if isinstance(claim.portal, Portal)]:
                ranges = [one for one in own.load_balancer_source_ranges if one.version == portal.family]
                is_balanced = portal.address in own.load_balancer_ips and portal.address not in own.cluster_ips
                is_guarded = is_balanced and bool(ranges) and all(one.prefixlen for one in ranges)
                assert (portal in rules.source_ranges) == is_guarded

    async def check_replaced(self) -> None:
        """A full sync, in place or not, makes what the updates have made."""
        in_steps = await read_table()
        for is_foreign in (False, True):
            if is_foreign:
                self.kernel.table.distrust()
            await self.kernel.replace(self.state.rules)
            await self.check()
            assert await read_table() == in_steps


def play(scene: Callable[[Proxy], Awaitable[None]]) -> None:
    async def run() -> None:
        proxy = Proxy()
        try:
            await scene(proxy)
            await proxy.kernel.delete()
        finally:
            proxy.kernel.close()

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(4))
def test_any_thousand_services_and_slices_become_what_they_must(seed: int) -> None:
    wildcard = frozenset(Family) if seed % 2 else frozenset[Family]()

    async def scene(proxy: Proxy) -> None:
        objects, met = RawObjects(seed), Counter[str]()
        for number in range(1000):
            proxy.take(objects.another())
            if number % 8 == 0:
                proxy.cache.drop(objects.pick(NAMES))
            if number % A_TRANSACTION == A_TRANSACTION - 1:
                rules = await proxy.sync(replace(objects.pick(NODES), wildcard=wildcard))
                for action in (*rules.portals.values(), *rules.node_ports.values(), *rules.off_node.values()):
                    met["proxied" if isinstance(action, int) else type(action).__name__] += 1
                met["affinity"] += sum(one.affinity_timeout_s is not None for one in rules.forwards.values())
                met["health"] += len(proxy.state.health_checks)
                for kind in ("off_node", "loopback", "source_ranges", "hairpins"):
                    met[kind] += len(getattr(rules, kind))
                met["problems"] += len(proxy.state.problems)
        assert min(met.values()) > 5, met
        await proxy.check_replaced()

    play(scene)


def test_a_guard_whose_ranges_cannot_be_read_lets_nobody_in() -> None:
    async def scene(proxy: Proxy) -> None:
        balanced = {"ingress": ["192.0.2.1", "2001:db8::1"], "clusterIPs": ["10.96.0.1", "fd00:96::1"], **LOCAL}
        for ranges in (["10.0.0.0/33"], ["nonsense", "10.0.0.0/8"]):
            proxy.take(wanted(loadBalancerSourceRanges=ranges, **balanced))
            rules = await proxy.sync()
            let_in = {portal.family: sources for portal, sources in rules.source_ranges.items()}
            assert let_in[Family.IPV6] == (ip_network("::/128"),), "no packet has this source"
            assert ip_network("0.0.0.0/32") in let_in[Family.IPV4]
            assert not any(ip_address("203.0.113.7") in one for one in let_in[Family.IPV4])
            assert any(ip_address("10.1.2.3") in one for one in let_in[Family.IPV4]) == (len(ranges) > 1)

    play(scene)


def test_another_form_of_an_address_is_no_way_into_the_node() -> None:
    loopback = ["::ffff:127.0.0.1", "0127.000.000.001", "::ffff:7f00:1"]

    async def scene(proxy: Proxy) -> None:
        made = pods("web", 4, 1)
        made["endpoints"] += [{"addresses": [one]} for one in (*loopback, "169.0254.1.1", "::ffff:0:0")]
        proxy.take(made)
        proxy.take(wanted(externalIPs=[*loopback, "::ffff:192.0.2.1"], clusterIPs=["10.96.0.1", "::1"]))
        rules = await proxy.sync()
        assert {str(portal.address) for portal in rules.portals} == {"10.96.0.1", "192.0.2.1"}
        (forward,) = rules.forwards.values()
        assert [str(one.address) for one in forward.endpoints] == ["10.244.0.1"]
        refused = [str(one) for one in proxy.state.problems]
        assert len([one for one in refused if "is a loopback address" in one and "endpoints" in one]) == len(loopback)

    play(scene)


def wanted(name: str = "web", **spec: Any) -> dict[str, Any]:
    """A Service of port 53/UDP at 10.96.0.1 unless `spec` says otherwise."""
    status = {"loadBalancer": {"ingress": [{"ip": one} for one in spec.pop("ingress", ())]}}
    values = {"clusterIP": "10.96.0.1", "ports": [{"port": 53, "protocol": "UDP"}], **spec}
    annotations = {"kpf.io/forwarding": values.pop("forwarding")} if "forwarding" in values else {}
    metadata = {"name": name, "namespace": values.pop("namespace", "default"), "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": values, "status": status}


def pods(name: str, family: int, count: int, **fields: Any) -> dict[str, Any]:
    """A slice of so many endpoints, of every protocol under the name that it has in `ports`."""
    first = ip_address("10.244.0.1" if family == 4 else "fd00:1111:2222:3333:4444:5555:6666:1")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": f"IPv{family}",
        "metadata": {
            "name": fields.get("slice_name", "slice"),
            "namespace": fields.get("namespace", "default"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": fields.get("ports", [{"port": 65535, "protocol": "UDP"}]),
        "endpoints": [{"addresses": [str(first + number)]} for number in range(count)],
    }


@pytest.mark.parametrize("timeout_s", [None, 86400])
@pytest.mark.parametrize(("family", "address"), [(4, "10.96.0.1"), (6, "fd00:96::1")])
def test_a_service_of_a_thousand_endpoints_has_them_all(family: int, address: str, timeout_s: int | None) -> None:
    """With the longest names that there are, which go into the names of chains."""
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout_s}}}
    long = {"namespace": LONG, "ports": [{"name": "p" * 63, "port": 65535, "protocol": "UDP"}]}
    service = wanted(LONG, clusterIP=address, **long, **(affinity if timeout_s else {}))

    async def scene(proxy: Proxy) -> None:
        proxy.take(service)
        for count, later in ((2, 0), (1000, 0), (999, 3)):
            made = pods(LONG, family, count + later, slice_name="pods", **long)
            del made["endpoints"][:later]
            proxy.take(made)
            try:
                rules = await proxy.sync()
            except TransactionFailedError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                pytest.skip(str(error))
            assert [len(one.endpoints) for one in rules.forwards.values()] == [count]
            assert max(map(len, chains_of(rules))) <= 255
        await proxy.check_replaced()

    play(scene)


BOTH: list[dict[str, Any]] = [
    {"port": 8080, "protocol": "TCP", "name": "a"},
    {"port": 8080, "protocol": "UDP", "name": "b"},
]
NODE_PORTS = [{**one, "port": 80, "nodePort": 30080} for one in BOTH]
LOCAL: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
CHANGES: dict[str, list[dict[str, Any]]] = {
    "family": [{"clusterIP": "10.96.0.1"}, {"clusterIP": "fd00:96::1"}, {"clusterIPs": ["10.96.0.1", "fd00:96::1"]}],
    "protocol": [
        {"type": "NodePort", "ports": ports}
        for ports in (NODE_PORTS[:1], [{**NODE_PORTS[1], "name": "tcp"}], NODE_PORTS)
    ],
    "type": [{}, {"type": "ExternalName", "externalName": "x.example"}, {"clusterIP": "None"}, LOCAL, {}],
    "address": [{"clusterIP": "10.96.0.2"}, {"clusterIP": "10.96.0.3"}],
    "forwarding": [{"forwarding": one, "ports": NODE_PORTS, **LOCAL} for one in FORWARDING],
    "policies": [
        {"internalTrafficPolicy": internal, "externalTrafficPolicy": external, "type": "NodePort", "ports": NODE_PORTS}
        for internal in ("Local", "Cluster")
        for external in ("Local", "Cluster")
    ],
    "affinity": [{"sessionAffinity": "ClientIP"}, {}, {"sessionAffinity": "ClientIP", "forwarding": "direct"}],
    "one address thrice": [
        {**LOCAL, "externalIPs": ["192.0.2.1"] * 2, "ingress": ["192.0.2.1"] * 2, "loadBalancerSourceRanges": ranges}
        for ranges in ([], ["10.0.0.0/8"] * 2, ["10.0.0.0/8", "10.1.2.3/16"], ["0.0.0.0/0"], ["::/0"])
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_service_that_changes_in_one_update(change: str) -> None:
    """While another one claims what it has in part."""
    other = wanted("other", clusterIP="10.96.0.2", type="NodePort", ports=NODE_PORTS, externalIPs=["10.96.0.1"])

    async def scene(proxy: Proxy) -> None:
        for number, family in enumerate((4, 4, 6)):
            proxy.take(pods("web", family, 3, slice_name=f"web-{number}", ports=BOTH))
        proxy.take(pods("other", 4, 3, slice_name="other-0", ports=BOTH))
        states = CHANGES[change]
        for spec in (*states, *reversed(states)):
            proxy.take(wanted(**{"ports": [{**BOTH[0], "port": 80}], **spec}))
            await proxy.sync()
        proxy.take(other)
        for spec in states:
            proxy.take(wanted(**{"ports": [{**BOTH[0], "port": 80}], **spec}))
            await proxy.sync()
        assert not proxy.cache.snapshot().problems, "the API server would take all of them"
        await proxy.check_replaced()

    play(scene)
