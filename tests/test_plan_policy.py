"""Which endpoints take new connections and keep their flows, as tables. In general: `test_plan_policy_model`."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol, SocketAddress
from kpf.plan.policy import Usable, flows_kept, local_addresses, reserved_kind, usable_endpoints
from tests.values import TCP, at, endpoints

STATES = {  # ready, serving, terminating
    "ready": (True, True, False),
    "unready": (False, False, False),
    "serving": (False, True, False),
    "leaving": (False, True, True),
    "gone": (False, False, True),
}
# ready, serving, terminating: what it is for new connections, and whether its flows go on
CONDITIONS = {
    (True, True, False): ("ready", True),
    (True, True, True): ("ready", True),
    (True, False, False): ("ready", True),
    (True, False, True): ("ready", True),
    (False, True, False): ("", True),
    (False, True, True): ("leaving", True),
    (False, False, False): ("", False),
    (False, False, True): ("", False),
}
PLACES = {"here": "here", "elsewhere": "there", "nowhere": ""}
NODE_HINTS: dict[str, tuple[str, ...]] = {"none": (), "mine": ("there", "here"), "other": ("there", "near")}
ZONE_HINTS: dict[str, tuple[str, ...]] = {"none": (), "mine": ("far", "near"), "other": ("far", "here")}

# which of two endpoints are chosen
CHOSEN = {
    ("ready", "ready"): (0, 1),
    ("ready", "leaving"): (0,),
    ("ready", ""): (0,),
    ("leaving", "ready"): (1,),
    ("leaving", "leaving"): (0, 1),
    ("leaving", ""): (0,),
    ("", "ready"): (1,),
    ("", "leaving"): (1,),
    ("", ""): (),
}
# which of two ready ones the hints of one kind ask for; any others ask for nothing
HINTED = {("mine", "mine"): (0, 1), ("mine", "other"): (0,), ("other", "mine"): (1,)}

INTO_THE_NODE = (
    "127.0.0.1 127.9.9.9 0.0.0.0 169.254.1.1 224.0.0.1 255.255.255.255 "
    ":: ::1 fe80::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1"
)

# the last before, the first and the last of, and the first after what is reserved
EDGES = (
    "0.0.0.0 0.0.0.1 126.255.255.255 127.0.0.0 127.255.255.255 128.0.0.0 169.253.255.255 169.254.0.0 169.254.255.255 "
    "169.255.0.0 223.255.255.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255 "
    ":: ::1 ::2 ::fffe:ffff:ffff ::ffff:0:0 ::ffff:ffff:ffff ::1:0:0:0 fe7f:ffff:: fe80:: febf:ffff:: fec0:: ff00::"
)

Conditions = tuple[bool | None, bool | None, bool | None]


class Case(NamedTuple):
    """What may be said of an endpoint: ready, serving and terminating (None: nothing), and by name the rest."""

    conditions: Conditions
    place: str
    nodes: str
    zones: str

    @property
    def effective(self) -> tuple[bool, bool, bool]:
        """The conditions with the API's defaults."""
        ready, serving, terminating = self.conditions
        return ready is not False, serving is not False, terminating is True

    def endpoint(self, address: str) -> Endpoint:
        bare = Endpoint(
            ip_address(address),
            node_name=PLACES[self.place],
            for_nodes=NODE_HINTS[self.nodes],
            for_zones=ZONE_HINTS[self.zones],
        )
        named = zip(("ready", "serving", "terminating"), self.conditions, strict=True)
        said: dict[str, Any] = {name: value for name, value in named if value is not None}
        return replace(bare, **said)


def every_case(*values: bool | None) -> list[Case]:
    every_condition = product(values, values, values)
    return [Case(*one) for one in product(every_condition, PLACES, NODE_HINTS, ZONE_HINTS)]


def usable(*slices: EndpointSlice, family: Family = Family.IPV4, port_name: str = "") -> Usable:
    return usable_endpoints(slices, port_name, protocol=TCP, family=family, node_name="here", zone="near")


def kept(*slices: EndpointSlice, node_name: str | None = None) -> frozenset[SocketAddress]:
    return flows_kept(slices, "", protocol=TCP, family=Family.IPV4, node_name=node_name)


def endpoint(address: str, state: str = "ready", node: str = "") -> Endpoint:
    ready, serving, terminating = STATES[state]
    return Endpoint(ip_address(address), ready, serving, terminating, node_name=node)


def test_endpoints_are_ordered_as_numbers() -> None:
    assert usable(endpoints("10.0.0.10", "10.0.0.2")).cluster == (at("10.0.0.2:8080"), at("10.0.0.10:8080"))


def test_slices_are_united_and_duplicates_count_once() -> None:
    both = usable(endpoints("10.0.0.1", "10.0.0.2", name="a"), endpoints("10.0.0.2", "10.0.0.3", name="b"))
    assert [str(one) for one in both.cluster] == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]


@pytest.mark.parametrize(("first", "second"), [("ready", "leaving"), ("leaving", "ready")])
def test_a_terminating_duplicate_never_hides_a_ready_one(first: str, second: str) -> None:
    slices = (endpoints(endpoint("10.0.0.1", first), name="a"), endpoints(endpoint("10.0.0.1", second), name="b"))
    assert usable(*slices).cluster == (at("10.0.0.1:8080"),)
    # and with it as the only one that is ready, a leaving other endpoint stays out
    assert usable(*slices, endpoints(endpoint("10.0.0.2", "leaving"), name="c")).cluster == (at("10.0.0.1:8080"),)


def test_serving_and_terminating_ones_serve_when_none_is_ready() -> None:
    leaving = endpoints(*(endpoint(f"10.0.0.{n}", s) for n, s in enumerate(["unready", "serving", "leaving", "gone"])))
    assert usable(leaving).cluster == (at("10.0.0.2:8080"),)
    assert usable(leaving, endpoints("10.0.0.9", name="b")).cluster == (at("10.0.0.9:8080"),)


def test_the_local_set_is_decided_on_its_own() -> None:
    piece = endpoints(endpoint("10.0.0.1", "leaving", "here"), endpoint("10.0.0.2", "ready", "there"))
    assert usable(piece) == Usable(cluster=(at("10.0.0.2:8080"),), local=(at("10.0.0.1:8080"),))


def test_ports_match_by_name_and_protocol_and_need_a_number() -> None:
    assert usable(endpoints("10.0.0.1", port_name="http")).cluster == ()
    assert usable(endpoints("10.0.0.1", port_name="http"), port_name="http").cluster == (at("10.0.0.1:8080"),)
    assert usable(endpoints("10.0.0.1", port=None)).cluster == ()
    udp = EndpointSlice(
        ObjectName("default", "u"),
        ObjectName("default", "web"),
        Family.IPV4,
        (EndpointPort("", Protocol.UDP, 8080),),
        (endpoint("10.0.0.1"),),
    )
    assert usable(udp).cluster == ()


def test_a_named_target_port_may_differ_between_slices() -> None:
    slices = (endpoints("10.0.0.1", "10.0.0.2", name="a", port=9090), endpoints("10.0.0.1", name="b", port=8080))
    assert [str(one) for one in usable(*slices).cluster] == ["10.0.0.1:8080", "10.0.0.1:9090", "10.0.0.2:9090"]


def test_each_family_sees_its_own_slices() -> None:
    slices = (endpoints("10.0.0.1", name="a"), endpoints("fd00::1", name="b"))
    assert usable(*slices).cluster == (at("10.0.0.1:8080"),)
    assert usable(*slices, family=Family.IPV6).cluster == (at("[fd00::1]:8080"),)


def test_every_state_of_one_endpoint() -> None:
    one = at("10.0.0.1:8080")
    for case in every_case(True, False, None):
        piece = endpoints(case.endpoint("10.0.0.1"))
        good_for, flows_go_on = CONDITIONS[case.effective]
        found = Usable(*((one,) if good_for and there else () for there in (True, case.place == "here")))
        assert usable(piece) == found, case
        assert kept(piece) == ({one} if flows_go_on else set()), case
        assert kept(piece, node_name="here") == ({one} if flows_go_on and case.place == "here" else set()), case
        expected = {one.address} if case.place != "elsewhere" else set()
        assert local_addresses([piece], Family.IPV4, "here") == expected, case


def test_every_pair_of_endpoints() -> None:
    both = at("10.0.0.1:8080"), at("10.0.0.2:8080")
    cases = every_case(True, False)
    seconds = [case.endpoint("10.0.0.2") for case in cases]
    for a in cases:
        one = a.endpoint("10.0.0.1")
        for b, other in zip(cases, seconds, strict=True):
            states = CONDITIONS[a.effective][0], CONDITIONS[b.effective][0]
            cluster = CHOSEN[states]
            if states == ("ready", "ready"):
                cluster = HINTED.get((a.nodes, b.nodes)) or HINTED.get((a.zones, b.zones)) or cluster
            local = CHOSEN[states[0] if a.place == "here" else "", states[1] if b.place == "here" else ""]
            expected = Usable(tuple(both[n] for n in cluster), tuple(both[n] for n in local))
            assert usable(endpoints(one, other)) == expected, (a, b)


def test_an_endpoint_that_may_not_be_dialled_has_no_say_in_hints() -> None:
    near = Endpoint(ip_address("10.0.0.1"), for_zones=("near",))
    far = Endpoint(ip_address("10.0.0.2"), for_zones=("far",))
    assert usable(endpoints(near, far, "127.0.0.1")).cluster == (at("10.0.0.1:8080"),)
    assert usable(endpoints(near, far, "10.0.0.3")).cluster == tuple(at(f"10.0.0.{n}:8080") for n in (1, 2, 3))


def test_flows_to_an_endpoint_that_may_not_be_dialled_end() -> None:
    assert kept(endpoints("127.0.0.1", "10.0.0.1")) == {at("10.0.0.1:8080")}


def test_flows_end_with_the_port_they_went_to() -> None:
    assert kept(endpoints("10.0.0.1", port=9090)) == {at("10.0.0.1:9090")}
    assert kept(endpoints("10.0.0.1", port_name="http")) == set()


def test_addresses_on_this_node_are_of_one_family_and_of_every_port() -> None:
    slices = [endpoints("10.0.0.1", "127.0.0.1", port_name="http"), endpoints("fd00::1", "fe80::1", port=None)]
    assert local_addresses(slices, Family.IPV4, "here") == {ip_address("10.0.0.1")}
    assert local_addresses(slices, Family.IPV6, "here") == {ip_address("fd00::1")}


@pytest.mark.parametrize("address", INTO_THE_NODE.split())
def test_addresses_that_lead_into_the_node_are_reserved(address: str) -> None:
    assert reserved_kind(ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"])
def test_other_addresses_are_not_reserved(address: str) -> None:
    assert not reserved_kind(ip_address(address))


def test_ready_endpoints_that_may_not_be_dialled_do_not_hide_those_that_still_serve() -> None:
    leaving = Endpoint(ip_address("10.0.0.1"), ready=False, terminating=True)
    found = usable_endpoints(
        [endpoints("127.0.0.1", leaving)], "", protocol=TCP, family=Family.IPV4, node_name="node-1", zone=""
    )
    assert found.cluster == (at("10.0.0.1:8080"),)


@given(st.ip_addresses() | st.sampled_from(EDGES.split()).map(ip_address))
def test_reserved_is_what_the_address_says_of_itself(address: IPAddress) -> None:
    mapped = address.version == 6 and address.ipv4_mapped is not None
    alone = address.is_unspecified or str(address) == "255.255.255.255"
    space = address.is_loopback or address.is_link_local or address.is_multicast
    assert bool(reserved_kind(address)) == (mapped or alone or space)
