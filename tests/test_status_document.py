"""docs/status.md names every key of the JSON, with its type; no more, and no less."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from kpf.master.connections import Connections
from kpf.master.generations import Generations
from kpf.master.own_state import OwnState
from kpf.master.progress import Progress
from kpf.model.endpoint import EndpointPort
from kpf.model.names import Protocol
from kpf.model.service import ServicePort
from kpf.model.snapshot import Problem
from tests.connections_world import Worker, told
from tests.test_report import Served
from tests.values import FACTS, endpoints, service

DOCUMENT = (Path(__file__).parent.parent / "docs" / "status.md").read_text(encoding="utf-8")
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "text": str,
    "number": (int, float),
    "true or false": bool,
    "list": list,
    "list of text": list,
    "map": dict,
    "null": type(None),
}


def documented(heading: str) -> dict[str, str]:
    """By key: its type."""
    section = DOCUMENT.partition(f"\n### {heading}\n")[2] or DOCUMENT.partition(f"\n## {heading}\n")[2]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \| .*\|$", re.split(r"\n##", section)[0], re.M)
    return {key: kind for keys, kind in rows for key in re.findall(r"`(\w+)`", keys)}


def misfits(heading: str, found: Iterable[Mapping[str, Any]]) -> list[str]:
    known, several = documented(heading), list(found)
    assert known, heading
    assert several, heading
    wrong = [f"{heading}: {key}" for one in several for key in known.keys() ^ one.keys()]
    for one in several:
        for key, kind in known.items():
            kinds = [TYPES[kind]] if kind in TYPES else [TYPES[part] for part in kind.split(" or ")]
            value = one.get(key)
            if not any(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for kind in kinds):
                wrong.append(f"{heading}: {key} is {value!r}")
    return wrong


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """Of a daemon with a proxied Service, one that the kernel forwards, a worker that serves, and one that leaves."""
    dns = endpoints("10.0.0.9", of="dns", name="dns", port=53)
    object.__setattr__(dns, "ports", (EndpointPort("", Protocol.UDP, 53),))
    served = Served(
        FACTS,
        service(affinity_timeout_s=10),
        endpoints("10.0.0.1"),
        service("dns", cluster_ips=("10.96.0.9",), ports=(ServicePort("", Protocol.UDP, 53),)),
        dns,
    )
    workers = SimpleNamespace(
        serving=SimpleNamespace(places=(0,), generation=1, privileges=lambda _: "none"),
        slots=[SimpleNamespace(pid=7, state="ready", restarts=0)],
    )
    problems = {Problem("web.yaml", "Service a/b", "spec", "is wrong"): 1.0}
    parts = {
        "source": SimpleNamespace(troubles=()),
        "node": SimpleNamespace(name="node-1", worker_uid=None),
        "kernel": None,
        "directory": served.directory,
        "workers": workers,
        "effects": SimpleNamespace(slot_of=served.slots.get),
        "reconciler": SimpleNamespace(progress=Progress(synced=True), desired=served.desired, problems=problems),
    }
    status, body = asyncio.run(OwnState(**cast(Any, parts)).status({}))
    assert status == 200
    told: dict[str, Any] = orjson.loads(orjson.dumps(body))
    return told


def test_each_key_of_the_state_is_documented(state: dict[str, Any]) -> None:
    wrong = misfits("The daemon", [state])
    for part in ("problems", "workers", "services"):
        wrong += misfits(f"`{part}[]`", state[part])
    wrong += misfits("`services[].endpoints[]`", (one for service in state["services"] for one in service["endpoints"]))
    assert wrong == []
    assert {one["forwarding"] for one in state["services"]} == {"proxied", "direct"}


def test_each_key_of_a_connection_is_documented() -> None:
    served = Served()
    worker = Worker([told(1)])
    generations = SimpleNamespace(all=[SimpleNamespace(processes=lambda: [(0, worker)])])
    asked = Connections(cast(Generations, generations), served.directory)
    _, body = asyncio.run(asked.answered({}, served.desired))
    answer = orjson.loads(orjson.dumps(body))
    assert misfits("Open connections", [answer]) == []
    assert misfits("`connections[]`", answer["connections"]) == []


def test_a_key_that_is_not_documented_is_seen(state: dict[str, Any]) -> None:
    assert misfits("The daemon", [{**state, "extra": 1, "synced": 1}]) == [
        "The daemon: extra",
        "The daemon: synced is 1",
    ]
