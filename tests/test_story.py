"""What the log tells of Services and endpoints: one line a change, summed up in storms, with keys for machines."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from kpf.master import endpoint_watch
from kpf.master.addresses import shared_address
from kpf.master.changes import changes, named
from kpf.master.endpoint_watch import EndpointWatch
from kpf.master.labels import label_of
from kpf.model.names import EndpointSet, Family, FrontendKey, ServicePortName
from kpf.model.service import ServicePort
from kpf.model.snapshot import Problem
from kpf.named import Named
from kpf.observe.story import BURST, REFILL_S, SUM_S, Story
from kpf.plan.allocation import ProxyPorts, allocate
from kpf.plan.desired import DesiredState, desired_state
from kpf.plan.planner import Planner
from kpf.shm.balancer import Balancer, Choice
from kpf.shm.directory import Directory
from kpf.shm.health import EJECTION_FIRST_MS
from kpf.shm.layout import Reason
from kpf.shm.region import Region, monotonic_ms
from tests.values import FACTS, TCP, at, endpoints, service, snapshot


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def keys(record: logging.LogRecord) -> dict[str, Any]:
    assert isinstance(record.args, tuple)
    return {key: value for one in record.args if isinstance(one, Named) for key, value in one.keys.items()}


@pytest.fixture(autouse=True)
def everything_is_heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever another test has set up."""
    monkeypatch.setattr(logging.getLogger("kpf"), "propagate", True)
    caplog.set_level(logging.INFO, "kpf")


def test_a_storm_is_so_many_lines_and_one_that_says_how_many_more(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    story = Story(lambda: now_s)
    for number in range(BURST + 7):
        story.tell("%d more things", logging.WARNING, "thing %d", number)
    story.tell("%d more others", logging.INFO, "another one")
    assert told(caplog) == [*(f"thing {number}" for number in range(BURST)), "another one"]
    now_s = SUM_S - 0.1
    story.tell("%d more things", logging.INFO, "is summed up too, so that order is kept")
    story.settle()
    assert told(caplog) == []
    now_s = SUM_S
    story.settle()
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [("WARNING", "8 more things")]
    caplog.clear()
    story.settle()
    story.tell("%d more things", logging.INFO, "one again")
    assert told(caplog) == ["one again"]


def test_a_trickle_is_told_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    story = Story(lambda: now_s)
    for number in range(BURST * 3):
        story.tell("%d more things", logging.INFO, "thing %d", number)
        now_s += REFILL_S
    assert len(told(caplog)) == BURST * 3


def state(*objects: Any, before: DesiredState | None = None) -> DesiredState:
    plans, ownership = Planner().plan(snapshot(*objects), FACTS)
    ports = ProxyPorts(range(20000, 21000), 1000, lambda _: True)
    return desired_state(plans, allocate(ownership, FACTS, ports, before=before.allocation if before else None), before)


def said(before: DesiredState, now: DesiredState) -> list[str]:
    return [f"{service} {what}" for _, service, what in changes(before, now)]


def test_one_line_a_change_of_a_service() -> None:
    web, pods = service("web", cluster_ips=("10.96.0.1",)), endpoints("10.0.0.1", "10.0.0.2", of="web")
    first = state(web, pods)
    assert said(DesiredState(), first) == ["Service default/web has come: 10.96.0.1:80/TCP; 2 endpoints"]
    assert said(first, state(web, pods, before=first)) == []
    one_less = state(web, endpoints("10.0.0.1", of="web"), before=first)
    assert said(first, one_less) == [], "endpoints come and go all the time"
    none = state(web, before=first)
    assert said(first, none) == ["Service default/web has no endpoint any more"]
    assert said(none, first) == ["Service default/web has endpoints again: 2 endpoints"]
    more = replace(web, ports=(ServicePort("", TCP, 81),))
    assert said(first, state(more, pods, before=first)) == [
        "Service default/web has another portal: 10.96.0.1:81/TCP",
        "Service default/web has lost a portal: 10.96.0.1:80/TCP",
    ]
    assert said(first, state(before=first)) == ["Service default/web has gone: 10.96.0.1:80/TCP"]
    (come,) = changes(DesiredState(), first)
    assert come.service.keys == {"namespace": "default", "service": "web"}
    assert come.kind % 3 == "3 more Services have come"


def test_a_problem_has_keys_for_its_parts() -> None:
    one = named(Problem("web.yaml", "Service shop/web", "spec.clusterIP", "no address"))
    assert one == "web.yaml: Service shop/web: spec.clusterIP: no address"
    assert (one.keys["namespace"], one.keys["service"], one.keys["field"]) == ("shop", "web", "spec.clusterIP")
    assert named(Problem("web.yaml:3", "", "", "no YAML")).keys == {"origin": "web.yaml:3", "reason": "no YAML"}


WEB = ServicePortName("shop", "web", "http", TCP)
PODS = [at("10.0.0.1:8080"), at("10.0.0.2:8080")]
WHO = "endpoint 10.0.0.1:8080 of shop/web:http"


class Watched:
    """A frontend of the cluster and one of this node, whose endpoints are the same."""

    def __init__(self) -> None:
        self.directory = Directory(Region.create())
        (worker,) = self.directory.take_worker_slots(1)
        self.balancer = Balancer(self.directory.region, worker)
        self.slots = [self.directory.claim(label_of(FrontendKey(WEB, Family.IPV4, one))) for one in EndpointSet]
        for slot in self.slots:
            self.directory.set_members(slot, list(map(shared_address, PODS)), affinity_timeout_ms=0)
        self.watch = EndpointWatch(self.directory.region, Story())

    def fail(self, frontend: int, reason: Reason = Reason.REFUSED) -> Choice:
        """The first endpoint, in one of its lists."""
        while True:
            choice = self.balancer.pick(frontend, "10.9.9.9", (), monotonic_ms())
            assert choice is not None
            if choice.address[0] == "10.0.0.1":
                break
        self.directory.region.words[choice.failures + reason] += 1
        self.balancer.failed(frontend, choice.identity, "10.9.9.9", monotonic_ms())
        return choice

    def look(self) -> None:
        self.watch.look()


def test_an_endpoint_goes_down_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    made = Watched()
    made.look()
    assert told(caplog) == []
    everywhere, here = made.slots
    first = made.fail(everywhere)
    made.look()
    made.look()
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("WARNING", f"{WHO} is shut out: connection refused")
    assert keys(line) == {
        "namespace": "shop",
        "service": "web",
        "port": "http",
        "endpoint": "10.0.0.1:8080",
        "reason": "refused",
    }
    caplog.clear()
    # in both of its lists: still one endpoint
    second = made.fail(here)
    made.look()
    made.balancer.answered(everywhere, first.identity, 1)
    made.look()
    assert told(caplog) == []
    made.balancer.answered(here, second.identity, 1)
    made.look()
    (line,) = caplog.records
    assert line.getMessage().startswith(f"{WHO} answers again, after 0.")
    assert 0 <= keys(line)["seconds"] < 60
    caplog.clear()
    # what has failed before is no reason any more
    made.fail(everywhere, Reason.TIMEOUT)
    made.look()
    assert told(caplog) == [f"{WHO} is shut out: no answer"]


def test_an_outage_that_is_seen_first_while_it_is_probed_has_begun_before_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Watched()
    frontend, now_ms = made.slots[0], monotonic_ms()
    choice = made.balancer.pick(frontend, "10.9.9.9", (), now_ms)
    assert choice is not None
    made.balancer.failed(frontend, choice.identity, "10.9.9.9", now_ms - 2 * EJECTION_FIRST_MS)
    while made.balancer.pick(frontend, "10.9.9.9", (), now_ms) != choice:
        pass
    made.look()
    made.balancer.answered(frontend, choice.identity, 1)
    made.look()
    assert keys(caplog.records[-1])["seconds"] >= EJECTION_FIRST_MS / 1000


def test_an_endpoint_that_leaves_does_not_answer_again(caplog: pytest.LogCaptureFixture) -> None:
    made = Watched()
    made.fail(made.slots[0])
    made.look()
    caplog.clear()
    made.directory.set_members(made.slots[0], [shared_address(PODS[1])], affinity_timeout_ms=0)
    made.look()
    (line,) = told(caplog)
    assert line.startswith(f"{WHO} has left, shut out for 0.")


def test_a_silence_that_is_heard_out_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    made = Watched()
    choice = made.balancer.pick(made.slots[0], "10.9.9.9", (), monotonic_ms())
    assert choice is not None
    made.balancer.suspect(made.slots[0], choice.identity, monotonic_ms() + 3000)
    made.look()
    assert told(caplog) == []


def test_it_looks_at_a_part_at_a_time_and_at_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_watch, "AT_A_TIME", 1)
    made = Watched()
    made.fail(made.slots[1])
    waits = [made.watch.look() for _ in range(4)]
    assert sum(waits) == endpoint_watch.PERIOD_S
    assert told(caplog) == [f"{WHO} is shut out: connection refused"]
