"""Where each portal of a Service leads, for every kind of portal, policy, protocol and forwarding that is asked for."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, ObjectName, Protocol, ServicePortName
from kpf.model.rules import Masquerade, NodePort, Portal
from kpf.model.service import Service, ServicePort, ServiceType, TrafficPolicy
from kpf.plan.routes import FORWARDING, PortalClaim, Routes, asked_forwarding, effective_source_ranges, portals
from kpf.plan.service_plan import plan_service
from tests.values import FACTS, TCP, UDP, service

# "*": whatever it is. `to`, `far` and `loopback`: by whom it is forwarded, to which endpoints
TABLE = """
portal        policy   protocol  asked    to               far             loopback         masquerade
clusterIP     Cluster  TCP       auto     proxied/cluster  -               -                foreign
clusterIP     Cluster  TCP       proxied  proxied/cluster  -               -                foreign
clusterIP     Cluster  TCP       direct   direct/cluster   -               -                foreign
clusterIP     Cluster  UDP       *        direct/cluster   -               -                foreign
clusterIP     Cluster  SCTP      *        direct/cluster   -               -                foreign
clusterIP     Local    TCP       auto     proxied/local    -               -                foreign
clusterIP     Local    TCP       proxied  proxied/local    -               -                foreign
clusterIP     Local    TCP       direct   direct/local     -               -                foreign
clusterIP     Local    UDP       *        direct/local     -               -                foreign
clusterIP     Local    SCTP      *        direct/local     -               -                foreign
externalIP    Cluster  TCP       auto     proxied/cluster  -               -                always
externalIP    Cluster  TCP       proxied  proxied/cluster  -               -                always
externalIP    Cluster  TCP       direct   direct/cluster   -               -                always
externalIP    Cluster  UDP       *        direct/cluster   -               -                always
externalIP    Cluster  SCTP      *        direct/cluster   -               -                always
externalIP    Local    TCP       auto     proxied/cluster  direct/local    -                foreign
externalIP    Local    TCP       proxied  proxied/cluster  proxied/local   -                foreign
externalIP    Local    TCP       direct   direct/cluster   direct/local    -                foreign
externalIP    Local    UDP       *        direct/cluster   direct/local    -                foreign
externalIP    Local    SCTP      *        direct/cluster   direct/local    -                foreign
loadBalancer  Cluster  TCP       auto     proxied/cluster  -               -                always
loadBalancer  Cluster  TCP       proxied  proxied/cluster  -               -                always
loadBalancer  Cluster  TCP       direct   direct/cluster   -               -                always
loadBalancer  Cluster  UDP       *        direct/cluster   -               -                always
loadBalancer  Cluster  SCTP      *        direct/cluster   -               -                always
loadBalancer  Local    TCP       auto     proxied/cluster  direct/local    -                foreign
loadBalancer  Local    TCP       proxied  proxied/cluster  proxied/local   -                foreign
loadBalancer  Local    TCP       direct   direct/cluster   direct/local    -                foreign
loadBalancer  Local    UDP       *        direct/cluster   direct/local    -                foreign
loadBalancer  Local    SCTP      *        direct/cluster   direct/local    -                foreign
nodePort      Cluster  TCP       auto     proxied/cluster  -               -                always
nodePort      Cluster  TCP       proxied  proxied/cluster  -               -                always
nodePort      Cluster  TCP       direct   direct/cluster   -               proxied/cluster  always
nodePort      Cluster  UDP       *        direct/cluster   -               -                always
nodePort      Cluster  SCTP      *        direct/cluster   -               -                always
nodePort      Local    TCP       auto     proxied/cluster  direct/local    -                foreign
nodePort      Local    TCP       proxied  proxied/cluster  proxied/local   -                foreign
nodePort      Local    TCP       direct   direct/cluster   direct/local    proxied/cluster  foreign
nodePort      Local    UDP       *        direct/cluster   direct/local    -                foreign
nodePort      Local    SCTP      *        direct/cluster   direct/local    -                foreign
"""
ASKED = {"auto": None, "proxied": Forwarding.PROXIED, "direct": Forwarding.DIRECT}
FIELDS = {
    "clusterIP": "spec.clusterIPs",
    "externalIP": "spec.externalIPs",
    "loadBalancer": "status.loadBalancer.ingress",
    "nodePort": "spec.ports[0].nodePort",
}
ADDRESSES = {
    Family.IPV4: {"clusterIP": "10.96.0.1", "externalIP": "192.0.2.1", "loadBalancer": "192.0.2.2"},
    Family.IPV6: {"clusterIP": "fd00:96::1", "externalIP": "2001:db8::1", "loadBalancer": "2001:db8::2"},
}
OTHER = {TrafficPolicy.LOCAL: TrafficPolicy.CLUSTER, TrafficPolicy.CLUSTER: TrafficPolicy.LOCAL}


def cases() -> dict[tuple[str, str, str, str], list[str]]:
    found = {}
    for line in TABLE.split("\n")[2:-1]:
        kind, policy, protocol, asked, *leads = line.split()
        for one in ASKED if asked == "*" else (asked,):
            found[kind, policy, protocol, one] = leads
    return found


CASES = cases()


def test_the_table_has_every_case() -> None:
    assert CASES.keys() == set(product(FIELDS, TrafficPolicy, Protocol, ASKED))


def everywhere(protocol: Protocol = TCP, **fields: object) -> Service:
    """A Service with every kind of portal, in both families."""
    kinds = {"cluster_ips": "clusterIP", "external_ips": "externalIP", "load_balancer_ips": "loadBalancer"}
    addresses = {field: [ADDRESSES[family][kind] for family in Family] for field, kind in kinds.items()}
    ports = (ServicePort("a", protocol, 80, node_port=30080),)
    return service(**{"type": ServiceType.LOAD_BALANCER, "ports": ports, **addresses, **fields})


def routes(protocol: Protocol, family: Family, forwarding: Forwarding | None = None) -> Routes:
    return Routes(ServicePortName("default", "web", "a", protocol), family, forwarding)


def planned(made: Service, routes: Routes, *, allowed: bool = True) -> dict[Portal | NodePort, PortalClaim]:
    found = list(portals(made, made.ports[0], 0, routes, external_ips_allowed=allowed))
    assert len({claim.portal for claim in found}) == len(found), "one portal is claimed twice"
    return {claim.portal: claim for claim in found}


def place(kind: str, protocol: Protocol, family: Family) -> Portal | NodePort:
    if kind == "nodePort":
        return NodePort(family, protocol, 30080)
    return Portal(ip_address(ADDRESSES[family][kind]), protocol, 80)


def lead(key: FrontendKey | None) -> str:
    return "-" if key is None else f"{key.forwarding}/{key.endpoint_set}"


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_where_a_portal_leads(case: tuple[str, str, str, str], family: Family) -> None:
    kind, protocol, policy = case[0], Protocol(case[2]), TrafficPolicy(case[1])
    # the policy that is not the portal's says the opposite
    internal, external = (policy, OTHER[policy]) if kind == "clusterIP" else (OTHER[policy], policy)
    made = everywhere(protocol, internal_policy=internal, external_policy=external)
    way = routes(protocol, family, ASKED[case[3]])
    plans = planned(made, way)
    assert len(plans) == 4
    plan = plans[place(kind, protocol, family)]
    assert [lead(plan.frontend), lead(plan.off_node), lead(plan.loopback), plan.masquerade] == CASES[case]
    assert (plan.field, plan.sources) == (FIELDS[kind], ())
    assert all((key.port, key.family) == (way.name, family) for key in plan.frontends)


RANGES = tuple(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::/8")))


@pytest.mark.parametrize("protocol", Protocol)
def test_source_ranges_guard_the_addresses_of_the_load_balancer_of_their_family(protocol: Protocol) -> None:
    made = everywhere(protocol, load_balancer_source_ranges=RANGES)
    for family, sources in ((Family.IPV4, RANGES[:3]), (Family.IPV6, RANGES[3:])):
        guarded = {
            place: plan.sources for place, plan in planned(made, routes(protocol, family)).items() if plan.sources
        }
        assert guarded == {place("loadBalancer", protocol, family): sources}


@pytest.mark.parametrize(
    ("ranges", "family", "sources"),
    [
        ([], Family.IPV4, []),
        (["10.0.0.0/8"], Family.IPV4, ["10.0.0.0/8"]),
        (["10.0.0.0/8"], Family.IPV6, []),
        (["10.0.0.0/8", "0.0.0.0/0"], Family.IPV4, []),
        (["10.0.0.0/8", "::/0"], Family.IPV4, ["10.0.0.0/8"]),
        (["0.0.0.0/1", "128.0.0.0/1"], Family.IPV4, ["0.0.0.0/1", "128.0.0.0/1"]),
    ],
)
def test_who_alone_may_come(ranges: list[str], family: Family, sources: list[str]) -> None:
    assert effective_source_ranges(map(ip_network, ranges), family) == tuple(map(ip_network, sources))


def test_an_address_that_the_load_balancer_has_too_is_guarded_and_claimed_once() -> None:
    both = ("192.0.2.2", "192.0.2.2", "192.0.2.1")
    made = everywhere(external_ips=both, load_balancer_ips=both[:2], load_balancer_source_ranges=RANGES)
    plans = planned(made, routes(TCP, Family.IPV4))
    shared, external = (plans[Portal(ip_address(one), TCP, 80)] for one in ("192.0.2.2", "192.0.2.1"))
    assert (shared.field, shared.sources) == (FIELDS["loadBalancer"], RANGES[:3])
    assert (external.field, external.sources) == (FIELDS["externalIP"], ())


def test_external_ips_may_be_switched_off() -> None:
    plans = planned(everywhere(), routes(TCP, Family.IPV4), allowed=False)
    assert place("externalIP", TCP, Family.IPV4) not in plans
    assert len(plans) == 3


def test_a_port_without_a_node_port_has_none() -> None:
    plans = planned(everywhere(ports=(ServicePort("a", UDP, 80),)), routes(UDP, Family.IPV6))
    assert [type(one) for one in plans] == [Portal] * 3


def annotated(value: str) -> Service:
    return everywhere(annotations=((FORWARDING, value), ("kpf.io/other", "direct")))


def test_what_a_service_may_ask_for() -> None:
    assert asked_forwarding(everywhere(annotations=(("kpf.io/other", "direct"),))) is None
    assert asked_forwarding(annotated("direct")) is Forwarding.DIRECT
    assert asked_forwarding(annotated("proxied")) is Forwarding.PROXIED


@pytest.mark.parametrize("value", ["", "auto", "Direct", "direct ", "nonsense"])
@pytest.mark.parametrize("default", [None, *Forwarding])
def test_nonsense_is_said_and_is_as_if_it_was_not_there(value: str, default: Forwarding | None) -> None:
    with pytest.raises(ValueError, match="is not a valid Forwarding"):
        asked_forwarding(annotated(value))
    facts = replace(FACTS, forwarding=default)
    plan, plain = plan_service(annotated(value), (), facts), plan_service(everywhere(), (), facts)
    assert plan.claims.portals == plain.claims.portals
    (problem,) = plan.problems
    assert problem.field == f"metadata.annotations[{FORWARDING}]"
    assert not plain.problems


@pytest.mark.parametrize(("asked", "default"), list(product(Forwarding, [None, *Forwarding])))
def test_what_the_service_asks_for_goes_before_the_configuration(asked: Forwarding, default: Forwarding | None) -> None:
    plan = plan_service(annotated(asked), (), replace(FACTS, forwarding=default))
    portal = next(claim for claim in plan.claims.portals if claim.field == FIELDS["clusterIP"])
    assert portal.frontend == FrontendKey(
        ServicePortName(*ObjectName("default", "web"), "a", TCP), Family.IPV4, EndpointSet.CLUSTER, asked
    )
    assert portal.masquerade is Masquerade.FOREIGN
