"""`kpf connections`: asks the running daemon for the open connections, and shows them."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson

from kpf.commands import FAILED, OK, USAGE, no_answer
from kpf.commands.amounts import size, span
from kpf.commands.tables import Cell, Column, Paper, paper_of, printable, table
from kpf.observe.client import ask

_COLUMNS = (
    Column("SERVICE", may_be_cut=True),
    Column("CLIENT", may_be_cut=True),
    Column("PORTAL", may_be_cut=True),
    Column("ENDPOINT", may_be_cut=True),
    Column("AGE", is_number=True),
    Column("IN", is_number=True),
    Column("OUT", is_number=True),
    Column("WORKER", is_number=True),
)


def main(control_socket: str, what: str, as_json: bool) -> int:
    """Print the answer. USAGE if it is no question, FAILED if no daemon answers, or it knows no such Service."""
    try:
        status, answer = ask(control_socket, f"/connections?{urlencode({'what': what})}", timeout_s=30.0)
    except OSError as error:
        return _failed(FAILED, no_answer(control_socket, error))
    if status != 200:
        return _failed(USAGE if status == 400 else FAILED, answer["message"])
    answer["connections"].sort(key=lambda one: -one["ageSeconds"])
    if as_json:
        sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines(answer, paper_of(sys.stdout)))
    return OK


def _failed(status: int, why: str) -> int:
    print(f"kpf connections: {printable(why)}", file=sys.stderr)
    return status


def lines(answer: Mapping[str, Any], paper: Paper) -> Iterator[str]:
    """The answer for people. `answer` is the JSON of the daemon."""
    found = answer["connections"]
    if found:
        yield from table(_COLUMNS, list(map(_row, found)), paper)
    else:
        yield "No open connections."
    if not answer["isComplete"]:
        yield f"There are more than these {len(found)}: ask for a Service, an endpoint or a client."
    for one in answer["notTold"]:
        worker = f"worker {one['worker']} (pid {one['pid']})"
        yield f"Not told: {one['connectionsActive']} connections of {worker}: {one['why']}"


def _row(one: Mapping[str, Any]) -> list[Cell]:
    port = f":{one['port']}" if one["port"] else ""
    state = "" if one["state"] == "open" else f" ({one['state']})"
    return [
        Cell(printable(f"{one['namespace']}/{one['name']}{port}")),
        Cell(one["client"]),
        Cell(one["portal"] or "-"),
        Cell(one["endpoint"] + state, "warn" if state else ""),
        Cell(span(one["ageSeconds"])),
        Cell(size(one["bytesIn"])),
        Cell(size(one["bytesOut"])),
        Cell(str(one["worker"])),
    ]
