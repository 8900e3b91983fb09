"""What `kpf explain` says of each cell of the table of every portal, in the words of what a dial finds."""

import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kpf.explain.rows import NODE_SEEN
from tests.e2e.portal_table import dial_of
from tests.e2e.semantics import DROPPED, REFUSED, Cell, Client, Kind, Origin

Row = Mapping[str, Any]
ORIGINS = {
    Origin.OUTSIDE: "elsewhere",
    Origin.REMOTE: "elsewhere",
    Origin.ROUTED: "pods",
    Origin.BRIDGED: "pods",
    Origin.NODE: "node",
}
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
    """Asks a daemon, once for all cells that differ in their origin alone. `addresses`: of each server and origin."""

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
        dial = dial_of(cell)
        address, port = dial.target
        place = f"[{address}]" if cell.family == 6 else address
        client = self._addresses[cell.origin][cell.family == 6] if cell.kind in JUDGED else ""
        answer = self._answer(f"{place}:{port}/{dial.protocol.lower()}", client)
        (destination,) = answer["destinations"]
        row = destination["from"][ORIGINS[cell.origin]]
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

    def _answer(self, what: str, client: str) -> Any:
        key = what, client
        if key not in self._answers:
            query = urlencode({"what": what, "from": client} if client else {"what": what})
            self._asked.request("GET", f"/explain?{query}")
            answer = self._asked.getresponse()
            body = json.loads(answer.read())
            assert answer.status == 200, (what, client, body)
            self._answers[key] = body
        return self._answers[key]
