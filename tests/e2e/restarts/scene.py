"""Four Services, all that clients do with them, and what they notice of an event."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from kpf.lab.crowd import Address
from kpf.lab.daemon import Daemon
from kpf.lab.flows import Flows, UnderFlows
from kpf.lab.machine import wait_until
from kpf.lab.topology import client_address
from tests.e2e.restarts.load import Kind, Load, Report, UnderRestartLoad
from tests.e2e.restarts.tally import DELAYED_S, Tally, counted_off
from tests.e2e.world import POD_PORT, World

SHOP: Address = ("10.96.0.10", 80)
TURN: Address = ("10.96.0.11", 80)
PINNED: Address = ("10.96.0.12", 80)
DNS: Address = ("10.96.0.53", 53)
CLIENTS = [client_address(number) for number in range(20)]
FLOWS = range(5000, 5020)
DATAGRAMS_PER_S = 200
PODS = range(1, 6)
# its clients do not come through kpf
CONTROL_POD = 6
COUNTED_S = 3.0

# is given the daemon that serves; inside, the event has happened, and the daemon is the one that serves then
Event = Callable[[World, Daemon], AbstractContextManager[Daemon]]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of load before the event, and after it; and how much longer than past kpf is a delay."""

    before_s: float
    after_s: float
    delayed_s: float


# beside other tests: a SYN that is dropped costs a second
SHORT = Times(0.6, 1.0, 0.25)
LONG = Times(2.0, 4.0, DELAYED_S)


def serve(world: World) -> Load:
    """Open the pods, write the Services, and say who is to be dialled."""
    pods, control = world.pods(PODS), world.pods([CONTROL_POD])
    world.pods(PODS, mode="datagrams")
    for name, target in (("shop", SHOP), ("turn", TURN)):
        world.serve(name, target[0], pods)
    world.serve("pinned", PINNED[0], pods, sessionAffinity="ClientIP")
    world.serve("dns", DNS[0], pods, ports=[{"port": DNS[1], "protocol": "UDP"}])
    return Load(SHOP, (control[0], POD_PORT), PINNED, TURN, CLIENTS)


def quiet(_: World, daemon: Daemon) -> AbstractContextManager[Daemon]:
    """Nothing happens for a while: what is noticed even so."""

    @contextmanager
    def nothing() -> Iterator[Daemon]:
        time.sleep(1.0)
        yield daemon

    return nothing()


def observe(world: World, load: Load, daemon: Daemon, event: Event, times: Times = LONG) -> Tally:
    """What clients notice of the event; of a daemon that does not run yet nothing is counted.

    The clients' connections have ended when the event's context is left.
    """
    before = _counted(daemon) if daemon.process is not None else {}
    with ExitStack() as loads:
        clients = loads.enter_context(UnderRestartLoad(world.lab.outside, load))
        flows = loads.enter_context(UnderFlows(world.lab.outside, Flows(DNS, FLOWS, DATAGRAMS_PER_S)))
        time.sleep(times.before_s)
        with event(world, daemon) as last:
            time.sleep(times.after_s)
            report, ended = clients.stop(), flows.stop()
            loads.close()
            return Tally.of(report, ended.values(), _off(before, last, _met(report)), times.delayed_s)


def _met(report: Report) -> dict[str, int]:
    kinds = {"shop": Kind.NEW, "turn": Kind.TURN, "pinned": Kind.PINNED}
    met = {name: sum(not one.error for one in report.outcomes[kind]) for name, kind in kinds.items()}
    met["shop"] += report.kept
    return met


def _counted(daemon: Daemon) -> dict[str, int]:
    services: list[dict[str, Any]] = daemon.status()["services"]
    return {one["name"]: one["connectionsTotal"] for one in services if one["protocol"] == "TCP"}


def _off(before: dict[str, int], daemon: Daemon, met: dict[str, int]) -> dict[str, int]:
    """Once it is settled: a connection that has ended is counted a moment later at most."""
    off: dict[str, int] = {}

    def settled() -> bool:
        off.update(counted_off(before, _counted(daemon), met) if before else {})
        return not any(off.values())

    try:
        wait_until(settled, timeout_s=COUNTED_S)
    except TimeoutError:
        return off
    return off


def processes(word: str) -> list[psutil.Process]:
    """Those of our network namespace that have the word among their arguments."""
    here = os.stat("/proc/self/ns/net").st_ino
    found = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline() and os.stat(f"/proc/{process.pid}/ns/net").st_ino == here:
                found.append(process)
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return found


def end_all() -> None:
    """Whatever has become of masters and workers, those of our network namespace are gone."""
    left = [*processes("kpf"), *processes("kpf.worker")]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5.0)


def daemon_of(world: World, name: str, *args: str, kind: type[Daemon] = Daemon, **options: Any) -> Daemon:
    """A daemon for the world's manifests, not started; its log is its own, its sockets are those of all of them."""
    directory = world.directory / name
    directory.mkdir(exist_ok=True)
    return kind(
        world.lab.node,
        directory,
        manifests=world.manifests.directory,
        args=args,
        handover_socket=world.directory / "handover.sock",
        control_socket=world.directory / "control.sock",
        **options,
    )
