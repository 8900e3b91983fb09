"""The loads, against `perf.serve` and against servers that go wrong: errors are counted, the load goes on."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import psutil
import pytest

from kpf.lab.machine import Machine
from perf import own
from perf.cpu import Meter
from perf.load import bulk, client, idle, kept, short, slow
from perf.load.arrivals import arrivals
from perf.load.result import Address, Result
from tests.misbehaving import Behaviour, behaving, reset

TARGET, TARGET_6 = ("127.0.0.1", 18090), ("::1", 18090)
NOBODY = ("127.0.0.1", 1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
MIB = 1 << 20

Closes = Literal["server", "client"]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with own.backends(Machine(), [TARGET, TARGET_6]):
        yield


WRONG: list[tuple[Behaviour, str]] = [
    (reset, "ECONNRESET"),
    (lambda _: None, "closed without an answer"),
    (lambda client: client.sendall(OK + b"bo"), "answer cut short"),
    (lambda client: client.sendall(OK + b"bodybody"), "wrong answer"),
    (lambda client: client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "wrong answer"),
]


@pytest.mark.parametrize("closes", ["server", "client"])
def test_short_connections_are_answered_from_all_sources(closes: Closes) -> None:
    sources = ["127.0.0.1", "127.0.0.2"]
    result = short.connections(TARGET, seconds=0.2, at_once=8, sources=sources, closes=closes)
    assert result.errors == {}
    assert result.units == len(result.latencies_s) > 8
    assert 0.1 < result.seconds < 2
    assert min(result.latencies_s) > 0
    assert max(result.latencies_s) < result.seconds


def test_latency_of_a_short_connection_has_its_connect_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    connect_s = 0.05

    def dial_slowly(target: Address, source: str) -> socket.socket:
        time.sleep(connect_s)
        return client.dial(target, source)

    monkeypatch.setattr(short, "dial", dial_slowly)
    result = short.connections(TARGET, seconds=0.01, at_once=1)
    assert min(result.latencies_s) >= connect_s


def test_short_connections_over_ipv6() -> None:
    result = short.connections(TARGET_6, seconds=0.1, at_once=2, sources=["::1"])
    assert result.errors == {}
    assert result.units > 2


@pytest.mark.parametrize(("behaviour", "name"), WRONG)
@pytest.mark.parametrize("closes", ["server", "client"])
def test_short_connections_that_fail_are_counted(behaviour: Behaviour, name: str, closes: Closes) -> None:
    with behaving(behaviour) as target:
        result = short.connections(target, seconds=0.05, at_once=2, closes=closes)
    assert result.units == 0
    assert result.errors.keys() == {name}
    assert result.errors[name] > 2


def test_refused_connections_are_counted_and_tried_again_only_so_often() -> None:
    result = short.connections(NOBODY, seconds=0.2, at_once=8)
    assert result.errors.keys() == {"ECONNREFUSED"}
    assert 2 <= result.errors["ECONNREFUSED"] <= 21


def test_silent_servers_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = short.connections(listener.getsockname(), seconds=0.1, at_once=3)
    assert result.errors == {"timed out": 3}


def test_arrivals_tell_who_answered_when() -> None:
    found = arrivals(TARGET, seconds=0.1, at_once=2)
    assert found.began_s.keys() == {"127.0.0.1:18090"}
    moments = found.began_s["127.0.0.1:18090"]
    assert len(moments) == found.result.units > 2
    assert max(moments) - min(moments) < 1


def test_closed_loop_requests_are_answered() -> None:
    result = kept.requests(TARGET, seconds=0.2, connections=4, sources=["127.0.0.1", "127.0.0.2"])
    assert result.errors == {}
    assert result.units == len(result.latencies_s) > 40


def test_open_loop_requests_are_all_asked_at_their_rate() -> None:
    result = kept.requests(TARGET, seconds=0.3, connections=4, rate_per_s=200)
    assert result.errors == {}
    assert result.units == 60
    assert 0.25 < result.seconds < 2


def test_open_loop_latency_counts_from_when_a_request_was_due() -> None:
    service_s = 0.02

    def answer_slowly(client: socket.socket) -> None:
        pause = threading.Event()
        asked = True
        while asked:
            pause.wait(service_s)
            client.sendall(OK + b"body")
            asked = bool(client.recv(4096))

    with behaving(answer_slowly) as target:
        result = kept.requests(target, seconds=0.2, connections=1, rate_per_s=100)
    assert result.units == 20
    # each waits for the one before: the last of 20 was due after 0.19 s and is answered after 0.4 s
    assert max(result.latencies_s) >= 20 * service_s - 0.2
    assert result.latencies_s[0] < max(result.latencies_s) / 2


@pytest.mark.parametrize(("behaviour", "name"), [one for one in WRONG if one[1] != "wrong answer"])
def test_kept_connections_that_fail_are_counted_and_opened_anew(behaviour: Behaviour, name: str) -> None:
    with behaving(behaviour) as target:
        result = kept.requests(target, seconds=0.1, connections=2)
    assert result.units == 0
    assert result.errors.keys() == {name}
    assert result.errors[name] > 2


def test_requests_go_on_when_a_server_closes_between_them() -> None:
    with behaving(lambda client: client.sendall(OK + b"body")) as target:
        result = kept.requests(target, seconds=0.2, connections=2)
    assert result.units > 2
    assert result.errors.keys() <= {"ECONNRESET", "EPIPE", "closed without an answer", "closed while idle"}
    assert sum(result.errors.values()) > 2


@pytest.mark.parametrize(("load", "directions"), [(bulk.download, 1), (bulk.upload, 1), (bulk.both, 2)])
def test_every_byte_is_moved(load: Callable[..., Result], directions: int) -> None:
    result = load(TARGET, connections=2, bytes_each=MIB + 1, sources=["127.0.0.1", "127.0.0.2"])
    assert result.errors == {}
    assert result.units == 2 * directions * (MIB + 1)
    assert len(result.latencies_s) == 0


def _half(client: socket.socket) -> None:
    client.sendall(OK.replace(b"4", b"%d" % MIB) + bytes(MIB // 2))


def test_a_download_that_is_cut_short_is_counted() -> None:
    with behaving(_half) as target:
        result = bulk.download(target, connections=2, bytes_each=MIB)
    assert result.errors == {"answer cut short": 2}
    assert result.units == 2 * (MIB // 2)


def test_a_download_that_stalls_is_counted() -> None:
    def send_half_and_wait(client: socket.socket) -> None:
        _half(client)
        client.recv(1)

    with behaving(send_half_and_wait) as target:
        result = bulk.download(target, connections=1, bytes_each=MIB, stall_s=0.1)
    assert result.errors == {"stalled": 1}
    assert result.units == MIB // 2


def test_an_upload_of_which_bytes_are_missing_is_counted() -> None:
    def miscount(client: socket.socket) -> None:
        client.sendall(OK + b"123\n")
        while client.recv(65536):
            pass

    with behaving(miscount) as target:
        result = bulk.upload(target, connections=1, bytes_each=MIB)
    assert result.errors == {"wrong answer": 1}


@pytest.mark.parametrize("load", [bulk.download, bulk.upload])
def test_bulk_connections_that_are_refused_or_reset_are_counted(load: Callable[..., Result]) -> None:
    assert load(NOBODY, connections=3, bytes_each=1).errors == {"ECONNREFUSED": 3}
    with behaving(reset) as target:
        errors = load(target, connections=3, bytes_each=64 * MIB).errors
    assert sum(errors.values()) == 3
    assert errors.keys() <= {"ECONNRESET", "EPIPE"}


def test_idle_connections_are_opened_woken_and_closed() -> None:
    conversation = idle.hold(TARGET, connections=200, sources=["127.0.0.1", "127.0.0.2"])
    opened = next(conversation)
    assert (opened.units, opened.errors) == (200, {})
    for _ in range(2):
        woken = conversation.send("ping")
        assert (woken.units, woken.errors) == (200, {})
        assert len(woken.latencies_s) == 200
    assert conversation.send("close").units == 0


def test_idle_connections_that_are_closed_meanwhile_are_counted() -> None:
    with behaving(lambda client: client.sendall(OK + b"body")) as target:
        conversation = idle.hold(target, connections=5)
        opened = next(conversation)
        woken = conversation.send("ping")
        conversation.send("close")
    assert opened.units == 5
    assert sum(woken.errors.values()) + sum(opened.errors.values()) >= 5


def test_slow_readers_read_at_their_rate() -> None:
    result = slow.readers(TARGET, connections=3, bytes_each=20_000, bytes_per_s=100_000)
    assert result.errors == {}
    assert result.units == 3 * 20_000
    assert 0.05 < result.seconds < 2


def test_slow_readers_stop_after_their_time_without_an_error() -> None:
    result = slow.readers(TARGET, connections=3, bytes_each=100 * MIB, bytes_per_s=100_000, seconds=0.2)
    assert result.errors == {}
    assert 3 * 5_000 < result.units <= 3 * 30_000


@pytest.mark.parametrize(("behaviour", "name"), [one for one in WRONG if one[1] != "answer cut short"])
def test_slow_readers_that_fail_are_counted(behaviour: Behaviour, name: str) -> None:
    with behaving(behaviour) as target:
        result = slow.readers(target, connections=2, bytes_each=MIB, bytes_per_s=MIB)
    assert result.errors == {name: 2}


def test_slow_readers_that_get_nothing_have_stalled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = slow.readers(listener.getsockname(), connections=2, bytes_each=1, bytes_per_s=1, stall_s=0.1)
    assert result.errors == {"stalled": 2}


BUSY = """
import os, threading, time
def burn(seconds):
    while time.thread_time() < seconds: pass
thread = threading.Thread(target=burn, args=(0.06,))
thread.start(); thread.join()
burn(0.06)
print(flush=True)
input()
"""


def test_cpu_is_that_of_all_threads_also_after_the_end() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = Meter([process.pid, os.getpid()])
        first = meter.read()
        process.stdout.readline()
        second = meter.read()
        spent = second - first
        assert 0.1 < spent.total_s < 1
        assert abs(spent.user_s + spent.system_s - spent.total_s) < 0.05
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert meter.read().total_s >= second.total_s


def test_a_meter_needs_its_processes_to_begin_with() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        Meter([process.pid])
