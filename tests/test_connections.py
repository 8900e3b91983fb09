"""`kpf connections`: what the master asks its workers, and what it makes of the answers."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from kpf.commands.connections import lines
from kpf.commands.tables import Paper
from kpf.master import connections
from kpf.master.connections import Connections, address_of
from kpf.master.generations import Generations
from kpf.master.labels import label_of
from kpf.master.process import WorkerGoneError
from kpf.net.messages import Told
from kpf.plan.desired import DesiredState
from kpf.shm.directory import Directory
from kpf.shm.layout import ACTIVE
from kpf.shm.region import Region
from tests.connections_world import Worker, told
from tests.test_report import Served
from tests.values import FACTS, endpoints, service


class Daemon:
    """Frontends of Services web and dns, at slots 0 and 1, and these workers, at places 0 and on."""

    def __init__(self, *answers: list[Told | Exception | None], places: int = 2) -> None:
        served = Served(
            FACTS, service(), endpoints("10.0.0.1"), service("dns", cluster_ips=("10.96.0.9",)), endpoints(of="dns")
        )
        self.desired: DesiredState = served.desired
        self.directory = Directory(Region.create())
        self.directory.take_worker_slots(places)
        self.slots = {
            listener.frontend.port.service: self.directory.claim(label_of(listener.frontend))
            for listener in sorted(served.desired.allocation.listeners.values(), key=str)
        }
        self.workers = [Worker(one, pid=100 + index) for index, one in enumerate(answers)]
        generation = SimpleNamespace(processes=lambda: list(enumerate(self.workers)))
        self.asking = Connections(cast(Generations, SimpleNamespace(all=[generation])), self.directory)

    def has_active(self, place: int, count: int) -> None:
        self.directory.region.words[self.directory.region.layout.worker(place) + ACTIVE] = count

    async def ask(self, what: str = "") -> tuple[int, dict[str, Any]]:
        status, body = await self.asking.answered({"what": what}, self.desired)
        answer: dict[str, Any] = orjson.loads(orjson.dumps(body))
        return status, answer


def test_all_workers_are_asked_until_they_have_told_all() -> None:
    daemon = Daemon([told(2, following=64), told(1, first=2)], [told(1, first=9)])
    status, answer = asyncio.run(daemon.ask())
    assert (status, answer["isComplete"], answer["notTold"]) == (200, True, [])
    assert sorted((one["client"], one["worker"], one["pid"]) for one in answer["connections"]) == [
        ("192.0.2.1:0", 0, 100),
        ("192.0.2.1:1", 0, 100),
        ("192.0.2.1:2", 0, 100),
        ("192.0.2.1:9", 1, 101),
    ]
    assert [question.start for question in daemon.workers[0].asked] == [0, 64]


@pytest.mark.parametrize(
    ("what", "frontends", "address"),
    [
        ("web", "web", ""),
        ("default/dns", "dns", ""),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1:8080", None, "10.0.0.1:8080"),
        ("[FD00::1]:80", None, "[fd00::1]:80"),
        ("fd00:0::1", None, "fd00::1"),
    ],
)
def test_workers_are_asked_for_what_is_wanted(what: str, frontends: str | None, address: str) -> None:
    daemon = Daemon([told(0)])
    assert asyncio.run(daemon.ask(what))[0] == 200
    (question,) = daemon.workers[0].asked
    assert question.frontends == (() if frontends is None else (daemon.slots[frontends],))
    assert question.address == address


def test_a_frontend_that_is_closed_still_has_its_name() -> None:
    daemon = Daemon([told(1)], [told(1)])
    slot = daemon.slots["web"]
    daemon.workers = [Worker([told(1, frontend=slot)]), Worker([told(0)])]
    daemon.directory.retire(slot)
    _, answer = asyncio.run(daemon.ask("web"))
    assert [one["name"] for one in answer["connections"]] == ["web"]


@pytest.mark.parametrize(("what", "status"), [("wbe", 404), ("shop/web", 404), ("web:http", 404), ("We b", 400)])
def test_who_asks_for_what_there_is_not_is_told(what: str, status: int) -> None:
    daemon = Daemon([])
    found, answer = asyncio.run(daemon.ask(what))
    assert (found, list(answer)) == (status, ["message"])
    assert daemon.workers[0].asked == []


def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 3)
    daemon = Daemon([told(2, following=64), told(2, following=128), told(2)])
    _, answer = asyncio.run(daemon.ask())
    assert (len(answer["connections"]), answer["isComplete"]) == (3, False)
    assert len(daemon.workers[0].asked) == 2
    assert list(lines(answer, Paper()))[-1].startswith("There are more than these 3")


def test_an_answer_that_is_just_full_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 3)
    _, answer = asyncio.run(Daemon([told(2, following=64), told(1)]).ask())
    assert (len(answer["connections"]), answer["isComplete"]) == (3, True)


def test_who_does_not_answer_is_named_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_S", 0.01)
    daemon = Daemon([None], [told(1), WorkerGoneError("it ended")], places=3)
    for place, count in enumerate((7, 8, 9)):
        daemon.has_active(place, count)

    async def twice() -> list[dict[str, Any]]:
        return [(await daemon.ask())[1], (await daemon.ask())[1]]

    first, second = asyncio.run(twice())
    assert [(one["worker"], one["connectionsActive"], one["why"]) for one in first["notTold"]] == [
        (0, 7, "it does not answer"),
        (2, 9, "it is leaving, and an earlier kpf's"),
    ]
    assert [one["worker"] for one in second["notTold"]] == [0, 1, 2]
    assert len(daemon.workers[0].asked) == 1
    assert list(lines(first, Paper()))[-1] == (
        "Not told: 9 connections of worker 2 (pid 0): it is leaving, and an earlier kpf's"
    )


def test_an_address_is_read_as_workers_write_it() -> None:
    assert [address_of(one) for one in ("10.0.0.1", "[fd00::1]", "web", "10.0.0.1:http", "::ffff:1.2.3.4")] == [
        "10.0.0.1",
        "fd00::1",
        "",
        "",
        "",
    ]


def test_a_row_says_whose_and_how_it_is() -> None:
    one = {
        "namespace": "shop",
        "name": "web",
        "port": "http",
        "client": "[fd00::7]:5000",
        "portal": None,
        "endpoint": "[fd00::1]:80",
        "state": "dialling",
        "ageSeconds": 75.2,
        "bytesIn": 1200,
        "bytesOut": 0,
        "worker": 1,
    }
    answer = {"connections": [one], "isComplete": True, "notTold": []}
    _, row = lines(answer, Paper())
    assert " ".join(row.split()) == "shop/web:http [fd00::7]:5000 - [fd00::1]:80 (dialling) 1 min 15 s 1.2 kB 0 B 1"
    assert list(lines({**answer, "connections": []}, Paper())) == ["No open connections."]
