"""The table at work: real connections in a private namespace, from the node itself and from another host."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from pyroute2 import IPRoute

from kpf.lab.backends import Backends
from kpf.lab.clients import Address, connect, each, failures, hold, names, steady
from kpf.lab.hosts import Host, add_route
from kpf.lab.machine import Machine
from kpf.model.names import Family, SocketAddress
from kpf.model.rules import Action, NodePort, Portal, Rules, Verdict
from kpf.nft.kernel import Kernel
from tests.values import TCP, at

NODE = ("192.168.70.1", "fd00:70::1")
OTHER_NODE_ADDRESS = "192.168.71.1"
OUTSIDE = ("192.168.70.2", "fd00:70::2")
LOOPBACK = ("127.0.0.1", "::1")
CLUSTER_IPS = ("10.96.7.1", "fd00:96:7::1")
EXTERNAL_IPS = ("203.0.113.7", "2001:db8:7::1")
PROXY_PORT, NODE_PORT = 20001, 30070
SILENCE = "timed out"


def rules(action: Action = PROXY_PORT) -> Rules:
    """One Service of port 80 in both families, with every kind of portal."""
    return Rules(
        proxy_addresses={Family(address.version): address for address in map(ip_address, NODE)},
        portals={Portal(ip_address(one), TCP, 80): action for one in (*CLUSTER_IPS, *EXTERNAL_IPS)},
        node_ports={NodePort(family, TCP, NODE_PORT): action for family in Family},
        cluster_ips=frozenset(map(ip_address, CLUSTER_IPS)),
        listening=frozenset({at(f"{NODE[0]}:{PROXY_PORT}"), at(f"[{NODE[1]}]:{PROXY_PORT}")}),
    )


PORTALS: list[Address] = [
    *((one, 80) for one in (*CLUSTER_IPS, *EXTERNAL_IPS)),
    *((one, NODE_PORT) for one in (*NODE, OTHER_NODE_ADDRESS)),
]
LOOPBACK_PORTALS: list[Address] = [(one, NODE_PORT) for one in LOOPBACK]


@pytest.fixture(scope="module")
def outside() -> Iterator[Host]:
    """Another host on a link of ours; what we have no route for goes there, and no further."""
    host = Host(
        "traffic0",
        ours=[f"{NODE[0]}/24", f"{NODE[1]}/64"],
        theirs=[f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64"],
    )
    for gateway in OUTSIDE:
        add_route("default", gateway)
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="traffic0")
        ip.addr("add", index=index, address=OTHER_NODE_ADDRESS, prefixlen=32)
    yield host
    host.close()


@pytest.fixture(scope="module")
def node() -> Machine:
    return Machine()


@pytest.fixture
def backends(node: Machine) -> Iterator[Backends]:
    """What listens on the proxy ports; it answers with the address that it was reached at."""
    with Backends(node) as backends:
        for address in NODE:
            backends.open(address, PROXY_PORT)
        yield backends


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    yield
    write(None)


def write(state: Rules | None, *, instead_of: Rules | None = None) -> None:
    async def run() -> None:
        kernel = Kernel()
        try:
            if state is None:
                await kernel.delete()
            elif instead_of is None:
                await kernel.replace(state)
            else:
                await kernel.update(instead_of, state)
        finally:
            kernel.close()

    asyncio.run(run())


def outcomes(machine: Machine, targets: Sequence[Address], *, timeout_s: float = 3.0) -> dict[Address, str]:
    """Who answers each target, or the name of the error; what came late is marked."""
    found = machine.call(each, targets, timeout_s=timeout_s).items()
    return {
        target: (one.name or one.error) + (" late" if not one.name and 0.5 < one.first_byte_s < timeout_s * 0.9 else "")
        for target, one in found
    }


def all_of(targets: Sequence[Address], what: str) -> dict[Address, str]:
    return dict.fromkeys(targets, what)


@pytest.mark.usefixtures("backends")
def test_every_portal_leads_to_the_proxy_port(outside: Host, node: Machine) -> None:
    write(rules())
    expected = {target: NODE[":" in target[0]] for target in PORTALS}
    assert outcomes(outside, PORTALS) == expected
    local = [*PORTALS, *LOOPBACK_PORTALS]
    assert outcomes(node, local) == {target: NODE[":" in target[0]] for target in local}


@pytest.mark.usefixtures("backends")
def test_a_refusing_portal_refuses_at_once(outside: Host, node: Machine) -> None:
    write(rules(Verdict.REFUSE))
    assert outcomes(outside, PORTALS) == all_of(PORTALS, "ECONNREFUSED")
    local = [*PORTALS, *LOOPBACK_PORTALS]
    assert outcomes(node, local) == all_of(local, "ECONNREFUSED")


@pytest.mark.usefixtures("backends")
def test_a_dropping_portal_says_nothing(outside: Host, node: Machine) -> None:
    write(rules(Verdict.DROP))
    for machine in (outside, node):
        assert outcomes(machine, PORTALS, timeout_s=0.6) == all_of(PORTALS, SILENCE)


@pytest.mark.usefixtures("backends")
def test_undefined_ports_of_cluster_ips_are_refused_and_other_addresses_left_alone(
    outside: Host, node: Machine
) -> None:
    write(rules())
    undefined: list[Address] = [(one, 81) for one in CLUSTER_IPS]
    foreign: list[Address] = [("10.96.7.9", 80), ("fd00:96:7::9", 80)]
    for machine in (outside, node):
        assert outcomes(machine, undefined) == all_of(undefined, "ECONNREFUSED")
    assert outcomes(node, foreign, timeout_s=0.6) == all_of(foreign, SILENCE)


def test_an_undefined_udp_port_of_a_cluster_ip_is_refused() -> None:
    write(rules())
    for address in CLUSTER_IPS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # how a refusal looks to the node's own processes
        with socket.socket(family, socket.SOCK_DGRAM) as sock, pytest.raises(PermissionError):
            sock.sendto(b"?", (address, 53))


@pytest.mark.usefixtures("backends")
def test_a_family_without_a_proxy_address_is_not_redirected(outside: Host) -> None:
    both = rules()
    write(replace(both, proxy_addresses={Family.IPV4: both.proxy_addresses[Family.IPV4]}))
    targets: list[Address] = [(one, 80) for one in CLUSTER_IPS]
    assert outcomes(outside, targets) == {targets[0]: NODE[0], targets[1]: "ECONNREFUSED"}


def test_node_ports_answer_only_inside_their_networks(outside: Host, node: Machine, backends: Backends) -> None:
    backends.open(OTHER_NODE_ADDRESS, NODE_PORT, name="another program")
    write(replace(rules(), node_port_networks=(ip_network("192.168.70.0/24"),)))
    targets: list[Address] = [(one, NODE_PORT) for one in (*NODE, OTHER_NODE_ADDRESS)]
    # no network is of IPv6, so there all of the node's addresses answer
    expected = dict(zip(targets, (*NODE, "another program"), strict=True))
    assert outcomes(outside, targets) == expected
    loopback: dict[Address, str] = {("127.0.0.1", NODE_PORT): "ECONNREFUSED", ("::1", NODE_PORT): NODE[1]}
    assert outcomes(node, list(loopback)) == loopback


def test_a_proxy_port_is_reached_only_through_a_portal(outside: Host, node: Machine, backends: Backends) -> None:
    for address in NODE:
        backends.open(address, PROXY_PORT + 1, name="another program")
    write(rules())
    direct: list[Address] = [(one, PROXY_PORT) for one in NODE]
    foreign: list[Address] = [(one, PROXY_PORT + 1) for one in NODE]
    for machine in (outside, node):
        assert outcomes(machine, direct) == all_of(direct, "ECONNREFUSED")
        assert outcomes(machine, foreign) == all_of(foreign, "another program")


def test_the_guard_lets_answers_pass_to_the_nodes_own_connections(outside: Host) -> None:
    """Who happens to have the port as his source port is answered by somebody else's SYN+ACK, no new connection."""
    with Backends(outside) as servers:
        for address in OUTSIDE:
            servers.open(address, 8080)
        write(replace(rules(), listening=frozenset(SocketAddress(ip_address(one), 20005) for one in NODE)))
        for family, ours, theirs in zip((socket.AF_INET, socket.AF_INET6), NODE, OUTSIDE, strict=True):
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(3.0)
                client.bind((ours, 20005))
                client.connect((theirs, 8080))
                assert client.recv(100) == f"{theirs}\n".encode()


@pytest.mark.usefixtures("backends")
def test_when_dropping_new_connections_wait_and_established_ones_go_on(outside: Host, node: Machine) -> None:
    before = rules()
    write(before)
    for machine, target in ((outside, (CLUSTER_IPS[0], 80)), (node, (CLUSTER_IPS[1], 80))):
        with machine.converse(hold, target, 3) as held:
            write(before.dropping(), instead_of=before)
            assert outcomes(machine, [target], timeout_s=0.6) == {target: SILENCE}
            assert failures(held.send("ping")) == []
            with machine.begin(connect, target, timeout_s=5.0) as waiting:
                time.sleep(0.5)
                write(before, instead_of=before.dropping())
                (outcome,) = waiting.result()
            # its second SYN, a second after the first
            assert outcome.name == NODE[":" in target[0]]
            assert 0.4 < outcome.connect_s < 2.5
            assert failures(held.send("ping")) == []


@pytest.mark.usefixtures("backends")
def test_replacing_the_table_under_load_loses_no_connection(outside: Host) -> None:
    state = rules()
    crowd = {Portal(ip_address(0x0A610000 + number), TCP, 80): PROXY_PORT for number in range(3000)}
    write(state)
    with outside.begin(steady, (CLUSTER_IPS[0], 80), 300.0, 2.0, timeout_s=5.0) as load:
        end_s = time.monotonic() + 2.5
        replaced = 0
        while time.monotonic() < end_s:
            write(replace(state, portals={**state.portals, **crowd}) if replaced % 2 else state)
            replaced += 1
        found = load.result()
    assert replaced >= 5
    assert names(found) == {NODE[0]: len(found)}
    assert len(found) == 600


@pytest.mark.usefixtures("backends")
def test_who_comes_from_elsewhere_is_not_asked_for_the_verdict_of_others(outside: Host, node: Machine) -> None:
    near = rules(Verdict.REFUSE)
    far: dict[Portal | NodePort, Action] = dict.fromkeys((*near.portals, *near.node_ports), PROXY_PORT)
    write(replace(near, far=far))
    assert outcomes(outside, PORTALS) == {target: NODE[":" in target[0]] for target in PORTALS}
    assert outcomes(node, PORTALS) == all_of(PORTALS, "ECONNREFUSED")
