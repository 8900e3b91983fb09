"""Start and stop, again and again on a busy machine: nobody may be stuck. Run by `make soak`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from kpf.lab.daemon import DaemonFailedError
from kpf.lab.tables import list_tables
from tests import watched
from tests.e2e.world import World

pytestmark = pytest.mark.soak

STARTS = 500
BUSY = 8
# from the start to READY=1, and from the signal to the end
READY_S, END_S = 20.0, 10.0
SHOP = ("10.96.0.10", 80)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Programs that want a CPU each."""
    running = [subprocess.Popen([sys.executable, "-I", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def test_none_of_many_starts_and_stops_gets_stuck(
    world: World, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    world.serve("shop", SHOP[0], world.pods([1, 2]))
    # whoever is stuck says where: see there
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*watched.__path__, os.environ.get("PYTHONPATH", "")]))
    ready_s, end_s, stuck = [], [], list[str]()
    with busy_processes(BUSY):
        for number in range(STARTS):
            daemon = world.daemon()
            daemon.log_path.unlink(missing_ok=True)
            try:
                daemon.start(READY_S)
                ready_s.append(daemon.ready_s)
                began_s = time.monotonic()
                assert daemon.stop(END_S, how=(signal.SIGINT, signal.SIGTERM)[number % 2]) == 0, daemon.log()
                end_s.append(time.monotonic() - began_s)
            except DaemonFailedError as error:
                stuck.append(f"start {number}: {error}")
                print(stuck[-1], flush=True)
            assert list_tables() == []
    slowest_s, last_s = max(ready_s, default=0.0), max(end_s, default=0.0)
    figure(
        f"{STARTS} starts beside {BUSY} busy processes: {len(stuck)} stuck; ready after {slowest_s:.1f} s at most, "
        f"ended after {last_s:.1f} s at most"
    )
    assert stuck == []
