"""The choice of endpoints against a slow model, which says in other words what a Service means."""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import product
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, ObjectName, Protocol, SocketAddress
from kpf.plan.policy import flows_kept, local_addresses, usable_endpoints

HERE, ZONE = "node-1", "zone-a"
RESERVED = {"127.0.0.1", "169.254.0.7", "::1", "fe80::7"}
ADDRESSES = {
    Family.IPV4: ("10.0.0.2", "10.0.0.10", "9.0.0.1", "127.0.0.1", "169.254.0.7"),
    Family.IPV6: ("fd00::2", "fd00::10", "2001:db8::1", "::1", "fe80::7"),
}


class Asked(NamedTuple):
    """The ServicePort and the family that a question concerns."""

    port_name: str
    protocol: Protocol
    family: Family


class Found(NamedTuple):
    """An endpoint at one of its ports."""

    at: SocketAddress
    said: Endpoint


NAMES, PROTOCOLS = ("", "http"), (Protocol.TCP, Protocol.UDP)
PORTS = st.builds(
    EndpointPort,
    name=st.sampled_from(NAMES),
    protocol=st.sampled_from(PROTOCOLS),
    port=st.sampled_from([8080, 9090, 80, None]),
)
ZONES = st.sampled_from([ZONE, ZONE, "zone-c", ""])
QUESTIONS = [Asked(*one) for one in product(NAMES, PROTOCOLS, Family)]


def _hints(own: str, other: str) -> st.SearchStrategy[st.SearchStrategy[tuple[str, ...]]]:
    """How the endpoints of one example are hinted: all, some or none of them."""
    hinted = st.sampled_from([(own,), (other,), (other, own)])
    return st.sampled_from([hinted, st.just(()) | hinted, st.just(())])


@st.composite
def slices_of_a_service(draw: st.DrawFn) -> list[EndpointSlice]:
    """Up to four slices with few addresses and ports, so that duplicates are many."""
    for_nodes, for_zones = draw(_hints(HERE, "node-2")), draw(_hints(ZONE, "zone-b"))
    ready = draw(st.sampled_from([st.just(True), st.sampled_from([True, True, False]), st.just(False)]))
    pieces = []
    for number in range(draw(st.integers(1, 4))):
        family = draw(st.sampled_from(Family))
        endpoint = st.builds(
            Endpoint,
            address=st.sampled_from(ADDRESSES[family]).map(ip_address),
            ready=ready,
            serving=st.booleans(),
            terminating=st.booleans(),
            node_name=st.sampled_from([HERE, "node-2", ""]),
            for_zones=for_zones,
            for_nodes=for_nodes,
        )
        pieces.append(
            EndpointSlice(
                name=ObjectName("default", f"web-{number}"),
                service=ObjectName("default", "web"),
                family=family,
                ports=tuple(draw(st.lists(PORTS, min_size=1, max_size=3))),
                endpoints=tuple(draw(st.lists(endpoint, min_size=2, max_size=6))),
            )
        )
    return pieces


def said_of(slices: Sequence[EndpointSlice], asked: Asked) -> list[Found]:
    """All that the slices say of the endpoints of a port, one after the other, duplicates included."""
    return [
        Found(SocketAddress(endpoint.address, port.port), endpoint)
        for piece in slices
        for port in piece.ports
        for endpoint in piece.endpoints
        if (port.name, port.protocol, piece.family) == (asked.port_name, asked.protocol, asked.family)
        if port.port is not None and str(endpoint.address) not in RESERVED
    ]


def endpoints_of(slices: Sequence[EndpointSlice], asked: Asked) -> list[Found]:
    """One for each address and port: what was said last of one that does not terminate, else what was said first."""
    said = said_of(slices, asked)
    united = []
    for at in sorted({one.at for one in said}, key=lambda at: (at.address.packed, at.port)):
        versions = [one for one in said if one.at == at]
        lasting = [one for one in versions if not one.said.terminating]
        united.append(lasting[-1] if lasting else versions[0])
    return united


def usable_of(endpoints: list[Found]) -> list[Found]:
    ready = [one for one in endpoints if one.said.ready]
    return ready or [one for one in endpoints if one.said.serving and one.said.terminating]


def close(endpoints: list[Found], zone: str) -> list[Found]:
    """Those that hints name for this node or zone; all, if hints are of no use."""
    kinds: list[tuple[Callable[[Endpoint], tuple[str, ...]], str]] = [
        (lambda endpoint: endpoint.for_nodes, HERE),
        (lambda endpoint: endpoint.for_zones, zone),
    ]
    ready = [one.said for one in endpoints if one.said.ready]
    for hints_of, own in kinds:
        every_one_hinted = ready and not any(hints_of(endpoint) == () for endpoint in ready)
        one_names_own = any(own in hints_of(endpoint) for endpoint in ready)
        if every_one_hinted and one_names_own:
            return [one for one in endpoints if one.said.ready and own in hints_of(one.said)]
    return usable_of(endpoints)


@settings(max_examples=300)
@given(slices_of_a_service(), ZONES)
def test_usable_endpoints_are_as_in_the_model(slices: list[EndpointSlice], zone: str) -> None:
    for asked in QUESTIONS:
        found = usable_endpoints(
            slices, asked.port_name, protocol=asked.protocol, family=asked.family, node_name=HERE, zone=zone
        )
        known = endpoints_of(slices, asked)
        assert list(found.cluster) == [one.at for one in close(known, zone)]
        assert list(found.local) == [one.at for one in usable_of([one for one in known if one.said.node_name == HERE])]
        # that there is none here but some elsewhere can always be told
        assert found.cluster or not found.local


@given(slices_of_a_service(), ZONES)
def test_flows_are_kept_as_in_the_model(slices: list[EndpointSlice], zone: str) -> None:
    for asked in QUESTIONS:
        port_name, protocol, family = asked
        kept = flows_kept(slices, port_name, protocol=protocol, family=family, node_name=None)
        kept_here = flows_kept(slices, port_name, protocol=protocol, family=family, node_name=HERE)
        known = [one for one in endpoints_of(slices, asked) if one.said.serving or one.said.ready]
        assert kept == {one.at for one in known}
        assert kept_here == {one.at for one in known if one.said.node_name == HERE}
        # a new flow is never begun where it would be ended at once
        usable = usable_endpoints(slices, port_name, protocol=protocol, family=family, node_name=HERE, zone=zone)
        assert kept.issuperset(usable.cluster)
        assert kept_here.issuperset(usable.local)


@given(slices_of_a_service(), st.sampled_from(Family))
def test_local_addresses_are_as_in_the_model(slices: list[EndpointSlice], family: Family) -> None:
    every = [endpoint for piece in slices if piece.family == family for endpoint in piece.endpoints]
    maybe_here = {str(endpoint.address) for endpoint in every if endpoint.node_name in (HERE, "")}
    assert set(map(str, local_addresses(slices, family, HERE))) == maybe_here - RESERVED
