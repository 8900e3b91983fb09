"""A table of every portal: kind x origin x policies x endpoints x forwarding x family, expected and seen, in one run.

What is expected is in `semantics`, what is dialled in `portal_table`. All cells of all origins are dialled at once.
"""

import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from kpf.lab.backends import Backends
from kpf.lab.cluster import (
    BRIDGE_ADDRESSES,
    NODE,
    NODE_ADDRESSES,
    OTHER_NODE,
    OUTSIDE_ADDRESSES,
    SECOND_NODE_ADDRESSES,
    Cluster,
    nodes,
)
from kpf.lab.crowd import Outcome
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, dial
from kpf.lab.machine import Machine
from kpf.lab.manifests import Manifests, service_cidr
from tests.e2e.explained import JUDGED, Explained, asking
from tests.e2e.portal_table import POD_PORT, SERVICE_CIDRS, dial_of, manifest, service_of
from tests.e2e.semantics import (
    DROPPED,
    ELSEWHERE,
    REFUSED,
    Cell,
    Client,
    Endpoints,
    Expected,
    Forwarding,
    Kind,
    Model,
    Origin,
    Policy,
    cells,
)

# one more than there are servers
ATTEMPTS = 6
TIMEOUT_S = 6.0
# of each origin: what sends faster only waits longer
PAUSE_S = 0.001
# policies and endpoints of the Services that are asked of for a client
CLIENT_ASKED = (Policy.CLUSTER, Policy.LOCAL, Endpoints.BOTH)
# of the service range
UNOWNED = ("10.96.9.9", "fd00:96::9009")
WIDTH = 220
COLUMNS = ("origin", "portal", "internal", "external", "endpoints", "forwarding", "family", "expected", "seen")

Seen = Counter[str]


@dataclass(frozen=True)
class ClusterWorld:
    cluster: Cluster
    daemon: Daemon
    model: Model
    machines: Mapping[Origin, Machine]
    addresses: Mapping[str, tuple[str, str]]

    def dial(self, dials: Mapping[Origin, Sequence[Dial]]) -> dict[Origin, list[Outcome]]:
        """What becomes of them, all at once."""
        calls = {
            origin: self.machines[origin].begin(dial, those, at_once=len(those), pause_s=PAUSE_S, timeout_s=TIMEOUT_S)
            for origin, those in dials.items()
        }
        return {origin: call.result() for origin, call in calls.items()}

    def seen(self, origin: Origin, outcome: Outcome) -> str:
        """As `words` says what is expected."""
        if outcome.error == "ECONNREFUSED":
            return REFUSED
        # EPERM: by the rules of the machine that it was sent from
        if outcome.error == "timed out" or (outcome.error == "EPERM" and origin is Origin.NODE):
            return DROPPED
        if outcome.error:
            return outcome.error
        # the node's process has the node's address, which counts as masqueraded
        if ip_address(outcome.client) in self._own_addresses():
            return f"{outcome.name} sees {Client.NODE}"
        if outcome.client in self.addresses[origin]:
            return f"{outcome.name} sees {Client.KEPT}"
        return f"{outcome.name} sees {outcome.client}"

    @staticmethod
    def _own_addresses() -> set[object]:
        return {ip_address(one) for one in (*NODE_ADDRESSES, *SECOND_NODE_ADDRESSES, *BRIDGE_ADDRESSES)}


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[ClusterWorld]:
    """The cluster, a server on each of its places, and one kpf for all Services of the table."""
    with ExitStack() as stack:
        machines: dict[str, tuple[Machine, tuple[str, ...]]] = {
            "routed": (cluster.routed, cluster.routed.addresses),
            "bridged": (cluster.bridged, cluster.bridged.addresses),
            "neighbour": (cluster.neighbour, cluster.neighbour.addresses),
            "node": (cluster.node, NODE_ADDRESSES),
            "remote": (cluster.remote, cluster.remote.addresses),
        }
        if not cluster.bridge.filtered:
            # what goes from port to port is not seen by the node, so neither is the answer to a redirected packet
            del machines["neighbour"]
        for name, (machine, addresses) in machines.items():
            servers = stack.enter_context(Backends(machine))
            for address in addresses:
                servers.open(address, POD_PORT, name=name, mode="tell")
                servers.open(address, POD_PORT, name=name, mode="datagrams")
        servers_at = {name: (addresses[0], addresses[1]) for name, (_, addresses) in machines.items()}
        machines["outside"] = cluster.outside, OUTSIDE_ADDRESSES
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpf-")))
        manifests = Manifests(directory / "manifests")
        manifests.write("cluster.yaml", *nodes(), service_cidr(*SERVICE_CIDRS))
        nodes_of = {name: OTHER_NODE if name in ELSEWHERE else NODE for name in servers_at}
        manifests.write_text("table.json", manifest(servers_at, nodes_of))
        daemon = Daemon(cluster.node, directory, manifests=manifests.directory, args=("--hostname-override", NODE))
        yield ClusterWorld(
            cluster,
            stack.enter_context(daemon),
            Model(frozenset(servers_at) - ELSEWHERE),
            {origin: machines[origin][0] for origin in Origin},
            {**servers_at, "outside": OUTSIDE_ADDRESSES},
        )


@pytest.fixture(scope="module")
def table(world: ClusterWorld) -> tuple[Mapping[Cell, Seen], float]:
    """What was seen of each cell, and how long it took in seconds."""
    of_origin: dict[Origin, list[Cell]] = {origin: [] for origin in Origin}
    for cell in cells():
        of_origin[cell.origin] += [cell] * ATTEMPTS
    began_s = time.monotonic()
    outcomes = world.dial({origin: [dial_of(cell) for cell in those] for origin, those in of_origin.items()})
    seen: dict[Cell, Seen] = {}
    for origin, those in of_origin.items():
        for cell, outcome in zip(those, outcomes[origin], strict=True):
            seen.setdefault(cell, Counter())[world.seen(origin, outcome)] += 1
    return seen, time.monotonic() - began_s


def words(expected: Expected) -> set[str]:
    """As `ClusterWorld.seen` says it."""
    return (
        {expected} if isinstance(expected, str) else {f"{server} sees {client}" for server, client in expected.items()}
    )


def rendered(rows: Sequence[tuple[Cell, Expected, Seen]]) -> str:
    lines = Table(*COLUMNS, box=box.SIMPLE)
    for cell, expected, seen in rows:
        lines.add_row(*map(str, cell), _grouped(words(expected)), _grouped(seen))
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(lines)
    return text.getvalue()


def _grouped(those: Iterable[str]) -> str:
    """Servers that see the same are one group."""
    groups: dict[str, list[str]] = {}
    for one in sorted(those):
        server, _, sees = one.rpartition(" sees ")
        groups.setdefault(sees, []).append(server)
    return "; ".join(f"{', '.join(servers)}: {sees}".removeprefix(": ") for sees, servers in groups.items())


@pytest.mark.parametrize("origin", Origin)
def test_every_cell(
    world: ClusterWorld,
    table: tuple[Mapping[Cell, Seen], float],
    origin: Origin,
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    seen, took_s = table
    rows = [(cell, world.model.expected(cell), found) for cell, found in seen.items() if cell.origin is origin]
    wrong = [row for row in rows if not set(row[2]) <= words(row[1])]
    path = tmp_path / f"{origin}.txt"
    if wrong:
        # a second of CPU
        path.write_text(rendered(rows), encoding="utf-8")
    counts = Counter(expected if isinstance(expected, str) else "served" for _, expected, _ in rows)
    figure(
        f"portals from {origin}: {len(rows)} cells, {counts['served']} served, {counts[REFUSED]} refused, "
        f"{counts[DROPPED]} dropped; {len(wrong)} otherwise than expected; dialled in {took_s:.1f} s with all others"
    )
    assert len(rows) == len(list(cells())) / len(Origin)
    assert not wrong, f"{len(wrong)} of {len(rows)} cells (all of them: {path})\n{rendered(wrong)}"


def test_every_cell_is_explained(
    world: ClusterWorld, table: tuple[Mapping[Cell, Seen], float], figure: Callable[[str], None]
) -> None:
    """What `kpf explain` says is what the dials have found."""
    with asking(world.daemon.control_socket) as asked:
        explained, began_s = Explained(asked, world.addresses), time.monotonic()
        said = {cell: explained.words(cell) for cell in table[0]}
        # of one Service of each kind what is said of a client alone
        some = [cell for cell in said if cell.kind in JUDGED and cell[2:5] == CLIENT_ASKED]
        said_of_client = {cell: explained.words_for_client(cell) for cell in some}
        took_s = time.monotonic() - began_s
    figure(f"kpf explain: {explained.questions} questions for {len(said)} cells in {took_s:.1f} s")
    assert len(said) == len(list(cells()))
    # whatever was found was said, and whatever was said may be found
    wrong = {cell: (said[cell], set(seen)) for cell, seen in table[0].items() if not set(seen) <= said[cell]}
    assert wrong == {}
    expected = {cell: words(world.model.expected(cell)) for cell in said}
    assert {cell: (said[cell], those) for cell, those in expected.items() if said[cell] != those} == {}
    assert len(said_of_client) == len(Origin) * len(JUDGED) * len(Forwarding) * 2
    assert said_of_client == {cell: said[cell] for cell in said_of_client}


def test_every_endpoint_had_its_turn(world: ClusterWorld, table: tuple[Mapping[Cell, Seen], float]) -> None:
    answered: dict[tuple[str, int, frozenset[str]], set[str]] = {}
    for cell, seen in table[0].items():
        expected = world.model.expected(cell)
        if not isinstance(expected, str):
            answering = answered.setdefault((service_of(cell), cell.family, frozenset(expected)), set())
            answering |= {what.partition(" sees ")[0] for what in seen}
    assert answered
    assert {key: found for key, found in answered.items() if found != key[-1]} == {}


def test_an_address_of_the_service_range_that_nobody_has_is_dropped(world: ClusterWorld) -> None:
    dials = [Dial(protocol, (address, 80)) for protocol in ("TCP", "UDP") for address in UNOWNED]
    outcomes = world.dial(dict.fromkeys(Origin, dials))
    seen = {origin: [world.seen(origin, one) for one in those] for origin, those in outcomes.items()}
    assert seen == dict.fromkeys(Origin, [DROPPED] * len(dials))


def test_a_proxy_port_cannot_be_dialled(world: ClusterWorld) -> None:
    status = world.daemon.status()
    ports = [service["proxyPort"] for service in status["services"] if service["proxyPort"]]
    addresses = (*status["proxyAddresses"], *NODE_ADDRESSES, *SECOND_NODE_ADDRESSES)
    dials = [Dial("TCP", (address, ports[0])) for address in addresses]
    outcomes = world.dial(dict.fromkeys(Origin, dials))
    seen = {origin: [world.seen(origin, one) for one in those] for origin, those in outcomes.items()}
    assert seen == dict.fromkeys(Origin, [REFUSED] * len(dials))


def test_pods_at_a_bridge_need_no_netfilter_for_bridges(world: ClusterWorld) -> None:
    """Nor do those whose traffic is forwarded by the kernel, but between two ports of the bridge."""
    asked = [
        Cell(Origin.BRIDGED, Kind.CLUSTER_IP, Policy.CLUSTER, Policy.CLUSTER, endpoints, forwarding, family)
        for endpoints, forwarding in (
            (Endpoints.BOTH, Forwarding.TCP),
            (Endpoints.ELSEWHERE, Forwarding.DIRECT_TCP),
            (Endpoints.ELSEWHERE, Forwarding.UDP),
        )
        for family in (4, 6)
    ]
    world.cluster.bridge.filter(False)
    try:
        outcomes = world.dial({Origin.BRIDGED: [dial_of(cell) for cell in asked * ATTEMPTS]})[Origin.BRIDGED]
    finally:
        world.cluster.bridge.filter(world.cluster.bridge.filtered)
    for cell, outcome in zip(asked * ATTEMPTS, outcomes, strict=True):
        assert world.seen(Origin.BRIDGED, outcome) in words(world.model.expected(cell)), cell
