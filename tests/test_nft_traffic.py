"""The table at work: real connections in a private namespace, from the node itself and from another host."""

import asyncio
import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from pyroute2 import IPRoute

from kpf.lab.backends import Backends
from kpf.lab.clients import Address, connect, each, failures, hold, names, steady
from kpf.lab.hosts import Host, add_route, set_sysctl
from kpf.lab.machine import Machine
from kpf.master.identity import worker_user
from kpf.model.names import Family, SocketAddress
from kpf.model.rules import Action, NodePort, Portal, Rules, Verdict
from kpf.net import sockets
from kpf.nft import expressions as ex
from kpf.nft.kernel import Kernel
from tests.conntrack_table import Entries
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


@pytest.fixture(scope="module")
def process(node: Machine) -> Iterator[Backends]:
    with Backends(node) as process:
        yield process


@pytest.fixture
def backends(process: Backends) -> Iterator[Backends]:
    """What listens on the proxy ports; it answers with the address that it was reached at."""
    for address in NODE:
        process.open(address, PROXY_PORT)
    yield process
    process.clear()


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


def test_an_address_of_kpfs_own_is_reached_only_through_a_portal(
    outside: Host, node: Machine, backends: Backends
) -> None:
    own = [ip_address(OTHER_NODE_ADDRESS)]
    backends.open(OTHER_NODE_ADDRESS, PROXY_PORT)
    backends.open(OTHER_NODE_ADDRESS, 22, name="another program")
    state = rules()
    proxies = {**state.proxy_addresses, Family.IPV4: own[0]}
    write(replace(state, proxy_addresses=proxies), instead_of=None)
    theirs: list[Address] = [(OTHER_NODE_ADDRESS, port) for port in (PROXY_PORT, NODE_PORT, 22)]
    assert outcomes(outside, theirs) == dict(
        zip(theirs, (OTHER_NODE_ADDRESS, OTHER_NODE_ADDRESS, "another program"), strict=True)
    )
    write(
        replace(state, proxy_addresses=proxies, own_addresses=frozenset(own)),
        instead_of=replace(state, proxy_addresses=proxies),
    )
    portals = [target for target in PORTALS if ":" not in target[0] and target[0] != OTHER_NODE_ADDRESS]
    for machine in (outside, node):
        assert outcomes(machine, theirs) == all_of(theirs, "ECONNREFUSED")
        assert outcomes(machine, portals) == all_of(portals, OTHER_NODE_ADDRESS)


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


def asked(machine: Machine, target: Address, *, source: Address | None = None) -> socket.socket:
    """A socket of the machine's that has sent its SYN."""
    with machine.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    sock.setblocking(False)
    if source:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(source)
    assert sock.connect_ex(target) in (0, errno.EINPROGRESS)
    return sock


def answer(sock: socket.socket, timeout_s: float) -> str:
    """What has become of it: "connected", the name of the error, or silence."""
    if not select.select([], [sock], [], timeout_s)[1]:
        return SILENCE
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[error] if error else "connected"


def everywhere() -> list[socket.socket]:
    """One listener for both families, at no address."""
    sock = socket.create_server(("::", PROXY_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    return [sock]


def steered() -> list[socket.socket]:
    made = [sockets.listening_socket(one, PROXY_PORT, backlog=9) for one in NODE for _ in range(3)]
    for first in made[::3]:
        sockets.steer(first, [1])
    return made


LISTENERS: dict[str, Callable[[], list[socket.socket]]] = {
    "one each": lambda: [sockets.listening_socket(one, PROXY_PORT, backlog=9) for one in NODE],
    "transparent": lambda: [sockets.listening_socket(one, PROXY_PORT, backlog=9, address_may_go=True) for one in NODE],
    "a group that is steered": steered,
    "at no address": everywhere,
}


@contextmanager
def listening(kind: str) -> Iterator[list[socket.socket]]:
    with ExitStack() as opened:
        yield [opened.enter_context(one) for one in LISTENERS[kind]()]


def test_while_nobody_listens_new_connections_wait(outside: Host, node: Machine) -> None:
    """All of kpf's processes are dead, and its rules are still there."""
    write(rules())
    targets = [(outside, one) for one in PORTALS] + [(node, one) for one in (*PORTALS, *LOOPBACK_PORTALS)]
    with ExitStack() as opened:
        waiting = [opened.enter_context(asked(*one)) for one in targets]
        assert {answer(one, 0.02) for one in waiting} == {SILENCE}
        opened.enter_context(listening("one each"))
        # their second SYN, a second after the first
        assert {answer(one, 3.0) for one in waiting} == {"connected"}


@pytest.mark.parametrize("kind", LISTENERS)
@pytest.mark.parametrize("cookies", ["1", "2"], ids=["without cookies", "with SYN cookies"])
def test_whoever_listens_is_found(outside: Host, node: Machine, kind: str, cookies: str) -> None:
    assert set_sysctl("net.ipv4.tcp_syncookies", cookies)
    write(rules())
    try:
        with listening(kind):
            for machine in (outside, node):
                for target in PORTALS:
                    with asked(machine, target) as sock:
                        assert answer(sock, 0.8) == "connected", target
    finally:
        set_sysctl("net.ipv4.tcp_syncookies", "1")


def test_the_next_connection_from_a_port_that_the_last_one_has_left_in_time_wait(outside: Host) -> None:
    write(rules())
    with listening("one each") as listeners:
        for target, source, listener in zip(CLUSTER_IPS, OUTSIDE, listeners, strict=True):
            for _ in range(3):
                with asked(outside, (target, 80), source=(source, 40404)) as sock:
                    assert answer(sock, 0.8) == "connected", target
                    # who closes first has the TIME_WAIT
                    listener.accept()[0].close()
                    assert select.select([sock], [], [], 1.0)[0]


def test_the_next_connection_from_a_port_whose_last_one_was_reset_waits_too(outside: Host) -> None:
    """For conntrack its SYN still belongs to that one: such are the connections that are cut when kpf is killed."""
    write(rules())
    for place, target in enumerate(CLUSTER_IPS):
        source = OUTSIDE[place], 40405
        with listening("one each") as listeners, asked(outside, (target, 80), source=source) as sock:
            assert answer(sock, 0.8) == "connected"
            with listeners[place].accept()[0] as accepted:
                # linger for no time: a reset instead of a FIN
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert select.select([sock], [], [], 1.0)[0]
        with asked(outside, (target, 80), source=source) as sock:
            assert answer(sock, 0.1) == SILENCE
            with listening("one each"):
                assert answer(sock, 3.0) == "connected"


TCP_REPAIR, WITHOUT_A_PROBE = 19, -1


@pytest.mark.parametrize("target", CLUSTER_IPS)
def test_who_believes_to_be_connected_is_reset(outside: Host, node: Machine, target: str) -> None:
    """A segment without SYN, for which there is neither socket nor entry: kpf was killed."""
    write(rules())
    for machine in (outside, node):
        with machine.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            sock.connect((target, 80))
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, WITHOUT_A_PROBE)
            sock.settimeout(5.0)
            sock.send(b"still here")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_a_kernel_that_cannot_find_sockets_is_served(
    outside: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CONFIG_NFT_SOCKET is not set: it knows no expression of that name."""
    monkeypatch.setattr(ex, "socket", lambda _: ex.expression("nobody-knows-it"))

    async def scene() -> None:
        kernel = Kernel()
        for state in (rules(), rules(Verdict.DROP), rules()):
            await kernel.replace(state)
        kernel.table.distrust()
        await kernel.replace(rules())
        kernel.close()

    asyncio.run(scene())
    assert [one.getMessage().split(":")[0] for one in caplog.records] == [
        "this kernel's nftables cannot find sockets (CONFIG_NFT_SOCKET)"
    ]
    for kinds, expected in (((), "ECONNREFUSED"), (("one each",), "connected")):
        with ExitStack() as opened:
            for kind in kinds:
                opened.enter_context(listening(kind))
            for target in PORTALS:
                assert answer(opened.enter_context(asked(outside, target)), 0.8) == expected


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
def test_when_stepping_aside_new_connections_go_where_they_are_sent_and_established_ones_go_on(
    outside: Host, node: Machine
) -> None:
    before = rules()
    write(before)
    for machine, target in ((outside, (CLUSTER_IPS[0], 80)), (node, (CLUSTER_IPS[1], 80))):
        with machine.converse(hold, target, 3) as held:
            write(before.stepping_aside(), instead_of=before)
            # where nobody else has rules for it, it follows the routes
            assert outcomes(machine, [target], timeout_s=0.3)[target] not in (*NODE, "ECONNREFUSED")
            assert failures(held.send("ping")) == []
            write(before, instead_of=before.stepping_aside())


@pytest.mark.usefixtures("backends")
def test_what_the_old_rules_let_pass_is_not_refused_when_dropping(outside: Host, node: Machine) -> None:
    """A packet that found no verdict of these rules yet, and finds no redirect any more."""
    before = rules()
    write(before)
    write(replace(before.dropping(), portals={}), instead_of=before)
    for machine, target in ((outside, (CLUSTER_IPS[0], 80)), (node, (CLUSTER_IPS[1], 80))):
        assert outcomes(machine, [target], timeout_s=0.3)[target] != "ECONNREFUSED"


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
    off_node: dict[Portal | NodePort, Action] = dict.fromkeys((*near.portals, *near.node_ports), PROXY_PORT)
    write(replace(near, off_node=off_node))
    assert outcomes(outside, PORTALS) == {target: NODE[":" in target[0]] for target in PORTALS}
    assert outcomes(node, PORTALS) == all_of(PORTALS, "ECONNREFUSED")


WORKER = 93040
# names of those who listen at portals themselves
SERVERS: dict[Address, str] = {target: f"server {target[0]}" for target in PORTALS if target[0] not in CLUSTER_IPS}


@pytest.fixture
def servers(outside: Host, node: Machine) -> Iterator[None]:
    """Whoever is at the addresses of portals, on this node and elsewhere."""
    outside.add_addresses(EXTERNAL_IPS)
    with Backends(outside) as there, Backends(node) as here:
        for (address, port), name in SERVERS.items():
            (there if address in EXTERNAL_IPS else here).open(address, port, name=name)
        yield
    for address in EXTERNAL_IPS:
        outside.remove_address(address)


def who_answers(target: Address, user: int) -> str:
    """What one of that user's sockets meets there."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(user)
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    finally:
        libc.setfsuid(os.getuid())
    with sock:
        sock.settimeout(0.6)
        try:
            sock.connect(target)
            return sock.recv(100).decode().strip()
        except OSError as error:
            return errno.errorcode[error.errno] if error.errno else SILENCE


@pytest.mark.parametrize(
    ("action", "others"),
    [(PROXY_PORT, ""), (Verdict.REFUSE, "ECONNREFUSED"), (Verdict.DROP, SILENCE)],
    ids=["proxied", "refused", "dropped"],
)
@pytest.mark.usefixtures("backends", "servers")
def test_what_workers_dial_is_no_portal(action: Action, others: str) -> None:
    """At this node's own address, at another host's: TCP is no different from what it would be without kpf."""
    if worker_user(WORKER) != WORKER:
        pytest.skip("nobody else exists in this user namespace")
    state = rules(action)
    write(state)
    write(replace(state, worker_uid=WORKER), instead_of=state)
    assert {target: who_answers(target, WORKER) for target in SERVERS} == SERVERS
    for target in SERVERS:
        assert who_answers(target, WORKER + 1) == (others or NODE[":" in target[0]]), target
    # an address that nobody has is no better for them
    for address in CLUSTER_IPS:
        assert who_answers((address, 80), WORKER) == "ECONNREFUSED"


@pytest.mark.usefixtures("servers")
def test_what_workers_dial_is_not_judged_by_its_guard() -> None:
    if worker_user(WORKER) != WORKER:
        pytest.skip("nobody else exists in this user namespace")
    guards = {portal: (ip_network("10.0.0.0/8"),) for portal in rules().portals if portal.family is Family.IPV4}
    write(replace(rules(Verdict.REFUSE), source_ranges=guards, worker_uid=WORKER))
    target = (EXTERNAL_IPS[0], 80)
    assert (who_answers(target, WORKER), who_answers(target, WORKER + 1)) == (SERVERS[target], SILENCE)


@pytest.mark.parametrize("action", [PROXY_PORT, Verdict.REFUSE, Verdict.DROP], ids=["proxied", "refused", "dropped"])
@pytest.mark.parametrize("server", ["outside", "node"])
@pytest.mark.usefixtures("backends")
def test_a_connection_from_before_goes_on_from_what_is_a_node_port_now(
    outside: Host, node: Machine, server: str, action: Action
) -> None:
    """Its far end speaks next, so that to conntrack the node looks like a server that is asked for the first time."""
    for family, ours, theirs in zip((socket.AF_INET, socket.AF_INET6), NODE, OUTSIDE, strict=True):
        address = theirs if server == "outside" else ours
        with outside.inside() if server == "outside" else node.inside():
            listener = socket.create_server((address, 0), family=family)
        with listener, socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(3.0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((ours, NODE_PORT))
            client.connect(listener.getsockname()[:2])
            with listener.accept()[0] as far:
                write(rules(action))
                far.sendall(b"news")
                assert client.recv(100) == b"news"
                client.sendall(b"thanks")
                far.settimeout(3.0)
                assert far.recv(100) == b"thanks"
        write(None)


@pytest.mark.parametrize("target", [*((one, 80) for one in (*CLUSTER_IPS, *EXTERNAL_IPS))], ids=lambda one: one[0])
@pytest.mark.usefixtures("backends")
def test_a_proxied_connection_survives_the_loss_of_its_entry(outside: Host, node: Machine, target: Address) -> None:
    """The client's next segment is redirected again, and finds the proxy's end of the connection."""
    write(rules())
    for machine in (outside, node):
        with machine.converse(hold, target, 3) as held:
            forget_everything()
            assert failures(held.send("ping")) == []


@pytest.mark.usefixtures("backends")
def test_at_a_node_port_a_connection_ends_at_once_with_its_entry(outside: Host) -> None:
    """It cannot be told from one of this node to elsewhere, from the port of the same number."""
    write(rules())
    for address in NODE:
        with outside.converse(hold, (address, NODE_PORT), 3) as held:
            forget_everything()
            assert {one.error for one in held.send("ping")} == {"ECONNRESET"}


def forget_everything() -> None:
    async def clear() -> None:
        entries = Entries()
        await entries.clear()
        entries.close()

    asyncio.run(clear())
