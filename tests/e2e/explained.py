"""What `kpf explain` says of each cell of the table of every portal, in the words of what a dial finds."""

import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kpf.explain.rows import NODE_SEEN
from kpf.model.names import IPAddress
from tests.e2e.portal_table import dial_of, service_of
from tests.e2e.semantics import DROPPED, REFUSED, Cell, Client, Kind, Origin

Row = Mapping[str, Any]
ORIGINS = {
    Origin.OUTSIDE: "elsewhere",
    Origin.REMOTE: "elsewhere",
    Origin.ROUTED: "pods",
    Origin.BRIDGED: "pods",
    Origin.NODE: "node",
}
NODE_PORTS = {Kind.NODE_PORT, Kind.SECOND_NODE_PORT}
# whether one is served depends on who it is
JUDGED = {Kind.BALANCER_INSIDE, Kind.BALANCER_OUTSIDE}
# nothing of the node's own, nor of another machine's, listens where these are sent
VERDICTS = {"refused": REFUSED, "dropped": DROPPED, "not captured": REFUSED, "not here": REFUSED}


@contextmanager
def asking(control_socket: Path) -> Iterator[http.client.HTTPConnection]:
    """One connection for all questions."""
    connection = http.client.HTTPConnection("kpf")
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(control_socket))
        connection.sock = connected
        yield connection


class Explained:
    """Asks a daemon, once for each Service where that tells. `addresses`: of each server and origin."""

    def __init__(self, asked: http.client.HTTPConnection, addresses: Mapping[str, tuple[str, str]]) -> None:
        self._asked, self._addresses = asked, addresses
        self._answers: dict[tuple[str, str], Any] = {}
        self._names = {ip_address(one): name for name, those in addresses.items() for one in those}

    @property
    def questions(self) -> int:
        """How many have been asked."""
        return len(self._answers)

    def words(self, cell: Cell) -> set[str]:
        """As `ClusterWorld.seen` says it."""
        if cell.kind is Kind.UNUSED_PORT:
            return self._words(cell, self._answer(_address_and_port(cell)))
        answer, client = self._answer(f"default/{service_of(cell)}"), self._client(cell)
        row = _row(cell, answer)
        if row["onlyFrom"] and not any(client in ip_network(one) for one in row["onlyFrom"]):
            return {DROPPED}
        return self._words(cell, answer)

    def words_for_client(self, cell: Cell) -> set[str]:
        """The same, asked of its client alone."""
        return self._words(cell, self._answer(_address_and_port(cell), str(self._client(cell))))

    def _client(self, cell: Cell) -> IPAddress:
        return ip_address(self._addresses[cell.origin][cell.family == 6])

    def _words(self, cell: Cell, answer: Any) -> set[str]:
        row = _row(cell, answer)
        if row["verdict"] != "served":
            return {VERDICTS[row["verdict"]]}
        return set(self._served(cell, row, answer["frontends"][row["frontend"]]["endpoints"]))

    def _served(self, cell: Cell, row: Row, endpoints: Iterable[Mapping[str, str]]) -> Iterator[str]:
        for endpoint in endpoints:
            host = endpoint["address"].rpartition(":")[0].strip("[]")
            server = self._names[ip_address(host)]
            sees = Client.NODE if row["endpointsSee"] == NODE_SEEN else Client.KEPT
            if row["forwarding"] == "direct" and cell.origin is not Origin.NODE:
                # as the documentation of the command has it: one that reaches itself, and the node's own processes
                sees = {cell.origin: Client.NODE, "node": Client.KEPT}.get(server, sees)
            yield f"{server} sees {sees}"

    def _answer(self, what: str, client: str = "") -> Any:
        key = what, client
        if key not in self._answers:
            query = urlencode({"what": what, "from": client} if client else {"what": what})
            self._asked.request("GET", f"/explain?{query}")
            answer = self._asked.getresponse()
            body = json.loads(answer.read())
            assert answer.status == 200, (what, client, body)
            self._answers[key] = body
        return self._answers[key]


def _address_and_port(cell: Cell) -> str:
    dial = dial_of(cell)
    address, port = dial.target
    return f"{f'[{address}]' if cell.family == 6 else address}:{port}/{dial.protocol.lower()}"


def _row(cell: Cell, answer: Any) -> Row:
    """Of a node port what is said of all addresses of the node."""
    (address, port), is_node_port = dial_of(cell).target, cell.kind in NODE_PORTS
    (row,) = [
        destination["from"][ORIGINS[cell.origin]]
        for destination in answer["destinations"]
        if destination["port"] == port
        and (destination["address"] == address or (is_node_port and _is_of_all(destination, cell)))
    ]
    found: Row = row
    return found


def _is_of_all(destination: Mapping[str, Any], cell: Cell) -> bool:
    return str(destination["to"]).startswith("node port") and str(destination["to"]).endswith(f"(IPv{cell.family})")
