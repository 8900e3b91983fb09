"""The state of the daemon for people, line by line. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kpf.commands.amounts import count, rate, seconds_between, size, span
from kpf.commands.tables import Cell, Column, Paper, cut, natural_width, painted, printable, table, wrapped
from kpf.master.identity import NOT_TOLD_APART

State = Mapping[str, Any]

_STYLES = {"healthy": "good", "failing": "bad", "terminating": "warn", "unknown": "dim"}
# of a screen: a line between, titles, how many more there are, and where the cursor is
_AROUND = 4
_SERVICE = Column("SERVICE", may_be_cut=True)


class Options(NamedTuple):
    """`is_wide`: all columns. `only_unhealthy`: of endpoints those that fail; of Services that is known."""

    is_wide: bool = False
    only_unhealthy: bool = False


def name_of(service: State) -> str:
    """As every row has it."""
    port = f":{service['port']}" if service["port"] else ""
    suffix = "" if service["protocol"] == "TCP" else f"/{service['protocol'].lower()}"
    return printable(f"{service['namespace']}/{service['name']}{port}{suffix}")


def is_unhealthy(service: State) -> bool:
    """An endpoint of it fails, or there is none."""
    return not service["endpoints"] or any(one["state"] == "failing" for one in service["endpoints"])


def lines(state: State, paper: Paper, options: Options, now: str) -> Iterator[str]:
    """All of it. `state` is the JSON of the daemon; `now` as its moments."""
    yield from head(state, paper, now)
    services = state["services"]
    if not options.only_unhealthy:
        yield ""
        yield from workers(state["workers"], paper)
    if not services:
        yield ""
        yield "No Service is unhealthy." if options.only_unhealthy else "No Services."
        return
    hidden = list[str]()
    for wanted, rows in (
        (_SERVICE_COLUMNS, [_service_row(one) for one in services]),
        (_ENDPOINT_COLUMNS, list(_endpoint_rows(services, options, now))),
    ):
        yield ""
        yield from _chosen(wanted, rows, paper, options, hidden)
    if hidden and paper.width is not None:
        yield ""
        titles = ", ".join(one.lower() for one in dict.fromkeys(hidden))
        yield from wrapped(f"More with -o wide, or on a wider terminal: {titles}", paper)


def head(state: State, paper: Paper, now: str) -> Iterator[str]:
    """What is to be said of the daemon, and its problems."""
    is_synced = state["synced"]
    condition = painted("in sync" if is_synced else "NOT IN SYNC", "good" if is_synced else "bad", paper)
    draining = ", draining" if state["draining"] else ""
    yield (
        f"kpf {state['version']} on {printable(state['node'])}, up {span(state['uptimeSeconds'])}, "
        f"generation {state['generation']}, {condition}{draining}"
    )
    if state["proxyAddresses"]:
        yield f"portals are sent to {', '.join(state['proxyAddresses'])}"
    for trouble in state["troubles"]:
        yield from wrapped(f"the source of Services does not tell what it has: {printable(trouble)}", paper)
    if state["workerUser"] is None:
        yield from wrapped(NOT_TOLD_APART, paper)
    for problem in state["problems"]:
        told = ": ".join(filter(None, (problem[part] for part in ("origin", "object", "field", "message"))))
        since = f"for {span(seconds_between(problem['since'], now))}"
        stays = "; the version before it stays in force" if problem["lastStays"] else ""
        first, *others = wrapped(f"problem {printable(told)} ({since}{stays})", paper)
        yield first.replace("problem", painted("problem", "bad", paper), 1)
        yield from others


def workers(told: Sequence[State], paper: Paper) -> Iterator[str]:
    """A row a worker."""
    columns = [Column("WORKER"), Column("PID"), Column("STATE")]
    columns += [Column(title, is_number=True) for title in ("ACTIVE", "TOTAL", "RESTARTS")]
    rows = [
        [
            Cell(str(one["slot"])),
            Cell(str(one["pid"] or "-")),
            Cell(one["state"], "good" if one["state"] == "ready" else "warn"),
            *(Cell(str(one[key])) for key in ("connectionsActive", "connectionsTotal", "restarts")),
        ]
        for one in told
    ]
    yield from table(columns, rows, paper)


# with True: in the narrow form, too
Columns = Sequence[tuple[Column, bool]]

_SERVICE_COLUMNS: Columns = (
    (_SERVICE, True),
    (Column("PORTALS", may_be_cut=True), True),
    (Column("FORWARDING", may_be_cut=True), True),
    (Column("PROXY PORTS"), False),
    (Column("AFFINITY"), False),
    (Column("ACTIVE", is_number=True), True),
    (Column("TOTAL", is_number=True), True),
    (Column("BYTES IN", is_number=True), False),
    (Column("OUT", is_number=True), False),
    (Column("RETRIES", is_number=True), False),
    (Column("FAILED", is_number=True), True),
)
_ENDPOINT_COLUMNS: Columns = (
    (_SERVICE, True),
    (Column("ENDPOINT", may_be_cut=True), True),
    (Column("NODE", may_be_cut=True), False),
    (Column("POD", may_be_cut=True), False),
    (Column("STATE"), True),
    (Column("SINCE"), False),
    (Column("NEXT TRY"), False),
    (Column("ACTIVE", is_number=True), True),
    (Column("TOTAL", is_number=True), True),
    (Column("FAILED", is_number=True), True),
)


def _chosen(
    wanted: Columns, rows: Sequence[Sequence[Cell]], paper: Paper, options: Options, hidden: list[str]
) -> Iterator[str]:
    """All columns, if they are asked for, or there is room; else titles of those left out are added to `hidden`."""
    columns = [column for column, _ in wanted]
    has_room = paper.width is not None and natural_width(columns, rows) <= paper.width
    if not options.is_wide and not has_room:
        hidden += [column.title for column, is_always in wanted if not is_always]
        kept = [index for index, (_, is_always) in enumerate(wanted) if is_always]
        columns, rows = [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
    yield from table(columns, rows, Paper(None, paper.is_coloured) if options.is_wide else paper)


def portals_of(service: State) -> str:
    """Its portals, and its node port."""
    node_port = [f"node port {service['nodePort']}"] if service["nodePort"] else []
    return ", ".join([*service["portals"], *node_port])


def forwarding_of(service: State) -> str:
    """With what is special about it."""
    notes = {"directFromElsewhere": "direct from elsewhere", "limited": "limited: may come back"}
    return ", ".join([service["forwarding"], *(text for key, text in notes.items() if service[key])])


def _service_row(service: State) -> list[Cell]:
    ports = dict.fromkeys(str(one["port"]) for one in service["proxyPorts"])
    seconds, failed = service["affinityTimeoutSeconds"], service["connectionsFailed"]
    return [
        Cell(name_of(service), "bad" if is_unhealthy(service) else ""),
        Cell(portals_of(service)),
        Cell(forwarding_of(service)),
        Cell(", ".join(ports) or "-"),
        Cell(f"ClientIP {span(seconds)}" if seconds else "-"),
        Cell(count(service["connectionsActive"])),
        Cell(count(service["connectionsTotal"])),
        Cell(size(service["bytesIn"])),
        Cell(size(service["bytesOut"])),
        Cell(count(service["dialRetries"])),
        Cell(count(None if failed is None else sum(failed.values())), "bad" if failed else ""),
    ]


def _endpoint_rows(services: Iterable[State], options: Options, now: str) -> Iterator[list[Cell]]:
    for service in services:
        name = Cell(name_of(service))
        for one in service["endpoints"]:
            if one["state"] == "failing" or not options.only_unhealthy:
                yield [name, *_endpoint(one, now)]
        if not service["endpoints"]:
            # without an endpoint it is refused, or dropped where another node has one
            yield [name, Cell("none", "bad"), *[Cell("-")] * (len(_ENDPOINT_COLUMNS) - 2)]


def _endpoint(one: State, now: str) -> list[Cell]:
    reason = f" ({one['reason']})" if one["reason"] else ""
    return [
        Cell(one["address"]),
        Cell(printable(one["node"]) or "-"),
        Cell(printable(one["pod"]) or "-"),
        Cell(one["state"] + reason, _STYLES.get(one["state"], "")),
        Cell(f"{span(seconds_between(one['since'], now))} ago" if one["since"] else "-"),
        Cell(f"in {span(seconds_between(now, one['nextTry']))}" if one["nextTry"] else "-"),
        *(Cell(count(one[key])) for key in ("connectionsActive", "connectionsTotal")),
        Cell(count(one["dialFailures"]), "bad" if one["dialFailures"] else ""),
    ]


class Sample(NamedTuple):
    """A state, and when it was told: `at_s` of CLOCK_MONOTONIC."""

    state: State
    at_s: float


def watched(before: Sample | None, last: Sample, paper: Paper, *, height: int | None, now: str) -> list[str]:
    """What has happened since the sample before, the busiest Service first, in so many lines; None: in any number."""
    told = [*head({**last.state, "problems": []}, Paper(), now)]
    if paper.width is not None:
        told = [cut(line, paper.width) for line in told]
    if problems := len(last.state["problems"]):
        told.append(painted(f"problems: {problems}", "bad", paper))
    rows = list(_watched_rows(before, last, paper))
    room = len(rows) if height is None else max(height - len(told) - _AROUND, 1)
    more = [f"and {len(rows) - 1 - room} more"] if len(rows) - 1 > room else []
    return [*told, "", *rows[: room + 1], *more]


def _watched_rows(before: Sample | None, last: Sample, paper: Paper) -> Iterator[str]:
    names = ("ACTIVE", "NEW/S", "IN/S", "OUT/S", "FAILED")
    columns = [_SERVICE, Column("ENDPOINTS"), *(Column(name, is_number=True) for name in names)]
    known = {name_of(one): one for one in before.state["services"]} if before else {}
    elapsed_s = last.at_s - before.at_s if before else 0.0
    found = [(one, _rates(known.get(name_of(one)), one, elapsed_s)) for one in last.state["services"]]
    # a stable order among those that do nothing
    found.sort(key=lambda pair: [-(value or 0) for value in pair[1]])
    yield from table(columns, [_watched_row(*pair) for pair in found], paper)


def _rates(before: State | None, now: State, elapsed_s: float) -> list[float | None]:
    """Connections, bytes in and out per second; None where that is not known."""
    keys = ("connectionsTotal", "bytesIn", "bytesOut")
    if before is None or elapsed_s <= 0 or now["connectionsTotal"] is None or before["connectionsTotal"] is None:
        return [None] * len(keys)
    # whoever has taken over may have begun to count anew
    return [max(now[key] - before[key], 0) / elapsed_s for key in keys]


def _watched_row(service: State, rates: Sequence[float | None]) -> list[Cell]:
    endpoints, failed = service["endpoints"], service["connectionsFailed"]
    failing = sum(one["state"] == "failing" for one in endpoints)
    told = f"{len(endpoints)}, {failing} failing" if failing else str(len(endpoints))
    return [
        Cell(name_of(service)),
        Cell(told, "bad" if is_unhealthy(service) else "good"),
        Cell(count(service["connectionsActive"])),
        Cell(rate(rates[0])),
        *(Cell(size(value)) for value in rates[1:]),
        Cell(count(None if failed is None else sum(failed.values())), "bad" if failed else ""),
    ]
