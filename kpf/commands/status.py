"""`kpf status`: asks the running daemon over its control socket, and shows the answer."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from kpf.commands import FAILED, OK, no_answer
from kpf.master.identity import NOT_TOLD_APART
from kpf.observe.client import fetch

# nobody's terminal has a width that could be too small
PIPE_COLUMNS = 200


def main(control_socket: str, as_json: bool) -> int:
    """Print the state; FAILED if no daemon answers."""
    try:
        state = fetch(control_socket)
    except OSError as error:
        print(f"kpf status: {no_answer(control_socket, error)}", file=sys.stderr)
        return FAILED
    if as_json:
        sys.stdout.write(orjson.dumps(state, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        # without markup: "[fd00::1]:80" is an address and no style
        show(state, Console(markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS))
    return OK


def show(state: Mapping[str, Any], console: Console) -> None:
    """For people: a line for the whole, tables of workers and of Services. `state` is what `fetch` gives."""
    synced = "in sync" if state["synced"] else "not in sync"
    console.print(
        f"kpf {state['version']} on {state['node']}, up {state['uptimeSeconds']:.0f} s, "
        f"generation {state['generation']}, {synced}",
        highlight=False,
    )
    if state["proxyAddresses"]:
        console.print(f"portals are sent to {', '.join(state['proxyAddresses'])}", highlight=False)
    for trouble in state["troubles"]:
        console.print(f"the source of Services does not tell what it has: {trouble}", highlight=False)
    if state["workerUser"] is None:
        console.print(NOT_TOLD_APART, highlight=False)
    console.print(_workers(state["workers"]))
    console.print(_services(state["services"]))


def _workers(workers: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("worker", "pid", "state", "active", "total", "restarts", title="Workers", title_justify="left")
    table.box = box.SIMPLE_HEAD
    for worker in workers:
        fields = ("slot", "pid", "state", "connectionsActive", "connectionsTotal", "restarts")
        table.add_row(*(str(worker[field]) for field in fields))
    return table


def _services(services: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Services", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("service port", "forwarding", "portals", "endpoint"):
        table.add_column(name, overflow="fold")
    for name in ("state", "active", "total", "failed dials"):
        table.add_column(name, justify="right" if name != "state" else "left", no_wrap=True)
    for service in services:
        name = f"{service['namespace']}/{service['name']}" + (f":{service['port']}" if service["port"] else "")
        portals = [*service["portals"], *([f"node port {service['nodePort']}"] if service["nodePort"] else [])]
        notes = {"directFromElsewhere": "direct from elsewhere", "limited": "limited: may come back"}
        forwarding = ", ".join([service["forwarding"], *(text for name, text in notes.items() if service[name])])
        first = [f"{name} {service['protocol']}", forwarding, "\n".join(portals)]
        endpoints = service["endpoints"] or [None]
        for endpoint in endpoints:
            fields = ("address", "state", "connectionsActive", "connectionsTotal", "dialFailures")
            shown = [_shown(endpoint[field]) for field in fields] if endpoint else ["none: refused", "", "", "", ""]
            table.add_row(*first, *shown, end_section=endpoint is endpoints[-1])
            first = ["", "", ""]
    return table


def _shown(value: object) -> str:
    # of what the kernel forwards nothing is counted
    return "-" if value is None else str(value)
