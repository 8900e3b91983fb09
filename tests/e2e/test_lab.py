"""The lab itself: what the other end-to-end tests stand on, without kpf."""

import os
import time
from collections.abc import Generator

import pytest

from kpf.lab.backends import Backends
from kpf.lab.clients import connect, hold, names, steady
from kpf.lab.machine import CallFailedError
from kpf.lab.topology import NODE_POD_LINK_ADDRESSES, POD_NETWORKS, Lab, client_address, pod_address


@pytest.mark.parametrize("family", [4, 6])
def test_a_backend_answers_node_and_pods_with_its_name(lab: Lab, backends: Backends, family: int) -> None:
    address = pod_address(10 + family, family)
    backends.open(address, 8080, name="one")
    assert names(lab.node.call(connect, (address, 8080), 5)) == {"one": 5}
    assert names(lab.pods.call(connect, (address, 8080), 5)) == {"one": 5}
    assert backends.accepted() == {"one": 10}


def test_a_closed_backend_refuses_and_opens_again(lab: Lab, backends: Backends) -> None:
    address = pod_address(20)
    backends.open(address, 8080)
    backends.close(address, 8080)
    assert names(lab.node.call(connect, (address, 8080))) == {"ECONNREFUSED": 1}
    backends.open(address, 8080)
    assert names(lab.node.call(connect, (address, 8080))) == {address: 1}


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_that_is_gone_is_a_black_hole(lab: Lab, backends: Backends, family: int) -> None:
    address = pod_address(30 + family, family)
    backends.open(address, 8080)
    lab.pods.remove_address(address)
    began_s = time.monotonic()
    assert names(lab.node.call(connect, (address, 8080), timeout_s=0.8)) == {"timed out": 1}
    assert time.monotonic() - began_s >= 0.8
    lab.pods.add_addresses([address])
    assert names(lab.node.call(connect, (address, 8080))) == {address: 1}


def test_clients_outside_have_many_addresses(lab: Lab) -> None:
    with Backends(lab.node) as backends:
        backends.open("0.0.0.0", 8080, name="node")
        sources = [client_address(number) for number in range(200)]
        outcomes = lab.outside.call(connect, (NODE_POD_LINK_ADDRESSES[0], 8080), 400, sources=sources, at_once=400)
    assert names(outcomes) == {"node": 400}
    assert sorted(outcome.source for outcome in outcomes) == sorted(sources * 2)


def test_many_open_at_once(lab: Lab, backends: Backends) -> None:
    address = pod_address(40)
    backends.open(address, 8080, name="one")
    with lab.node.converse(hold, (address, 8080), 1000) as held:
        assert names(held.first) == {"one": 1000}
        assert backends.active() == 1000
        assert names(held.send("ping")) == {"still here": 1000}
        assert backends.cut("one") == 1000
        assert set(names(held.send("ping"))) <= {"ECONNRESET", "EPIPE"}


def test_the_other_modes(lab: Lab, backends: Backends) -> None:
    address = pod_address(50)
    backends.open(address, 8001, name="a", mode="answer")
    assert names(lab.node.call(connect, (address, 8001), 3, request=b"x\n")) == {"a": 3}


def test_a_rate_is_kept(lab: Lab, backends: Backends) -> None:
    address = pod_address(60)
    backends.open(address, 8080)
    outcomes = lab.node.call(steady, (address, 8080), 100, 1.0)
    assert names(outcomes) == {address: 100}
    assert outcomes[-1].began_s - outcomes[0].began_s == pytest.approx(0.99, abs=0.2)


def _count_up() -> Generator[int, int, None]:
    total = 0
    while True:
        total += yield total


def test_failures_on_a_machine_are_told(lab: Lab) -> None:
    with pytest.raises(CallFailedError, match="invalid literal"):
        lab.outside.call(int, "x")
    with pytest.raises(CallFailedError, match=r"within 0\.1 s"):
        lab.outside.begin(time.sleep, 5.0).result(timeout_s=0.1)
    with pytest.raises(CallFailedError, match="status 3"):
        lab.outside.call(os._exit, 3)
    with lab.outside.converse(_count_up) as counting:
        assert counting.send(2) == 2
        assert counting.send(3) == 5


def test_nothing_leaves_the_lab(lab: Lab) -> None:
    assert POD_NETWORKS
    assert names(lab.node.call(connect, ("198.51.100.1", 80), timeout_s=0.3)).keys() <= {"timed out", "ENETUNREACH"}
