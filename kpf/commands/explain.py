"""`kpf explain`: asks the running daemon what becomes of a packet, and shows the answer."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson

from kpf.commands import FAILED, OK, USAGE, no_answer
from kpf.explain.question import BadQuestionError, client_of, what_of
from kpf.observe.client import ask

_WORDS = {"node": "this node", "pods": "its pods", "elsewhere": "elsewhere"}


def main(control_socket: str, what: str, client: str | None, as_json: bool) -> int:
    """Print the answer. USAGE if kpf knows no such thing, FAILED if no daemon answers."""
    try:
        what_of(what)
        query = {"what": what} if client is None else {"what": what, "from": str(client_of(client))}
        status, answer = ask(control_socket, f"/explain?{urlencode(query)}")
    except BadQuestionError as error:
        return _failed(USAGE, error)
    except OSError as error:
        return _failed(FAILED, no_answer(control_socket, error))
    if status != 200:
        return _failed(USAGE, answer["message"])
    if as_json:
        sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.writelines(f"{_printable(line)}\n" for line in lines(answer))
    return OK


def _failed(status: int, why: object) -> int:
    print(f"kpf explain: {_printable(str(why))}", file=sys.stderr)
    return status


def _printable(text: str) -> str:
    """Names are whatever somebody has written."""
    return "".join(one if one.isprintable() else "?" for one in text)


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer for people. `answer` is the JSON of the daemon."""
    if not answer["rulesKnown"]:
        yield "The kernel's rules are being written: this is what they are to be."
    for destination in answer["destinations"]:
        yield from _destination(destination)
    if answer["alsoThere"]:
        yield f"Also there: {', '.join(answer['alsoThere'])}"
    if answer["notShown"]:
        yield f"And {answer['notShown']} more"
    for one in answer["endpointOf"]:
        where = f" on node {one['node']}" if one["node"] else ""
        used = f"left out: {one['leftOut']}" if one["leftOut"] else "used"
        yield f"{one['endpoint']}{where} is an endpoint of {one['frontend']}: {used}"
    for name, frontend in answer["frontends"].items():
        yield from _frontend(name, frontend)
    unknown = [family for family, known in answer["podsKnown"].items() if not known]
    if unknown:
        yield f"Which {' and '.join(unknown)} sources are this node's pods is not known: they are as from elsewhere."
    yield from (f"Note: {one}" for one in answer["notes"])
    for problem in answer["problems"]:
        yield f"Problem: {': '.join(filter(None, problem.values()))}"


def _destination(destination: Mapping[str, Any]) -> Iterator[str]:
    yield destination["to"]
    for portal in destination["portals"]:
        port = f", port {portal['port']}" if portal["port"] else ""
        policy = portal["policy"]
        yield f"  portal of {portal['object']}{port}: {_field(portal)}; {policy['field']}: {policy['value']}"
        for other in portal["alsoClaimedBy"]:
            yield f"  also claimed, in vain, by {other['object']}: {_field(other)}"
    if destination["proxyPortOf"]:
        yield f"  proxy port of {destination['proxyPortOf']}"
    for origins, row in _grouped(destination["from"]):
        yield from _row(origins, row)


def _field(claim: Mapping[str, str]) -> str:
    return claim["field"] + (f" in {claim['origin']}" if claim["origin"] else "")


def _grouped(rows: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Origins of which the same is told have one row."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for origin, row in rows.items():
        same = next((origins for origins, other in groups if other == row), None)
        if same is None:
            groups.append(([_WORDS[origin]], row))
        else:
            same.append(_WORDS[origin])
    return ((", ".join(origins), row) for origins, row in groups)


def _row(origins: str, row: Mapping[str, Any]) -> Iterator[str]:
    forwarding = f", {row['forwarding']}" if row["forwarding"] else ""
    yield f"  from {origins}: {row['verdict']}{forwarding}"
    yield f"    {row['why']}"
    if row["rule"]:
        yield f"    rule: {row['rule']}"
    if row["frontend"]:
        yield f"    frontend: {row['frontend']}"
    if row["endpointsSee"]:
        yield f"    endpoints see {row['endpointsSee']}"
    if row["onlyFrom"]:
        yield f"    only from {', '.join(row['onlyFrom'])}; others are dropped (spec.loadBalancerSourceRanges)"
    if row["planned"]:
        yield f"    planned: {row['planned']}; it is not in force yet"
    if "affinityEntry" in row:
        yield f"    {_affinity(row)}"


def _affinity(row: Mapping[str, Any]) -> str:
    if not row["affinityIsKnown"]:
        return "session affinity: the kernel does not tell"
    entry = row["affinityEntry"]
    if entry is None:
        return "session affinity: no entry, it takes the next endpoint in turn"
    out = ", which is shut out: the next one takes it" if entry["shutOut"] else ""
    return f"session affinity: stays with {entry['endpoint']} for {entry['secondsLeft']:.0f} s{out}"


def _frontend(name: str, frontend: Mapping[str, Any]) -> Iterator[str]:
    place = f", proxy port {frontend['proxyPort']}" if frontend["proxyPort"] else ""
    seconds = frontend["affinityTimeoutSeconds"]
    affinity = f", ClientIP {seconds} s" if seconds else ""
    limited = ", limited: may come back" if frontend["limited"] else ""
    yield f"{name}{place}{affinity}{limited}"
    for key, count in (("endpoints", "endpointsUsed"), ("leftOut", "endpointsLeftOut")):
        for one in frontend[key]:
            node = f" on node {one['node']}" if one["node"] else ""
            reason = f"left out: {one['reason']}" if key == "leftOut" else "used"
            yield f"  {one['address']}{node}: {reason}"
        if more := frontend[count] - len(frontend[key]):
            yield f"  {more} more are {'used' if key == 'endpoints' else 'left out'}"
    if not (frontend["endpointsUsed"] or frontend["endpointsLeftOut"]):
        yield "  no endpoints"
    for one in frontend["slicesWithoutPort"]:
        yield f"  EndpointSlice {one} has endpoints, and no port of this name and protocol"
