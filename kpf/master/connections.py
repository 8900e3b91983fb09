"""Answers `kpf connections`: asks the workers, a few sessions at a time, in turns with everything else on the loop."""

import asyncio
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from kpf.master.generations import Generations
from kpf.master.labels import frontend_of
from kpf.master.process import WorkerGoneError, WorkerProcess
from kpf.model.names import ServicePortName, SocketAddress
from kpf.model.parsing import strict_ip
from kpf.model.selection import selection_of
from kpf.net.messages import Tell, Told
from kpf.plan.desired import DesiredState
from kpf.shm.directory import Directory

BAD_QUESTION, UNKNOWN = 400, 404
# of one answer: 6 MB
MOST = 20_000
# of one question to a worker, which names them all
MOST_FRONTENDS = 1_000
ANSWER_S = 2.0

# an IPv6 address is in brackets if a port follows
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})\Z", re.ASCII)


class _UnansweredError(Exception):
    """There is nothing to ask; the arguments are the HTTP status and why."""


@dataclass(slots=True)
class _Found:
    """What has been told so far: `rows`, each as JSON; `labels` and `names` of frontends, by their slots."""

    room: int
    labels: Mapping[int, bytes]
    rows: list[bytes] = field(default_factory=list)
    is_complete: bool = True
    not_told: dict[int, str] = field(default_factory=dict)
    names: dict[int, ServicePortName | None] = field(default_factory=dict)


class Connections:
    """One question after the other. Raises nothing: who does not answer is named."""

    def __init__(self, workers: Generations, directory: Directory) -> None:
        self._workers, self._directory = workers, directory
        self._number, self._turn = itertools.count(1), asyncio.Lock()
        # by pid: what was asked and is not answered yet
        self._late: dict[int, asyncio.Future[Told | None]] = {}

    async def answered(self, query: Mapping[str, str], desired: DesiredState) -> tuple[int, object]:
        """HTTP status and JSON. `query` may have `what`: a Service, an endpoint, or a client."""
        async with self._turn:
            found = _Found(MOST, self._labels())
            self._late = {pid: answer for pid, answer in self._late.items() if not answer.done()}
            try:
                asked = self._asked(query.get("what", ""), desired, found.labels)
            except _UnansweredError as error:
                status, why = error.args
                return status, {"message": why}
            processes = [one for workers in self._workers.all for one in workers.processes()]
            if asked is not None:
                # one after the other: the others have the CPUs for what they are there for
                for place, process in processes:
                    await self._ask(place, process, asked, found)
            strangers = set(self._directory.worker_slots()) - {place for place, _ in processes}
            found.not_told |= dict.fromkeys(strangers, "it is leaving, and an earlier kpf's")
        return 200, {
            "connections": [orjson.Fragment(row) for row in found.rows],
            "isComplete": found.is_complete,
            "notTold": [one for place in sorted(found.not_told) if (one := self._silent(place, found.not_told[place]))],
        }

    def _silent(self, place: int, why: str) -> dict[str, object] | None:
        seen = self._directory.worker(place)
        if not seen.active:
            return None
        return {"worker": place, "pid": seen.pid, "connectionsActive": seen.active, "why": why}

    def _asked(self, what: str, desired: DesiredState, labels: Mapping[int, bytes]) -> Tell | None:
        """To be filled in; None if nothing can be found. Raises `_UnansweredError`."""
        if not what:
            return Tell(0, 0)
        address = address_of(what)
        if address:
            return Tell(0, 0, address=address)
        try:
            wanted = selection_of(what)
        except ValueError:
            message = (
                f"{what[:100]!r} is neither a Service ([NAMESPACE/]NAME[:PORTNAME]) nor an address (ADDRESS[:PORT])"
            )
            raise _UnansweredError(BAD_QUESTION, message) from None
        # thousands of labels are not parsed for one; frontends that are closed may still have sessions
        part = orjson.dumps({"service": wanted.service})[1:-1]
        likely = [(slot, label) for slot, label in labels.items() if part in label]
        slots = tuple(slot for slot, label in likely if wanted.has(frontend_of(label).port))
        if len(slots) > MOST_FRONTENDS:
            raise _UnansweredError(BAD_QUESTION, f"too many Services are called {wanted}: name a namespace")
        known = (claim.frontend.port for claims in desired.captured.values() for claim in claims)
        if not slots and not any(map(wanted.has, known)):
            raise _UnansweredError(UNKNOWN, f"kpf serves no Service {wanted}")
        return Tell(0, 0, frontends=slots) if slots else None

    async def _ask(self, place: int, process: WorkerProcess, asked: Tell, found: _Found) -> None:
        """All that this worker has, as far as there is room."""
        start = 0
        while found.room > 0:
            told = await self._next(process, Tell(next(self._number), start, asked.frontends, asked.address))
            if told is None:
                found.not_told[place] = "it does not answer"
                return
            self._note(told, place, process.pid, found)
            start = told.following
            if not start:
                return
        found.is_complete = False

    async def _next(self, process: WorkerProcess, question: Tell) -> Told | None:
        """None if it does not answer in time, or has ended."""
        if process.pid in self._late:
            return None
        answer = process.send(question)
        await asyncio.wait([answer], timeout=ANSWER_S)
        if not answer.done():
            self._late[process.pid] = answer
            return None
        try:
            return answer.result()
        except WorkerGoneError:
            return None

    def _note(self, told: Told, place: int, pid: int, found: _Found) -> None:
        columns = (told.frontends, told.clients, told.portals, told.endpoints, told.states)
        numbers = (told.ages_ms, told.bytes_in, told.bytes_out)
        rows: list[dict[str, object]] = []
        for frontend, client, portal, endpoint, state, age_ms, bytes_in, bytes_out in zip(
            *columns, *numbers, strict=False
        ):
            name = self._name(frontend, found)
            rows.append(
                {
                    "client": client,
                    "portal": portal or None,
                    "namespace": name.namespace if name else "",
                    "name": name.service if name else "",
                    "port": name.port if name else "",
                    "endpoint": endpoint,
                    "state": state,
                    "ageSeconds": age_ms / 1000,
                    "bytesIn": bytes_in,
                    "bytesOut": bytes_out,
                    "worker": place,
                    "pid": pid,
                }
            )
        found.is_complete &= len(rows) <= found.room
        if rows := rows[: max(found.room, 0)]:
            found.room -= len(rows)
            found.rows += map(orjson.dumps, rows)

    def _labels(self) -> Mapping[int, bytes]:
        return self._directory.labels(with_retired=True)

    def _name(self, slot: int, found: _Found) -> ServicePortName | None:
        if slot not in found.names:
            if slot not in found.labels:
                # it has been opened meanwhile
                found.labels = self._labels()
            label = found.labels.get(slot)
            found.names[slot] = frontend_of(label).port if label else None
        return found.names[slot]


def address_of(what: str) -> str:
    """As workers write it, with its port if it has one; "" if it is no address."""
    with_port = _WITH_PORT.match(what)
    host = (with_port[1] or with_port[2]) if with_port else what.strip("[]")
    try:
        address = strict_ip(host)
    except ValueError:
        return ""
    return str(SocketAddress(address, int(with_port[3]))) if with_port else str(address)
