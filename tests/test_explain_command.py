"""`kpf explain` from the command line to the plan and back, over a control socket."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kpf.commands import explain
from kpf.master import explaining
from kpf.master.addresses import shared_address
from kpf.master.effects import Effects
from kpf.model.endpoint import EndpointSlice
from kpf.model.rules import OwnPods
from kpf.model.service import Service
from kpf.observe.http import Servers, ServerSockets
from kpf.shm.balancer import Balancer
from kpf.shm.directory import Directory
from kpf.shm.region import Region, monotonic_ms
from tests.explain_world import planned
from tests.values import FACTS, endpoints, service

POD = "10.244.1.7"
FACTS_IN_CLUSTER = replace(FACTS, own_pods=OwnPods((ip_network("10.244.1.0/24"),)))


class Daemon:
    """What answers of a plan that is in force, and of shared memory."""

    def __init__(self, *objects: Service | EndpointSlice) -> None:
        self.desired = planned(FACTS_IN_CLUSTER, *objects)
        self.directory = Directory(Region.create())
        self.directory.take_worker_slots(1)
        self.slots: dict[object, int] = {}
        for listener, frontend in self.desired.frontends.items():
            self.slots[listener] = slot = self.directory.claim(b"")
            timeout_ms = (frontend.affinity_timeout_s or 0) * 1000
            members = [shared_address(one) for one in frontend.endpoints]
            self.directory.set_members(slot, members, affinity_timeout_ms=timeout_ms)
        self.balancer = Balancer(self.directory.region, 0)

    async def answer(self, query: Mapping[str, str]) -> tuple[int, object]:
        effects = SimpleNamespace(
            rules=self.desired.rules,
            now=SimpleNamespace(frontends=self.desired.frontends),
            slot_of=self.slots.get,
        )
        return await explaining.answered(query, self.desired, cast(Effects, effects), self.directory)

    @contextmanager
    def served(self, path: Path) -> Iterator[None]:
        """At this control socket."""
        is_over, begun = threading.Event(), threading.Event()

        async def serve() -> None:
            servers = Servers(ServerSockets())
            await servers.serve_unix(path, {}, {"/explain": self.answer})
            begun.set()
            await asyncio.to_thread(is_over.wait)
            await servers.close()

        thread = threading.Thread(target=asyncio.run, args=[serve()])
        thread.start()
        try:
            assert begun.wait(5.0)
            yield
        finally:
            is_over.set()
            thread.join()


@pytest.fixture
def daemon() -> Daemon:
    return Daemon(service("web", affinity_timeout_s=10800), endpoints("10.0.0.1", "10.0.0.2"))


def test_the_answer_is_told_to_people_and_as_json(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "control.sock")
    port = next(one.at.port for one in daemon.desired.frontends if one.frontend.family == 4)
    with daemon.served(tmp_path / "control.sock"):
        assert explain.main(path, "10.96.0.1:80", None, as_json=False) == 0
        shown = capsys.readouterr().out
        assert explain.main(path, "10.96.0.1:80", None, as_json=True) == 0
        told = json.loads(capsys.readouterr().out)
    assert shown.splitlines() == [
        "10.96.0.1:80/TCP",
        "  portal of Service default/web: spec.clusterIPs in web.yaml; spec.internalTrafficPolicy: Cluster",
        "  from this node, its pods, elsewhere: served, proxied",
        f"    it is sent to 192.168.1.10 port {port}, and a worker dials an endpoint",
        "    rule: chain redirects, map proxy-ip4",
        "    frontend: default/web/TCP (IPv4), proxied",
        "    endpoints see this node's address",
        f"default/web/TCP (IPv4), proxied, proxy port 192.168.1.10:{port}, ClientIP 10800 s",
        "  10.0.0.1:8080: used",
        "  10.0.0.2:8080: used",
        "Note: 10.96.0.1 is a ClusterIP of Service default/web",
    ]
    assert [one["to"] for one in told["destinations"]] == ["10.96.0.1:80/TCP"]


def test_the_affinity_entry_and_who_is_shut_out_are_those_of_shared_memory(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot, now_ms = min(daemon.slots.values()), monotonic_ms()
    first = daemon.balancer.pick(slot, POD, (), now_ms)
    assert first is not None
    path = str(tmp_path / "control.sock")
    with daemon.served(tmp_path / "control.sock"):
        assert explain.main(path, "10.96.0.1:80", POD, as_json=False) == 0
        kept = capsys.readouterr().out
        assert explain.main(path, "10.96.0.1:80", "10.244.1.8", as_json=False) == 0
        other = capsys.readouterr().out
        daemon.balancer.failed(slot, first.identity, "192.0.2.1", now_ms)
        assert explain.main(path, "10.96.0.1:80", POD, as_json=False) == 0
        out = capsys.readouterr().out
    assert "    session affinity: stays with 10.0.0.1:8080 for 10800 s\n" in kept
    assert "  from its pods: served, proxied\n" in kept
    assert "    session affinity: no entry, it takes the next endpoint in turn\n" in other
    assert "which is shut out: the next one takes it" in out
    assert "  10.0.0.1:8080: left out: shut out: it has failed, and is passed over for a while\n" in out


@pytest.mark.parametrize(
    ("what", "client", "said"),
    [
        ("10.96.0.9:80", None, "nothing of kpf's is at 10.96.0.9:80/TCP; kpf explain 10.96.0.9 shows what is at the"),
        ("default/wbe", None, "no Service default/wbe is served: there is none, or it is headless, of type"),
        ("web", None, "'web' is none of ADDRESS[:PORT], :NODEPORT (both with"),
        ("10.96.0.1:80", "pod", "--from 'pod': must be an IP address"),
    ],
)
def test_what_kpf_does_not_know_is_2_and_one_line(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, client: str | None, said: str
) -> None:
    with daemon.served(tmp_path / "control.sock"):
        assert explain.main(str(tmp_path / "control.sock"), what, client, as_json=True) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"kpf explain: {said}")
    assert err.count("\n") == 1


def test_no_daemon_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "control.sock"
    assert explain.main(str(path), "10.96.0.1:80", None, as_json=False) == 1
    assert capsys.readouterr().err == f"kpf explain: no daemon answers on {path}: No such file or directory\n"


@pytest.mark.parametrize("query", [{}, {"what": "web"}, {"what": "10.96.0.1:80", "from": "pod"}])
def test_the_daemon_refuses_what_the_command_would(daemon: Daemon, query: dict[str, str]) -> None:
    status, body = asyncio.run(daemon.answer(query))
    assert status == 400
    assert isinstance(body, dict)
    assert list(body) == ["message"]


def test_what_somebody_has_written_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon(service("web", origin="a\x1b[31m.yaml\n"), endpoints("10.0.0.1"))
    with daemon.served(tmp_path / "control.sock"):
        assert explain.main(str(tmp_path / "control.sock"), "10.96.0.1:80", None, as_json=False) == 0
    assert "spec.clusterIPs in a?[31m.yaml?; spec" in capsys.readouterr().out


def test_what_is_closed_meanwhile_is_told_as_it_was(daemon: Daemon) -> None:
    frontends = {**daemon.desired.frontends}
    daemon.desired = replace(daemon.desired, frontends=frontends)

    async def ask() -> tuple[int, object]:
        asking = asyncio.create_task(daemon.answer({"what": "10.96.0.1:80"}))
        await asyncio.sleep(0)
        frontends.clear()
        daemon.slots.clear()
        return await asking

    status, answer = asyncio.run(ask())
    assert status == 200
    assert isinstance(answer, dict)
    assert [one["endpointsUsed"] for one in answer["frontends"].values()] == [2]


def test_others_have_their_turns_meanwhile(daemon: Daemon) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask() -> int:
        busy = asyncio.create_task(others())
        status, _ = await daemon.answer({"what": "10.96.0.1"})
        busy.cancel()
        return status

    assert asyncio.run(ask()) == 200
    # two portals, and one frontend at least
    assert turns >= 3
