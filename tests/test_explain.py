"""What `kpf explain` says of the plan and the rules in force.

That the kernel does what it says: `tests/e2e/test_every_portal.py`.
"""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kpf.explain import finder, frontends
from kpf.explain.answer import MAX_EXPLAINED, MAX_NAMED, UnknownError
from kpf.explain.packet import Origin, Packet, outcome
from kpf.explain.state import AffinityEntry
from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, Forwarding, ObjectName, Protocol
from kpf.model.rules import OwnPods, Rules
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.nft.schema import chains, sets
from kpf.plan.allocation import ProxyPorts
from tests.explain_world import Asked, asked
from tests.values import FACTS, TCP, UDP, WORKERS, at, endpoints, service

NODE, PODS, ELSEWHERE = "node", "pods", "elsewhere"
OTHER, HERE = "node-2", "node-1"
# of a cluster in which it is known which pods are this node's
FACTS_IN_CLUSTER = replace(
    FACTS,
    own_pods=OwnPods((ip_network("10.244.1.0/24"),)),
    service_cidrs=(ip_network("10.96.0.0/16"),),
    worker_uid=WORKERS,
    zone="a",
)
POD = "10.244.1.7"
NO_PORTS = ProxyPorts(range(0), 10, lambda _: True)


def endpoint(address: str, **fields: object) -> Endpoint:
    return Endpoint(ip_address(address), **fields)  # type: ignore[arg-type]


def balanced(**fields: object) -> Service:
    """A Service with every kind of portal."""
    values: dict[str, object] = {
        "type": ServiceType.LOAD_BALANCER,
        "ports": (ServicePort("http", TCP, 80, 30080),),
        "external_ips": ("203.0.113.1",),
        "load_balancer_ips": ("198.51.100.1",),
        **fields,
    }
    return service("web", **values)


def shop(*given: str | Endpoint, **fields: object) -> Asked:
    return asked(FACTS_IN_CLUSTER, balanced(**fields), endpoints(*given, port_name="http"))


def left_out(answer: dict[str, object]) -> dict[str, str]:
    """Of the only frontend."""
    (frontend,) = answer["frontends"].values()  # type: ignore[attr-defined]
    return {one["address"]: one["reason"] for one in frontend["leftOut"]}


def used(answer: dict[str, object]) -> list[str]:
    (frontend,) = answer["frontends"].values()  # type: ignore[attr-defined]
    return [one["address"] for one in frontend["endpoints"]]


def test_a_portal_is_told_with_object_field_and_policy() -> None:
    answer = shop("10.0.0.1", internal_policy=TrafficPolicy.LOCAL).explain("10.96.0.1:80")
    (destination,) = answer["destinations"]
    assert destination["portals"] == [
        {
            "portal": "10.96.0.1:80/TCP",
            "object": "Service default/web",
            "field": "spec.clusterIPs",
            "origin": "web.yaml",
            "port": "http",
            "policy": {"field": "spec.internalTrafficPolicy", "value": "Local"},
            "alsoClaimedBy": [],
        }
    ]


def test_who_is_served_is_told_by_whom() -> None:
    world = shop("10.0.0.1")
    answer = world.explain("10.96.0.1:80")
    (listener,) = [one for one in world.desired.frontends if one.frontend.family == 4]
    row = answer["destinations"][0]["from"][PODS]
    assert (row["verdict"], row["forwarding"], row["rule"]) == ("served", "proxied", "chain redirects, map proxy-ip4")
    assert row["why"] == f"it is sent to 192.168.1.10 port {listener.at.port}, and a worker dials an endpoint"
    assert answer["frontends"][row["frontend"]]["proxyPort"] == f"192.168.1.10:{listener.at.port}"
    assert used(answer) == ["10.0.0.1:8080"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (endpoint("10.0.0.9", ready=False, serving=False), "not ready"),
        (endpoint("10.0.0.9", ready=False, terminating=True), "terminating, and others are ready"),
        (
            endpoint("10.0.0.9", ready=False, serving=False, terminating=True),
            "terminating, and not serving any more",
        ),
        (endpoint("127.0.0.9"), "a loopback address: never dialled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_endpoint_is_left_out_for_a_reason(given: Endpoint, reason: str) -> None:
    answer = shop("10.0.0.1", given).explain("10.96.0.1:80")
    assert left_out(answer) == {f"{given.address}:8080": reason}
    assert used(answer) == ["10.0.0.1:8080"]


def test_those_that_terminate_serve_while_none_is_ready() -> None:
    leaving = endpoint("10.0.0.1", ready=False, terminating=True)
    answer = shop(leaving, endpoint("10.0.0.2", ready=False)).explain("10.96.0.1:80")
    assert (used(answer), left_out(answer)) == (["10.0.0.1:8080"], {"10.0.0.2:8080": "not ready"})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"for_nodes": (HERE,)}, "topology hint: for node node-2"),
        ({"for_zones": ("a",)}, "topology hint: for zone b, and this node is in zone a"),
    ],
    ids=["node", "zone"],
)
def test_a_hint_leaves_others_out(given: dict[str, object], reason: str) -> None:
    other = {"for_nodes": (OTHER,)} if "for_nodes" in given else {"for_zones": ("b",)}
    answer = shop(endpoint("10.0.0.1", **given), endpoint("10.0.0.2", **other)).explain("10.96.0.1:80")
    assert (used(answer), left_out(answer)) == (["10.0.0.1:8080"], {"10.0.0.2:8080": reason})


def test_policy_local_leaves_other_nodes_out() -> None:
    given = endpoint("10.0.0.1", node_name=HERE), endpoint("10.0.0.2", node_name=OTHER), endpoint("10.0.0.3")
    answer = shop(*given, internal_policy=TrafficPolicy.LOCAL).explain("10.96.0.1:80")
    assert used(answer) == ["10.0.0.1:8080"]
    assert left_out(answer) == {
        "10.0.0.2:8080": "on node node-2, and the policy is Local",
        "10.0.0.3:8080": "on a node that its slice does not name, and the policy is Local",
    }


def test_an_endpoint_that_may_not_be_dialled_is_told() -> None:
    facts = replace(FACTS_IN_CLUSTER, worker_uid=None)
    world = asked(facts, balanced(), endpoints("203.0.113.1", "10.0.0.1", port=80, port_name="http"))
    answer = world.explain("10.96.0.1:80")
    assert left_out(answer) == {"203.0.113.1:80": "never dialled: it is itself a portal"}
    assert [problem["object"] for problem in answer["problems"]] == ["EndpointSlice default/web-1"]


def test_a_slice_without_the_port_is_named() -> None:
    world = asked(FACTS_IN_CLUSTER, balanced(), endpoints("10.0.0.1", port_name="htttp"))
    (frontend,) = world.explain("10.96.0.1:80")["frontends"].values()
    assert frontend["slicesWithoutPort"] == ["default/web-1"]


def test_who_is_shut_out_is_left_out_unless_all_are() -> None:
    world = shop("10.0.0.1", "10.0.0.2")
    world.ejected = frozenset({at("10.0.0.2:8080")})
    answer = world.explain("10.96.0.1:80")
    assert used(answer) == ["10.0.0.1:8080"]
    assert left_out(answer) == {"10.0.0.2:8080": "shut out: it has failed, and is passed over for a while"}
    world.ejected |= {at("10.0.0.1:8080")}
    assert used(world.explain("10.96.0.1:80")) == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_what_is_not_in_force_yet_is_told_as_such() -> None:
    world = shop("10.0.0.1", "10.0.0.2")
    world.desired = replace(world.desired, frontends=shop("10.0.0.1").desired.frontends)
    assert left_out(world.explain("10.96.0.1:80")) == {"10.0.0.2:8080": "not in force yet"}


def test_endpoints_of_a_frontend_that_is_not_open_are_left_out() -> None:
    world = shop("10.0.0.1")
    world.is_closed = True
    assert left_out(world.explain("10.96.0.1:80")) == {"10.0.0.1:8080": "its frontend is not served"}


def test_a_frontend_without_a_proxy_port_is_refused_and_told() -> None:
    world = asked(FACTS_IN_CLUSTER, balanced(), endpoints("10.0.0.1", port_name="http"), ports=NO_PORTS)
    answer = world.explain("10.96.0.1:80")
    row = answer["destinations"][0]["from"][NODE]
    assert (row["verdict"], row["why"]) == ("refused", "its frontend could not be served: see the problems")
    assert any("no proxy port is left" in one["message"] for one in answer["problems"])


def test_no_endpoint_is_refused_and_none_here_is_dropped() -> None:
    world = shop()
    assert (world.row("10.96.0.1:80")["verdict"], world.row("10.96.0.1:80")["why"]) == (
        "refused",
        "no endpoint is usable",
    )
    world = shop(endpoint("10.0.0.2", node_name=OTHER), external_policy=TrafficPolicy.LOCAL)
    row = world.row("203.0.113.1:80", ELSEWHERE)
    assert (row["verdict"], row["rule"]) == ("dropped", "chain far-verdicts, map far-verdict-ip4")
    assert row["why"] == "no usable endpoint is on this node, some are elsewhere, and the policy is Local"
    assert world.row("203.0.113.1:80", PODS)["verdict"] == "served"


def test_external_policy_local_is_direct_from_elsewhere_and_proxied_from_here() -> None:
    world = shop(endpoint("10.0.0.1", node_name=HERE), external_policy=TrafficPolicy.LOCAL)
    forwarding = {origin: world.row("203.0.113.1:80", origin)["forwarding"] for origin in (NODE, PODS, ELSEWHERE)}
    assert forwarding == {NODE: "proxied", PODS: "proxied", ELSEWHERE: "direct"}
    assert world.row("203.0.113.1:80", ELSEWHERE)["endpointsSee"] == "the client's address"


def test_pods_are_as_anybody_from_elsewhere_while_they_are_not_known() -> None:
    piece = endpoints(endpoint("10.0.0.1", node_name=HERE), port_name="http")
    world = asked(replace(FACTS_IN_CLUSTER, own_pods=OwnPods()), balanced(external_policy=TrafficPolicy.LOCAL), piece)
    assert world.row("203.0.113.1:80", PODS) == world.row("203.0.113.1:80", ELSEWHERE)
    assert world.explain("203.0.113.1:80")["podsKnown"] == {"IPv4": False}


@pytest.mark.parametrize(
    ("origin", "sees"),
    [(NODE, "this node's address"), (PODS, "the client's address"), (ELSEWHERE, "this node's address")],
)
def test_who_uses_a_direct_cluster_ip_keeps_its_address_if_it_is_a_pod_of_this_node(origin: str, sees: str) -> None:
    world = shop("10.0.0.1", annotations=(("kpf.io/forwarding", str(Forwarding.DIRECT)),))
    assert world.row("10.96.0.1:80", origin)["endpointsSee"] == sees
    assert world.row("203.0.113.1:80", origin)["endpointsSee"] == "this node's address"


def test_source_ranges_are_told_and_a_client_is_judged_by_them() -> None:
    world = shop("10.0.0.1", load_balancer_source_ranges=(ip_network("10.244.0.0/16"), ip_network("172.16.0.0/12")))
    assert world.row("198.51.100.1:80", ELSEWHERE)["onlyFrom"] == ["10.244.0.0/16", "172.16.0.0/12"]
    assert world.row("198.51.100.1:80", PODS)["onlyFrom"] == []
    assert world.row("198.51.100.1:80", NODE)["verdict"] == "dropped"
    outside = world.row("198.51.100.1:80", ELSEWHERE, "192.0.2.1")
    assert (outside["verdict"], outside["why"]) == (
        "dropped",
        "the client's address is in none of spec.loadBalancerSourceRanges",
    )
    assert outside["rule"] == "chain guard/198.51.100.1/tcp/80"
    inside = world.row("198.51.100.1:80", ELSEWHERE, "172.16.0.1")
    assert (inside["verdict"], inside["onlyFrom"]) == ("served", [])


@pytest.mark.parametrize(("client", "origins"), [("192.168.1.10", [NODE]), (POD, [PODS]), ("192.0.2.1", [ELSEWHERE])])
def test_a_client_comes_from_where_its_address_is(client: str, origins: list[str]) -> None:
    answer = shop("10.0.0.1").explain("10.96.0.1:80", client)
    assert list(answer["destinations"][0]["from"]) == origins


def test_a_client_may_be_a_pod_or_not_where_the_interface_tells() -> None:
    facts = replace(FACTS_IN_CLUSTER, own_pods=OwnPods(interface="cali", is_prefix=True))
    answer = asked(facts, balanced()).explain("10.96.0.1:80", POD)
    assert list(answer["destinations"][0]["from"]) == [PODS, ELSEWHERE]


def test_the_affinity_entry_of_a_client_is_told() -> None:
    world = shop("10.0.0.1", "10.0.0.2", affinity_timeout_s=10800)
    assert world.row("10.96.0.1:80", PODS, POD)["affinityEntry"] is None
    world.entries = {POD: AffinityEntry(at("10.0.0.2:8080"), 99.96, is_out=True)}
    row = world.row("10.96.0.1:80", PODS, POD)
    assert (row["affinityEntry"], row["affinityIsKnown"]) == (
        {"endpoint": "10.0.0.2:8080", "secondsLeft": 100.0, "shutOut": False},
        True,
    )
    world.ejected = frozenset({at("10.0.0.2:8080")})
    assert world.row("10.96.0.1:80", PODS, POD)["affinityEntry"]["shutOut"]
    assert "affinityEntry" not in shop("10.0.0.1").row("10.96.0.1:80", PODS, POD)


def test_the_affinity_entries_of_what_is_direct_are_the_kernels() -> None:
    direct = (("kpf.io/forwarding", str(Forwarding.DIRECT)),)
    world = shop("10.0.0.1", affinity_timeout_s=10, annotations=direct)
    row = world.row("10.96.0.1:80", PODS, POD)
    assert (row["affinityEntry"], row["affinityIsKnown"]) == (None, False)
    key = next(key for key in world.desired.rules.forwards if key.family == 4)
    world.in_kernel = {key: None}
    row = world.row("10.96.0.1:80", PODS, POD)
    assert (row["affinityEntry"], row["affinityIsKnown"]) == (None, True)
    world.in_kernel = {key: AffinityEntry(at("10.0.0.1:8080"), 9.0)}
    row = world.row("10.96.0.1:80", PODS, POD)
    assert row["affinityEntry"] == {"endpoint": "10.0.0.1:8080", "secondsLeft": 9.0, "shutOut": False}


def test_what_drains_is_dropped_whatever_the_plan_says() -> None:
    world = shop("10.0.0.1")
    world.rules = world.desired.rules.dropping()
    row = world.row("10.96.0.1:80")
    assert (row["verdict"], row["planned"]) == ("dropped", "served")
    assert row["why"] == "kpf drains, or a change is not in force yet"
    world.rules = None
    assert (world.row("10.96.0.1:80")["verdict"], world.explain("10.96.0.1:80")["rulesKnown"]) == ("served", False)


def test_what_is_no_portal_of_a_cluster_ip_is_refused_and_of_nobody_dropped() -> None:
    world = shop("10.0.0.1")
    answer = world.explain("10.96.0.1:81")
    row = answer["destinations"][0]["from"][NODE]
    assert (row["verdict"], row["rule"]) == ("refused", "chain undefined-ports, set cluster-ips-ip4")
    assert answer["notes"] == ["10.96.0.1 is a ClusterIP of Service default/web"]
    row = world.row("10.96.9.9:80", PODS)
    assert (row["verdict"], row["rule"]) == ("dropped", "chain undefined-ports, set service-cidrs-ip4")


def test_a_proxy_port_and_an_own_address_are_refused() -> None:
    world = shop("10.0.0.1")
    port = next(one.at.port for one in world.desired.frontends)
    (destination,) = world.explain(f"192.168.1.10:{port}")["destinations"]
    assert destination["proxyPortOf"] == "default/web:http/TCP (IPv4), proxied"
    assert destination["from"][ELSEWHERE]["rule"] == "chain guard, set listening-ip4"
    proxy_address = ip_address("169.254.77.1")
    facts = replace(
        FACTS_IN_CLUSTER,
        own_addresses=frozenset({proxy_address}),
        proxy_addresses={Family.IPV4: proxy_address},
    )
    own = asked(facts, balanced(), endpoints("10.0.0.1", port_name="http"))
    assert own.row("169.254.77.1:1")["verdict"] == "refused"
    assert own.row("169.254.77.1", ELSEWHERE)["rule"] == "chain guards"


def test_a_node_port_is_told_once_for_all_addresses_and_for_loopback() -> None:
    for what in (":30080", "default/web:http"):
        answer = shop("10.0.0.1").explain(what)
        told = {one["to"]: one["from"] for one in answer["destinations"] if "30080" in one["to"]}
        assert list(told) == ["node port 30080/TCP (IPv4)", "127.0.0.1:30080/TCP"]
        assert told["node port 30080/TCP (IPv4)"][ELSEWHERE]["verdict"] == "served"
        assert told["127.0.0.1:30080/TCP"][ELSEWHERE]["verdict"] == "not here"
        assert told["127.0.0.1:30080/TCP"][NODE]["verdict"] == "served"


def test_a_node_port_does_not_answer_everywhere() -> None:
    facts = replace(FACTS_IN_CLUSTER, node_port_networks=(ip_network("10.1.0.0/16"),))
    world = asked(facts, balanced(), endpoints("10.0.0.1", port_name="http"))
    row = world.row("192.168.1.10:30080", ELSEWHERE)
    assert row["verdict"] == "not captured"
    assert row["why"].startswith("NodePorts do not answer at this address (nodePortAddresses)")


def test_udp_to_a_loopback_node_port_is_left_alone() -> None:
    piece = replace(endpoints("10.0.0.1"), ports=(EndpointPort("http", UDP, 8080),))
    world = asked(FACTS_IN_CLUSTER, balanced(ports=(ServicePort("http", UDP, 80, 30080),)), piece)
    row = world.row("127.0.0.1:30080/udp")
    assert row["verdict"] == "not captured"
    assert row["why"].startswith("the kernel forwards nothing from a loopback address")
    assert world.row("192.168.1.10:30080/udp")["verdict"] == "served"


def test_an_endpoint_is_told_with_whom_it_serves() -> None:
    answer = shop("10.0.0.1", endpoint("10.0.0.2", ready=False)).explain("10.0.0.2")
    assert answer["endpointOf"] == [
        {
            "endpoint": "10.0.0.2:8080",
            "node": None,
            "frontend": "default/web:http/TCP (IPv4), proxied",
            "leftOut": "not ready",
        }
    ]
    row = shop("10.0.0.1").row("10.0.0.1:8080", ELSEWHERE)
    assert (row["verdict"], row["why"]) == ("not captured", "no portal in force: it goes where it is sent")
    with pytest.raises(UnknownError):
        shop("10.0.0.1").explain("10.0.0.1:8081")


def test_of_an_address_every_port_is_told() -> None:
    answer = shop("10.0.0.1").explain("10.96.0.1")
    assert [one["to"] for one in answer["destinations"]] == ["10.96.0.1:80/TCP", "any other port of 10.96.0.1"]
    answer = shop("10.0.0.1").explain("192.168.1.10")
    assert [one["to"] for one in answer["destinations"]] == ["192.168.1.10:30080/TCP"]


def test_a_portal_that_two_claim_names_both() -> None:
    younger = replace(balanced(cluster_ips=("10.96.0.2",)), name=ObjectName("default", "xyz"))
    world = asked(FACTS_IN_CLUSTER, balanced(), younger)
    for what in ("203.0.113.1:80", "default/xyz"):
        answer = world.explain(what)
        (portal,) = next(one for one in answer["destinations"] if one["address"] == "203.0.113.1")["portals"]
        assert portal["object"] == "Service default/web"
        assert [one["object"] for one in portal["alsoClaimedBy"]] == ["Service default/xyz"]
        assert any("is already claimed by Service default/web" in one["message"] for one in answer["problems"])


def test_an_external_address_that_is_not_served_is_told_why() -> None:
    world = asked(replace(FACTS_IN_CLUSTER, external_ips_allowed=False), balanced())
    assert world.explain("203.0.113.1:80")["notes"] == [
        "Service default/web names port 80/TCP there, which is not served: allowExternalIPs is false"
    ]
    many_of_it = [
        service(f"s{number}", external_ips=("203.0.113.1",), cluster_ips=(f"10.96.1.{number}",))
        for number in range(1, 99)
    ]
    answer = asked(replace(FACTS_IN_CLUSTER, external_ips_allowed=False), *many_of_it).explain("203.0.113.1:80")
    assert len(answer["notes"]) == finder.MAX_NOTES
    world = asked(replace(FACTS_IN_CLUSTER, pod_networks=(ip_network("203.0.113.0/24"),)), balanced())
    answer = world.explain("203.0.113.1")
    assert answer["notes"] == ["Service default/web names port 80/TCP there, which is not served: see the problems"]
    assert [one["field"] for one in answer["problems"]] == ["spec.externalIPs"]


@pytest.mark.parametrize(
    ("what", "client", "message"),
    [
        ("192.0.2.1:80", None, "nothing of kpf's is at 192.0.2.1:80/TCP; kpf explain 192.0.2.1 shows"),
        ("192.0.2.1", None, "nothing of kpf's is at 192.0.2.1"),
        (":30081", None, "nothing of kpf's is at node port 30081/TCP"),
        (":30080/udp", None, "nothing of kpf's is at node port 30080/UDP"),
        ("default/wbe", None, "no Service default/wbe is served"),
        ("default/web:htttp", None, "Service default/web has no port htttp; it has http"),
        ("10.96.0.1:80", "fd00::1", "10.96.0.1:80/TCP is of another IP family than the client"),
    ],
)
def test_what_kpf_does_not_know_is_said(what: str, client: str | None, message: str) -> None:
    with pytest.raises(UnknownError) as raised:
        shop("10.0.0.1").explain(what, client)
    assert str(raised.value).startswith(message)


def many(count: int) -> Asked:
    """Services that have one external address, and node ports."""
    objects: list[Service | EndpointSlice] = []
    for number in range(count):
        name, ports = f"s{number}", (ServicePort("", TCP, 1000 + number, 30000 + number),)
        cluster_ips = (f"10.96.{number // 250}.{number % 250 + 1}",)
        objects += [
            service(name, cluster_ips=cluster_ips, external_ips=("203.0.113.5",), ports=ports),
            endpoints(f"10.0.{number // 250}.{number % 250 + 1}", of=name),
        ]
    return asked(FACTS_IN_CLUSTER, *objects)


@pytest.mark.parametrize("what", ["203.0.113.5", "192.168.1.10"])
def test_an_answer_is_bounded_and_made_in_turns(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = MAX_EXPLAINED + MAX_NAMED + 7
    world = many(count)
    answer, turns = world.turns(what)
    assert len(answer["destinations"]) == MAX_EXPLAINED
    assert (len(answer["alsoThere"]), answer["notShown"]) == (MAX_NAMED, 7)
    assert turns >= MAX_EXPLAINED
    # each has three portals, and one endpoint
    monkeypatch.setattr(finder, "PORTALS_A_TURN", 20)
    _, of_portals = world.turns(what)
    assert of_portals == turns + 3 * count // 20
    monkeypatch.setattr(finder, "ENDPOINTS_A_TURN", 20)
    _, of_both = world.turns(what)
    assert of_both == of_portals + 2 * count // 20


def test_endpoints_are_told_in_turns_and_counted_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "MAX_ENDPOINTS", 50)
    monkeypatch.setattr(frontends, "ENDPOINTS_A_TURN", 10)
    world = shop(*(f"10.0.0.{number}" for number in range(1, 101)))
    answer, turns = world.turns("10.96.0.1:80")
    (frontend,) = answer["frontends"].values()
    assert (frontend["endpointsUsed"], len(frontend["endpoints"])) == (100, 50)
    assert turns >= 10


def test_the_rules_that_are_named_are_in_the_table() -> None:
    """Of every kind of portal, from everywhere, by every verdict."""
    worlds = [
        shop(endpoint("10.0.0.1", node_name=node), external_policy=policy, annotations=annotations)
        for node in (HERE, OTHER)
        for policy in TrafficPolicy
        for annotations in ((), (("kpf.io/forwarding", "direct"),))
    ] + [shop()]
    named = set()
    for world in worlds:
        for destination in ("10.96.0.1", "203.0.113.1", "198.51.100.1", "192.168.1.10", "10.96.9.9"):
            for port in (80, 81, 30080):
                for origin in Origin:
                    packet = Packet(origin, ip_address(destination), Protocol.TCP, port)
                    named.add(outcome(packet, world.desired.rules, FACTS.local_addresses).rule)
    known = {one.name for one in sets()} | {one.name for one in chains(Rules())}
    places = {part.split(" ", 1)[1] for rule in named for part in rule.split(", ") if part}
    own = {place for place in places if place.startswith("to/")}
    assert own
    assert places - own - known == set()
    assert len(places) > 10
