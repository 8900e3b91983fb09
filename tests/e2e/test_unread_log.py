"""A log that nobody reads: kpf goes on as if somebody did, and says later what is missing."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from kpf.lab.daemon import Daemon
from kpf.lab.manifests import service
from kpf.master.reconcile import PROBLEMS_AT_ONCE
from tests.e2e.world import World, eventually
from tests.test_stderr import NOTE, fill

SHOP = ("10.96.0.10", 80)
HEALTH = "127.0.0.1:10256"
# more than are told at once, which are more lines than the pipe and the queue hold
BAD_SERVICES = 4000


class Unread(Daemon):
    """Its standard error is a pipe that is full before it starts. `descriptor`: what can be read of it."""

    def __init__(self, world: World) -> None:
        super().__init__(
            world.lab.node,
            world.directory,
            manifests=world.manifests.directory,
            args=("--healthz-bind-address", HEALTH, "--log-format", "json"),
        )
        os.mkfifo(self.log_path)
        self.descriptor = os.open(self.log_path, os.O_RDONLY | os.O_NONBLOCK)
        with self.log_path.open("wb", buffering=0) as full:
            fill(full.fileno())

    def log(self) -> str:
        """Not to be read here."""
        return ""


@pytest.fixture
def daemon(world: World) -> Iterator[Unread]:
    """One that has more to say than there is room for."""
    world.serve("shop", SHOP[0], world.pods([1]))
    bad = [service(f"bad-{number}", cluster_ips=["nowhere"]) for number in range(BAD_SERVICES)]
    world.manifests.write_text("bad.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": bad}))
    daemon = Unread(world)
    with daemon:
        yield daemon
    os.close(daemon.descriptor)


def _healthz() -> int:
    with urllib.request.urlopen(f"http://{HEALTH}/healthz", timeout=5.0) as answer:
        status: int = answer.status
        return status


def test_a_log_that_nobody_reads_holds_up_nothing(world: World, daemon: Unread) -> None:
    assert _healthz() == 200
    more = world.pods([2])
    world.serve("more", "10.96.0.11", more)
    eventually(lambda: world.answers(("10.96.0.11", 80)) == {more[0]: 1})
    victim, other = daemon.worker_pids()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(set(daemon.worker_pids()) - {victim}) == 2)
    assert other in daemon.worker_pids()
    assert _healthz() == 200
    began_s = time.monotonic()
    assert daemon.stop(how=signal.SIGTERM) == 0
    assert time.monotonic() - began_s < 5.0


def test_once_it_is_read_it_says_what_is_missing(daemon: Unread) -> None:
    said: list[str] = []
    os.set_blocking(daemon.descriptor, True)

    def read() -> None:
        with os.fdopen(os.dup(daemon.descriptor), encoding="utf-8") as log:
            said.extend(line.rstrip("\n").lstrip(".") for line in log)

    threading.Thread(target=read, daemon=True).start()
    eventually(lambda: any(NOTE.search(line) for line in said))
    (at,) = (number for number, line in enumerate(said) if NOTE.search(line))
    kept = sum("bad-" in line for line in said)
    dropped = NOTE.search(said[at])
    assert dropped
    # and the few lines of the start
    assert 0 <= kept + int(dropped[1]) - PROBLEMS_AT_ONCE < 10
    assert said[at].startswith('{"time":"')
    for round_ in range(1, 4):
        daemon.signal(signal.SIGHUP)
        eventually(lambda: sum("read anew" in line for line in said[at:]) == round_)  # noqa: B023
    assert len([line for line in said if NOTE.search(line)]) == 1
