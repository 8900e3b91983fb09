"""The lab itself: what the other end-to-end tests stand on, without kpf."""

import os
import socket
import time
from collections.abc import Generator
from contextlib import suppress
from http.client import HTTPConnection

import pytest

from kpf.lab import udp
from kpf.lab.backends import Backends
from kpf.lab.clients import connect, failures, hold, names, steady
from kpf.lab.datagrams import Dial, Protocol, dial
from kpf.lab.flows import Flows, UnderFlows
from kpf.lab.listening import queues
from kpf.lab.load import Load, UnderLoad
from kpf.lab.machine import CallFailedError
from kpf.lab.topology import (
    NODE_ADDRESSES,
    NODE_POD_LINK_ADDRESSES,
    POD_NETWORKS,
    Lab,
    client_address,
    pod_address,
)
from tests.e2e.world import eventually

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")


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


def test_cleared_backends_are_as_they_began(lab: Lab, backends: Backends) -> None:
    address = pod_address(1)
    for name in ("one", "two"):
        backends.open(address, 8080, name=name)
        backends.open(address, 8080, name=name, mode="datagrams")
        with lab.node.converse(hold, (address, 8080), 10) as held:
            assert names(held.first) == {name: 10}
            backends.clear()
            assert backends.active() == 0
            assert {one.error for one in held.send("ping")} == {"ECONNRESET"}
        assert backends.accepted() == {}
    assert names(lab.node.call(connect, (address, 8080))) == {"ECONNREFUSED": 1}


def test_http_is_spoken(lab: Lab, backends: Backends) -> None:
    address = pod_address(51)
    backends.open(address, 8080, name="web", mode="http")
    assert lab.node.call(_fetch_twice, address) == [(200, b"web\n"), (200, b"web\n")]


def _fetch_twice(address: str) -> list[tuple[int, bytes]]:
    connection = HTTPConnection(address, 8080, timeout=5)
    answers = []
    for path in ("/", "/?" + "long" * 500):
        connection.request("GET", path)
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    return answers


def test_a_rate_is_kept(lab: Lab, backends: Backends) -> None:
    address = pod_address(60)
    backends.open(address, 8080)
    outcomes = lab.node.call(steady, (address, 8080), 100, 1.0)
    assert names(outcomes) == {address: 100}
    assert outcomes[-1].began_s - outcomes[0].began_s == pytest.approx(0.99, abs=0.2)


def test_a_load_goes_on_until_it_is_told_to_stop(lab: Lab, backends: Backends) -> None:
    address = pod_address(52)
    backends.open(address, 8080, name="one")
    with UnderLoad(lab.node, Load((address, 8080), new_per_s=200, kept=5, asks_per_s=100)) as load:
        began_s = time.monotonic()
        assert backends.active() >= 5
        time.sleep(0.3)
        with load.still():
            from_s = time.monotonic()
            time.sleep(0.2)
            until_s = time.monotonic()
        time.sleep(0.3)
        ended_s = time.monotonic()
        report = load.stop()
    went_on_s = from_s - began_s + ended_s - until_s
    assert report.kept == {"one": 5}
    assert names(report.new).keys() == {"one"}
    assert names(report.asked).keys() == {"still here"}
    assert len(report.new) == pytest.approx(200 * went_on_s, rel=0.3)
    assert len(report.asked) == pytest.approx(100 * went_on_s + 5, rel=0.3)
    assert not [one for one in (*report.new, *report.asked) if from_s < one.began_s < until_s]


def test_a_load_tells_what_failed(lab: Lab, backends: Backends) -> None:
    address, other = pod_address(53), pod_address(54)
    backends.open(address, 8080, name="one")
    backends.open(other, 8080, name="two")
    with UnderLoad(lab.node, Load((address, 8080), new_per_s=200, kept=5, asks_per_s=100, kept_at=["one"])) as load:
        backends.close(address, 8080)
        assert backends.cut("one") >= 5
        # some twenty more, who are refused
        time.sleep(0.1)
        report = load.stop()
    assert len(failures(report.asked)) == 5
    assert "ECONNREFUSED" in names(report.new)
    with UnderLoad(lab.node, Load((other, 8080), new_per_s=200, kept=5, asks_per_s=100, kept_at=["one"])) as load:
        assert load.stop().kept == {}


@pytest.mark.parametrize("family", [4, 6])
def test_servers_tell_whom_they_see(lab: Lab, backends: Backends, family: int) -> None:
    address, client = pod_address(42, family), client_address(3, family)
    with Backends(lab.node) as on_the_node:
        node = NODE_ADDRESSES[family == 6]
        for servers, at in ((backends, address), (on_the_node, node)):
            servers.open(at, 8080, name="one", mode="tell")
            servers.open(at, 8080, name="two", mode="datagrams")
        dials = [Dial(protocol, (at, 8080), client) for at in (node, address) for protocol in PROTOCOLS]
        outcomes = lab.outside.call(dial, dials, at_once=10)
    assert [(one.name, one.client, one.error) for one in outcomes] == [("one", client, ""), ("two", client, "")] * 2
    assert backends.accepted() == {"one": 1, "two": 1}


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_is_refused_or_never_answered(lab: Lab, backends: Backends, family: int) -> None:
    address, gone = pod_address(43, family), pod_address(44, family)
    backends.open(address, 8080, mode="datagrams")
    backends.close(address, 8080, mode="datagrams")
    lab.pods.remove_address(gone)
    dials = [Dial("UDP", (address, 8080)), Dial("UDP", (gone, 8080)), Dial("UDP", (address, 8081))]
    outcomes = lab.node.call(dial, dials, at_once=2, timeout_s=0.4)
    assert [one.error for one in outcomes] == ["ECONNREFUSED", "timed out", "ECONNREFUSED"]
    lab.pods.add_addresses([gone])


def test_flows_tell_who_answered_and_what_was_lost(lab: Lab, backends: Backends) -> None:
    target = (pod_address(45), 8080)
    backends.open(*target, name="one", mode="datagrams")
    with UnderFlows(lab.outside, Flows(target, range(5000, 5010), 500)) as flows:
        # at a moment at which none is under way, all have been answered
        eventually(lambda: all(flow.sent == flow.answered > 10 for flow in flows.report().values()))
        fine = flows.report()
        backends.close(*target, mode="datagrams")
        eventually(lambda: all(flow.errors["ECONNREFUSED"] for flow in flows.report().values()))
        backends.open(*target, name="two", mode="datagrams")
        eventually(lambda: all(flow.server == "two" for flow in flows.report().values()))
        report = flows.stop()
    assert {flow.server for flow in fine.values()} == {"one"}
    for flow in report.values():
        assert [name for _, name in flow.servers] == ["one", "two"]
        assert flow.lost > 0
        assert flow.longest_gap_s > flow.servers[1][0] - flow.servers[0][0] - 1.0
    assert backends.accepted().keys() == {"one", "two"}


def test_what_a_full_socket_loses_is_counted() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, udp.make_socket(("127.0.0.1", 0)) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        assert udp.dropped(server) == 0
        for _ in range(100):
            client.send(b"x")
        lost = udp.dropped(server)
        received = 0
        with suppress(BlockingIOError):
            while server.recv(10):
                received += 1
    assert 0 < lost == 100 - received


def test_queues_of_listening_sockets_are_seen() -> None:
    assert queues() == []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("::1", 0), family=socket.AF_INET6),
        socket.create_connection(server.getsockname()),
        socket.create_connection(server.getsockname()),
    ):
        assert queues() == [2, 0]
        server.accept()[0].close()
        assert queues() == [1, 0]


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
