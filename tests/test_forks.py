"""Processes of the lab that are forked for us are what started ones are, as far as anybody can tell."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from threading import Timer

import psutil
import pytest

from kpf.lab import namespace
from kpf.lab.interrupts import INTERRUPTS
from kpf.lab.machine import CallFailedError, Machine, wait_until


def _about() -> tuple[int, int, int, set[int], int]:
    """Our pid, session, number of descriptors, blocked interrupts, and how many descriptors there may be."""
    blocked = {int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())} & {*INTERRUPTS}
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return os.getpid(), os.getsid(0), len(os.listdir("/proc/self/fd")), blocked, limit


def test_each_is_alone_in_its_session_whoever_there_is_beside_it() -> None:
    pid, session, descriptors, blocked, limit = Machine().call(_about)
    assert session == pid
    assert blocked == set()
    assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Machine().begin(time.sleep, 60.0), Machine().begin(time.sleep, 60.0):
        other, session, *more = Machine().call(_about)
        assert session == other != pid
        assert more[0] == descriptors


def _network() -> int:
    return os.stat("/proc/self/ns/net").st_ino


def test_each_is_where_the_machine_is() -> None:
    descriptor = namespace.create()
    try:
        there, machine = os.fstat(descriptor).st_ino, Machine(descriptor)
        assert machine.call(_network) == there
        assert Machine().call(_network) == _network() != there
        # without a namespace of its own, a machine is where we are
        with machine.inside():
            assert Machine().call(_network) == there
    finally:
        os.close(descriptor)


def test_what_becomes_of_one_is_known() -> None:
    call = Machine().begin(time.sleep, 60.0)
    with call:
        assert call.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            call.process.wait(0.01)
        os.kill(call.process.pid, signal.SIGTERM)
        assert call.process.wait(10.0) == -signal.SIGTERM
        # and its pid may be somebody else's
        call.process.kill()
        assert call.process.poll() == -signal.SIGTERM
    with Machine().begin(os.getpid) as other:
        assert other.process.wait(10.0) == 0
        assert other.result() == other.process.pid


def _listen() -> Generator[str, str, None]:
    while True:
        yield "ready"


def test_one_that_dies_before_it_has_read_what_it_was_told_has_failed() -> None:
    with Machine().converse(_listen) as talk:
        assert talk.first == "ready"
        os.kill(talk.process.pid, signal.SIGSTOP)
        killing = Timer(0.2, talk.process.kill)
        killing.start()
        with pytest.raises(CallFailedError, match="ended with status -9"):
            talk.send("go on")
        killing.join()


FORK = """
import time
from kpf.lab.machine import Machine
call = Machine().begin(time.sleep, 60.0)
program = Machine().start(["sleep", "60"])
print(call.process.pid, program.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_they_die_with_us(end: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", FORK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        created = [psutil.Process(pid).create_time() for pid in pids]
        process.send_signal(end)
    wait_until(lambda: not any(map(_runs, pids, created)))


def _runs(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
