"""Handovers of thousands of Services: how long they take, and what both generations need. Run by `make soak`."""

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import orjson
import psutil
import pytest

from kpf.lab.daemon import Daemon
from kpf.lab.manifests import endpoint_slice, service
from tests.e2e.restarts.events import status_at_the_end
from tests.e2e.restarts.scene import LONG, daemon_of, observe, processes, serve
from tests.e2e.world import POD_PORT, World

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("forwarding", "nobody_left")]

# a busy machine makes it longer, nothing makes it shorter
TRIES = 3
READY_S = 120.0
# masters and workers beside the listening sockets: kpf.master.parts.OWN_DESCRIPTORS
OWN_DESCRIPTORS = 512


def _many(world: World, count: int) -> None:
    """So many Services of one port and two endpoints, as JSON: what is measured is no parser of YAML."""
    objects = []
    for number in range(count):
        name, address = f"many-{number}", f"10.97.{number >> 8}.{number & 255}"
        pods = [f"10.244.{number % 200}.{pod}" for pod in (10, 11)]
        objects += [service(name, cluster_ips=[address]), endpoint_slice(name, pods, port=POD_PORT)]
    whole = {"apiVersion": "v1", "kind": "List", "items": objects}
    world.manifests.write_text("many.json", orjson.dumps(whole).decode())


def _memory() -> str:
    """Of all that run: masters and workers, in MiB. Shared memory is counted once by PSS, and again in each by RSS."""
    told = []
    for word, what in (("kpf", "masters"), ("kpf.worker", "workers")):
        running = processes(word)
        pss = sum(one.memory_full_info().pss for one in running)
        rss = sum(one.memory_info().rss for one in running)
        told.append(f"{len(running)} {what} PSS {pss / 2**20:.0f}, RSS {rss / 2**20:.0f} MiB")
    return "; ".join(told)


@pytest.mark.parametrize(("services", "workers", "bound_s"), [(5000, 2, 3.0), (2000, 8, 10.0)])
def test_many_services_are_taken_over(
    world: World, figure: Callable[[str], None], services: int, workers: int, bound_s: float
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if services * workers + OWN_DESCRIPTORS > hard:
        pytest.skip(f"{services * workers} listening sockets need more than {hard} descriptors")
    load = serve(world)
    _many(world, services)
    ready_s: list[float] = []
    cpu_s: list[float] = []
    memory: list[str] = []

    @contextmanager
    def taken_over(world: World, first: Daemon) -> Iterator[Daemon]:
        daemons = [first]
        with ExitStack() as running:
            for number in range(TRIES):
                one = daemon_of(world, f"number{number}", workers=workers).start(READY_S)
                running.callback(_stop, one)
                daemons.append(one)
                ready_s.append(one.ready_s)
                cpu_s.append(_cpu_s(one))
                memory.append(_memory())
            yield one
            for former in daemons[:-1]:
                assert status_at_the_end(former, timeout_s=30.0) == 0, former.log()

    with daemon_of(world, "first", workers=workers).start(READY_S) as first:
        memory.append(_memory())
        tally = observe(world, load, first, taken_over, LONG)
    what = f"{services} Services x {workers} workers"
    told = ", ".join(f"{one:.2f} ({cpu:.2f} s of CPU)" for one, cpu in zip(ready_s, cpu_s, strict=True))
    figure(f"{what}: alone ready after {first.ready_s:.2f} s, taken over after {told}")
    for number, text in enumerate(memory):
        figure(f"{what}, {number + 1} daemons started: {text}")
    figure(f"{what}: {tally}")
    assert tally.unnoticed, tally
    assert min(ready_s) <= bound_s


def _cpu_s(daemon: Daemon) -> float:
    """What it and its workers have used so far."""
    master = psutil.Process(daemon.pid)
    times = [one.cpu_times() for one in (master, *master.children())]
    return sum(one.user + one.system for one in times)


def _stop(daemon: Daemon) -> None:
    if daemon.exit_status() is None:
        daemon.stop(30.0)
