"""kpf beside others' rules: kube-proxy's, left over or alive, firewalls, port maps. README says what wins.

In each scene the same three Services are dialled at every portal (`three_services`).
"""

from collections.abc import Callable, Sequence

import pytest
from pyroute2 import IPRoute

from kpf.lab.backends import Backends
from kpf.lab.clients import Address, hold, names
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, dial
from kpf.lab.flows import Flows, UnderFlows
from kpf.lab.manifests import endpoint_slice, service
from kpf.lab.topology import NODE_ADDRESSES, NODE_POD_LINK_ADDRESSES, OUTSIDE_ADDRESSES, pod_address
from kpf.uapi.rtnetlink import IFA_F
from tests.e2e.kube_proxy import (
    ServicePort,
    early_kube_proxy,
    kube_proxy,
    kube_proxy_iptables,
)
from tests.e2e.rulesets import (
    FAMILIES,
    FIREWALLD,
    FIREWALLD_RELOADING,
    MASQUERADING,
    Family,
    Ruleset,
    loaded,
    nft,
    port_map,
    strict_firewall,
)
from tests.e2e.three_services import (
    ARGS,
    NODE,
    PODS,
    PORTALS,
    SERVICES,
    balancer_ips_of,
    cluster_ips_of,
    elsewhere,
    external_ips_of,
    of_kind,
    open_pods,
    served,
    serving,
    write,
)
from tests.e2e.world import POD_PORT, World, eventually

OTHER_POD = 3
# nobody has it, and what is sent there vanishes
POD_THAT_IS_GONE = 200
UDP_PORTAL = ("10.96.0.32", 80)
MADE_ANEW = "it is made anew"
# what is dropped takes this long to tell
SILENCE_S = 0.5

Make = Callable[[Family, Sequence[ServicePort]], Ruleset]


@pytest.fixture(scope="module")
def lasting_args() -> tuple[str, ...]:
    return (*ARGS, "--workers", "1")


def _known(pod: int | None = None, *, ranges: bool = False) -> dict[Family, list[ServicePort]]:
    """What kube-proxy knows of the same Services: that pod as their only endpoint, or none."""
    return {
        family: [
            ServicePort(
                name,
                protocol.lower(),
                cluster_ips_of(number)[six],
                node_port,
                endpoint="" if pod is None else _at(pod, six),
                external=[external_ips_of(number)[six]],
                balancer=[balancer_ips_of(number)[six]],
                ranges=("192.0.2.0/24", "2001:db8:9::/48")[six] if ranges else "",
            )
            for name, (protocol, number, node_port) in SERVICES.items()
        ]
        for six, family in enumerate(FAMILIES)
    }


def _at(pod: int, six: int) -> str:
    return f"[{pod_address(pod, 6)}]:{POD_PORT}" if six else f"{pod_address(pod)}:{POD_PORT}"


def _of_kube_proxy(make: Make, known: dict[Family, list[ServicePort]]) -> list[Ruleset]:
    return [make(family, services) for family, services in known.items()]


@pytest.mark.parametrize("pod", [POD_THAT_IS_GONE, None], ids=["whose pods are gone", "without endpoints"])
@pytest.mark.parametrize(
    ("make", "named"),
    [(kube_proxy, "ip kube-proxy filter-output"), (kube_proxy_iptables, "ip nat KUBE-SERVICES")],
    ids=["nftables mode", "iptables mode"],
)
def test_what_kube_proxy_left_keeps_nobody_from_kpf(world: World, make: Make, named: str, pod: int | None) -> None:
    with loaded(*_of_kube_proxy(make, _known(pod))), serving(world) as daemon:
        assert elsewhere(world) == set()
        daemon.wait_for_log(named)
        assert daemon.log().count("kube-proxy --cleanup") == 1


def test_drops_for_source_ranges_are_final(world: World) -> None:
    """kube-proxy's nftables mode has them before anything is rewritten."""
    balancers = of_kind("balancer")
    others = [one for one in PORTALS if one not in balancers]
    with loaded(*_of_kube_proxy(kube_proxy, _known(POD_THAT_IS_GONE, ranges=True))), serving(world) as daemon:
        assert elsewhere(world, others) == set()
        kept_away = elsewhere(world, balancers, timeout_s=SILENCE_S)
        daemon.wait_for_log("source ranges")
    assert len(kept_away) == 3 * len(balancers)
    assert {what for _, _, what in kept_away} == {"timed out", "EPERM"}


def test_an_early_kube_proxy_refuses_the_nodes_own_processes_what_has_no_endpoints_in_its_eyes(world: World) -> None:
    with loaded(*_of_kube_proxy(early_kube_proxy, _known())), serving(world) as daemon:
        refused = elsewhere(world)
        daemon.wait_for_log("this node's own processes")
    # its check of node ports is not asked in output
    addresses = {one.target[0] for one in PORTALS} - set(NODE_ADDRESSES)
    assert refused == {("node", address, "ECONNREFUSED") for address in addresses}


@pytest.mark.parametrize("make", [kube_proxy, kube_proxy_iptables], ids=["nftables mode", "iptables mode"])
def test_what_kpf_does_not_know_is_kube_proxys_and_what_it_knows_is_not(world: World, make: Make) -> None:
    """A Service that has been deleted since, and one without endpoints, which has one in kube-proxy's eyes."""
    open_pods(world, [OTHER_POD])
    write(world, ["proxied", "datagrams"], pods=[])
    known = {address for one in ("proxied", "datagrams") for address in cluster_ips_of(SERVICES[one][1])}
    with loaded(*_of_kube_proxy(make, _known(OTHER_POD))), world.daemon("--hostname-override", NODE, workers=1):
        found = elsewhere(world, of_kind("cluster"))
    origins = ("node", "pods", "outside")
    assert found == {
        *((origin, address, "ECONNREFUSED") for origin in origins for address in known),
        *(
            (origin, address, pod_address(OTHER_POD, family))
            for origin in origins
            for address, family in zip(cluster_ips_of(SERVICES["direct"][1]), (4, 6), strict=True)
        ),
    }


def test_a_live_kube_proxy_keeps_its_connections_and_has_all_again_when_kpf_has_gone(world: World) -> None:
    theirs = pod_address(OTHER_POD)
    open_pods(world, [OTHER_POD])
    tables = _of_kube_proxy(kube_proxy, _known(OTHER_POD))
    tcp: Address = ("10.96.0.30", 80)
    with (
        loaded(*tables),
        UnderFlows(world.lab.outside, Flows(UDP_PORTAL, [5000], 200)) as flows,
        world.lab.outside.converse(hold, tcp, 4) as connections,
    ):
        eventually(lambda: flows.report()[5000].server == theirs)
        assert names(connections.first) == {theirs: 4}
        with serving(world):
            assert elsewhere(world) == set()
            # a flow of UDP has no end to wait for
            eventually(lambda: flows.report()[5000].server in map(pod_address, PODS))
            assert [one.error for one in connections.send("ping")] == [""] * 4
        assert world.answers(tcp) == {theirs: 1}


def test_a_firewalld_may_come_before_kpf_and_after_it_and_reload(world: World) -> None:
    with loaded(FIREWALLD), serving(world) as daemon:
        assert elsewhere(world) == set()
        with loaded(FIREWALLD_RELOADING):
            FIREWALLD.load()
            assert len(elsewhere(world, of_kind("cluster"), timeout_s=0.2)) == 3 * len(of_kind("cluster"))
        assert elsewhere(world) == set()
        assert MADE_ANEW not in daemon.log()
        assert "kube-proxy" not in daemon.log()


def test_a_second_masquerading_of_the_same_mark_changes_nothing(world: World) -> None:
    """That of kube-proxy, or of an older kubelet; also where kpf leaves its mark: over lo."""
    external = [Dial(protocol, (external_ips_of(number)[0], 80)) for protocol, number, _ in SERVICES.values()]
    here = [Dial("TCP", ("10.96.0.40", 80)), Dial("UDP", ("10.96.0.40", 80))]
    for one in here:
        name = one.protocol.lower()
        world.manifests.write(
            f"{name}.yaml",
            service(
                name,
                cluster_ips=["10.96.0.40"],
                annotations={"kpf.io/forwarding": "direct"},
                ports=[{"port": 80, "protocol": one.protocol}],
            ),
            endpoint_slice(name, NODE_ADDRESSES[:1], port=POD_PORT, protocol=one.protocol),
        )
    with Backends(world.lab.node) as own, loaded(MASQUERADING), serving(world):
        own.open(NODE_ADDRESSES[0], POD_PORT, name="own", mode="tell")
        own.open(NODE_ADDRESSES[0], POD_PORT, name="own", mode="datagrams")
        assert elsewhere(world) == set()
        seen = world.lab.outside.call(dial, external, at_once=len(external))
        assert {one.client for one in seen} == {NODE_POD_LINK_ADDRESSES[0]}
        assert names(world.lab.node.call(dial, here, at_once=2)) == {"own": 2}


def test_a_node_port_comes_before_a_host_port_of_the_same_number(world: World) -> None:
    open_pods(world, [OTHER_POD])
    node_ports, host_port = (SERVICES["proxied"][2], SERVICES["direct"][2]), 8081
    with loaded(port_map("ip", dict.fromkeys((*node_ports, host_port), _at(OTHER_POD, 0)))), serving(world):
        assert elsewhere(world, of_kind("node port")) == set()
        (answer,) = world.lab.outside.call(dial, [Dial("TCP", (NODE_ADDRESSES[0], host_port))], at_once=1)
        assert (answer.name, answer.client) == (pod_address(OTHER_POD), OUTSIDE_ADDRESSES[0])


def test_cluster_ips_may_be_addresses_of_this_node(world: World) -> None:
    """As they are in kube-proxy's IPVS mode, at the link kube-ipvs0."""
    addresses = [
        (address, 128 if ":" in address else 32)
        for _, number, _ in SERVICES.values()
        for address in (*cluster_ips_of(number), *external_ips_of(number), *balancer_ips_of(number))
    ]
    with IPRoute() as ip:
        (lo,) = ip.link_lookup(ifname="lo")
        for address, bits in addresses:
            ip.addr("add", index=lo, address=address, prefixlen=bits, flags=IFA_F.NODAD if bits == 128 else 0)
        try:
            with serving(world):
                assert elsewhere(world) == set()
        finally:
            for address, bits in addresses:
                ip.addr("del", index=lo, address=address, prefixlen=bits)


def test_a_strict_firewall_must_let_in_what_is_redirected(world: World) -> None:
    with served(world):
        with loaded(strict_firewall("")):
            kept_out = elsewhere(world, timeout_s=SILENCE_S)
        there = "ip daddr 169.254.77.1 accept\n        ip6 daddr fd77:6b70:66::1 accept"
        for accept in ("ct status dnat accept", "tcp dport 20000-29999 accept", there):
            with loaded(strict_firewall(accept)):
                assert elsewhere(world) == set()
    # what the kernel forwards does not come in
    proxied = {*cluster_ips_of(30), *external_ips_of(30), *balancer_ips_of(30), *NODE_ADDRESSES}
    assert kept_out == {(origin, address, "timed out") for origin in ("pods", "outside") for address in proxied}


def test_after_a_flush_of_everything_all_is_served_again(world: World) -> None:
    with served(world) as daemon:
        _flush(daemon)
        assert elsewhere(world) == set()


def test_flows_that_begin_while_the_table_is_away_are_served_when_it_is_back(world: World) -> None:
    """Their first datagrams leave entries that lead nowhere, if other rules keep conntrack awake."""
    firewall = strict_firewall("ct status dnat accept")
    with (
        loaded(firewall),
        served(world) as daemon,
        UnderFlows(world.lab.outside, Flows(UDP_PORTAL, range(5000, 5300), 400)) as flows,
    ):
        eventually(lambda: sum(one.answered for one in flows.report().values()) > 40)
        _flush(daemon, firewall.text)
        eventually(lambda: all(one.sent > 2 for one in flows.report().values()))
        assert [port for port, one in flows.report().items() if one.answered == 0] == []


def _flush(daemon: Daemon, then: str = "") -> None:
    """Somebody flushes everything in one transaction with his own rules, and kpf has put its own back."""
    nft(f"flush ruleset\n{then}")
    daemon.wait_for_log(MADE_ANEW)
    daemon.wait_for_log(", in full", times=2)
