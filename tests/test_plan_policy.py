"""Which endpoints are usable."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, IPAddress, ObjectName, Protocol
from kpf.plan.policy import Usable, reserved_kind, usable_endpoints
from tests.values import TCP, at, endpoints

STATES = {  # ready, serving, terminating
    "ready": (True, True, False),
    "unready": (False, False, False),
    "serving": (False, True, False),
    "leaving": (False, True, True),
    "gone": (False, False, True),
}
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


def usable(*slices: EndpointSlice, family: Family = Family.IPV4, port_name: str = "") -> Usable:
    return usable_endpoints(slices, port_name, protocol=TCP, family=family, node_name="here")


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
    slices = (endpoints("10.0.0.1", name="a", port=8080), endpoints("10.0.0.1", "10.0.0.2", name="b", port=9090))
    assert [str(one) for one in usable(*slices).cluster] == ["10.0.0.1:8080", "10.0.0.1:9090", "10.0.0.2:9090"]


def test_each_family_sees_its_own_slices() -> None:
    slices = (endpoints("10.0.0.1", name="a"), endpoints("fd00::1", name="b"))
    assert usable(*slices).cluster == (at("10.0.0.1:8080"),)
    assert usable(*slices, family=Family.IPV6).cluster == (at("[fd00::1]:8080"),)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(sorted(STATES)), st.booleans()),
        max_size=8,
    )
)
def test_against_an_obvious_model(given_endpoints: list[tuple[int, str, bool]]) -> None:
    pieces = [
        endpoints(endpoint(f"10.0.0.{number}", state, "here" if here else "there"), name=f"s{index}")
        for index, (number, state, here) in enumerate(given_endpoints)
    ]
    final: dict[int, tuple[str, bool]] = {}
    for number, state, here in given_endpoints:
        if number not in final or state not in ("leaving", "gone"):
            final[number] = (state, here)

    def model(numbers: list[int]) -> list[str]:
        chosen = [n for n in numbers if final[n][0] == "ready"] or [n for n in numbers if final[n][0] == "leaving"]
        return [f"10.0.0.{n}:8080" for n in sorted(chosen)]

    result = usable(*pieces)
    assert [str(one) for one in result.cluster] == model(list(final))
    assert [str(one) for one in result.local] == model([n for n in final if final[n][1]])


@pytest.mark.parametrize("address", INTO_THE_NODE.split())
def test_addresses_that_lead_into_the_node_are_reserved(address: str) -> None:
    assert reserved_kind(ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"])
def test_other_addresses_are_not_reserved(address: str) -> None:
    assert not reserved_kind(ip_address(address))


def test_ready_endpoints_that_may_not_be_dialled_do_not_hide_those_that_still_serve() -> None:
    leaving = Endpoint(ip_address("10.0.0.1"), ready=False, terminating=True)
    found = usable_endpoints(
        [endpoints("127.0.0.1", leaving)], "", protocol=TCP, family=Family.IPV4, node_name="node-1"
    )
    assert found.cluster == (at("10.0.0.1:8080"),)


@given(st.ip_addresses() | st.sampled_from(EDGES.split()).map(ip_address))
def test_reserved_is_what_the_address_says_of_itself(address: IPAddress) -> None:
    mapped = address.version == 6 and address.ipv4_mapped is not None
    alone = address.is_unspecified or str(address) == "255.255.255.255"
    space = address.is_loopback or address.is_link_local or address.is_multicast
    assert bool(reserved_kind(address)) == (mapped or alone or space)
