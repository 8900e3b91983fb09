"""What clients notice of pods and of a worker that die under load."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kpf.demo.acts.load import CALM_S, HEADER, claim_no_error, kept_row, row
from kpf.demo.numbers import errors, is_even, times, window
from kpf.demo.scene import KEPT, MEMBERS, SHOP, WORKERS, Scene
from kpf.demo.stage import Stage
from kpf.lab.clients import connect, failures, names
from kpf.lab.listening import queues
from kpf.lab.load import UnderLoad

DEAD_S = 1.4
# an endpoint that failed is tried again after 1 s, then 2, 4, ...
BACK_WITHIN_S = 12.0
# how long the worker does not accept before it is killed, so that connections wait in its queue
HALTED_S = 0.15
# until the status counts the connections that are kept, and no other
COUNTED_WITHIN_S = 5.0
READY = "is ready"
READY_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Outage:
    """Of two pods, in monotonic seconds: from when until when they are dead, alive again, and trusted again.

    `is_over`: trusted again in time. `states`: what kpf said of each of them while they were dead.
    """

    from_s: float
    until_s: float
    alive_s: float
    trusted_s: float
    is_over: bool
    states: Mapping[str, str]


def dead_pods(stage: Stage, scene: Scene) -> None:
    """One pod is killed, another's machine is gone: clients do not notice, and kpf notices when they are back."""
    alive, killed, silent = MEMBERS
    stage.act("Dead pods under load", f"{killed} is killed between two requests, {silent} becomes a black hole")
    with scene.load(kept_at=[alive]) as load:
        stage.doing("all pods are alive")
        stage.pause(CALM_S)
        outage = _outage(stage, scene, load, killed, silent)
        stage.pause(CALM_S)
        report = load.stop()
    after = scene.lab.outside.call(connect, SHOP, 100 * len(MEMBERS))
    during = window(report.new, outage.from_s, outage.until_s)
    rows = [
        row("all alive", window(report.new, 0.0, outage.from_s)),
        row("two dead", during),
        row("returning", window(report.new, outage.until_s, outage.trusted_s)),
        row("all back", window(report.new, outage.trusted_s, float("inf"))),
        row("one by one", after),
        kept_row(report),
    ]
    stage.table(HEADER, rows)
    met = ", ".join(f"{pod} is {state}" for pod, state in outage.states.items())
    back_s = outage.trusted_s - outage.alive_s
    stage.say(f"  kpf said: {met}; both back in the round {back_s:.1f} s after their return", indent=2)
    claim_no_error(stage, report)
    only = set(outage.states.values()) == {"failing"} and names(during).keys() == {alive}
    stage.claim(f"kpf noticed both dead pods, and {alive} alone served meanwhile", only)
    stage.claim("both are back in the round, and all are exactly even", outage.is_over and is_even(after, MEMBERS))
    stage.result(
        f"{len(failures(during))} errors in {len(during)} connections while 2 of {len(MEMBERS)} pods were dead"
    )


def _outage(stage: Stage, scene: Scene, load: UnderLoad, killed: str, silent: str) -> _Outage:
    # what a pod has begun to answer dies with it, whatever is in front of it
    with load.still():
        from_s = time.monotonic()
        scene.pods[killed].kill()
        scene.pods[silent].vanish()
    stage.doing(f"{killed} is killed, {silent} is a black hole")
    stage.pause(DEAD_S)
    with load.still():
        until_s = time.monotonic()
        meanwhile = scene.endpoints()
    scene.pods[killed].start()
    scene.pods[silent].come_back()
    alive_s = time.monotonic()
    stage.doing(f"{killed} and {silent} return: kpf tries them again")
    is_over = stage.wait_for(lambda: _all_healthy(scene), BACK_WITHIN_S)
    states = {pod: meanwhile[pod]["state"] for pod in (killed, silent)}
    return _Outage(from_s, until_s, alive_s, time.monotonic(), is_over, states)


def _all_healthy(scene: Scene) -> bool:
    return all(endpoint["state"] == "healthy" for endpoint in scene.endpoints().values())


def dead_worker(stage: Stage, scene: Scene) -> None:
    """A worker is killed: what it had accepted is lost, what waited for it is not, and it is replaced."""
    stage.act("Dead worker under load", f"one of {WORKERS} worker processes is killed")
    ready = scene.daemon.log().count(READY)
    with scene.load() as load:
        with load.still():
            stage.wait_for(lambda: sum(_active(scene).values()) == KEPT, COUNTED_WITHIN_S)
            kept = _active(scene)
        stage.doing("both workers are alive")
        stage.pause(CALM_S)
        victim = next(iter(kept))
        os.kill(victim, signal.SIGSTOP)
        stage.pause(HALTED_S)
        queued = sum(queues())
        os.kill(victim, signal.SIGKILL)
        killed_s = time.monotonic()
        stage.doing(f"worker {victim} is killed")
        is_replaced = stage.wait_for(lambda: scene.daemon.log().count(READY) > ready, READY_WITHIN_S)
        replaced_s = time.monotonic() - killed_s
        stage.pause(CALM_S)
        report = load.stop()
    own = scene.daemon.active_at_deaths().get(victim, 0)
    failed, cut = len(failures(report.new)), len(failures(report.asked))
    rows = [
        ("new", len(report.new), failed, errors(report.new), *times(report.new)),
        ("kept", sum(report.kept.values()), cut, errors(report.asked), *times(report.asked)),
    ]
    stage.table(("connections", "made", "failed", "how", "median", "slowest"), rows)
    stage.say(
        f"  worker {victim} died with {own} connections, {queued} more in its queue; its successor was ready "
        f"{replaced_s:.2f} s later",
        indent=2,
    )
    others = KEPT - kept[victim]
    stage.claim(f"no more than the dead worker's own {own} failed: {failed + cut}", failed + cut <= own)
    stage.claim(f"the {others} kept connections of the other worker go on", 0 < others <= KEPT - cut)
    stage.claim("the worker is replaced, and its successor serves", is_replaced and _all_serve(scene))
    stage.result(f"{failed} of {len(report.new)} new connections failed; successor after {replaced_s:.2f} s")


def _active(scene: Scene) -> dict[int, int]:
    return {worker["pid"]: worker["connectionsActive"] for worker in scene.workers()}


def _all_serve(scene: Scene) -> bool:
    before = scene.workers()
    scene.lab.outside.call(connect, SHOP, 100)
    totals = zip(before, scene.workers(), strict=True)
    return all(now["connectionsTotal"] > then["connectionsTotal"] for then, now in totals)
