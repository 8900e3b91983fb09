"""What systemd is told, when it must start kpf anew, and when it must not."""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kpf.observe import notify
from kpf.observe.notify import ServiceManager
from kpf.observe.vitals import SYNC_LIMIT_S, Vitals
from tests.service_manager import FakeManager

WELL = Vitals(
    is_started=True,
    synced=True,
    generation=12,
    services=34,
    workers=4,
    workers_alive=4,
    standing_s=0.0,
    in_kernel=False,
    waiting_s=0.0,
    troubles=(),
)
WELL_TEXT = "generation 12, 34 Services, 4 of 4 workers"
WAITING = replace(WELL, synced=False, generation=0, services=0)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeManager]:
    fake = FakeManager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(fake.path))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield fake
    fake.close()


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10.0))


@pytest.mark.parametrize(
    ("vitals", "text"),
    [
        (WELL, WELL_TEXT),
        (replace(WELL, workers_alive=3), "generation 12, 34 Services, 3 of 4 workers"),
        (
            replace(WELL, waiting_s=61.4),
            f"{WELL_TEXT}; a change has waited for 61 s",
        ),
        (replace(WAITING, is_started=False, workers_alive=0), "starting"),
        (
            replace(WAITING, troubles=("cannot connect",)),
            "waiting for the first sync; the source does not tell what it has: cannot connect",
        ),
        (
            replace(WELL, standing_s=300.0, in_kernel=True),
            f"{WELL_TEXT}; waiting for the kernel to carry out a transaction",
        ),
        (
            replace(WELL, workers_alive=0),
            f"{WELL_TEXT.replace('4 of', '0 of')}; hangs: no worker shows a heartbeat",
        ),
    ],
)
def test_it_says_how_it_is_in_a_line(vitals: Vitals, text: str) -> None:
    assert vitals.text() == text


@pytest.mark.parametrize(
    "vitals",
    [
        WELL,
        replace(WELL, workers_alive=1),
        replace(WELL, standing_s=SYNC_LIMIT_S - 1),
        # another program's transaction may take as long as it likes
        replace(WELL, standing_s=600.0, in_kernel=True),
        # what is refused, and tried again, is nothing that a start would mend
        replace(WELL, waiting_s=3600.0),
        replace(WELL, troubles=("the API server is gone",)),
        replace(WAITING, troubles=("the API server is gone",), waiting_s=3600.0),
        # a start has a bound of its own
        replace(WAITING, is_started=False, workers_alive=0),
    ],
)
def test_a_start_would_not_help(vitals: Vitals) -> None:
    assert vitals.hang() == ""


@pytest.mark.parametrize(
    ("vitals", "hang"),
    [
        (replace(WELL, workers_alive=0), "no worker shows a heartbeat"),
        (replace(WELL, standing_s=SYNC_LIMIT_S + 1), "a sync does not come to an end"),
        (replace(WAITING, standing_s=SYNC_LIMIT_S + 1), "a sync does not come to an end"),
    ],
)
def test_who_hangs_is_not_said_to_live(
    vitals: Vitals,
    hang: str,
    systemd: FakeManager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notify, "BEAT_S", 0.01)
    assert vitals.hang() == hang

    async def scene() -> None:
        now = vitals
        manager = ServiceManager(lambda: now)
        beating = asyncio.create_task(manager.keep_alive())
        await asyncio.sleep(0.1)
        assert caplog.text.count(f"is not told that kpf lives: {hang}") == 1
        assert len(systemd.next()) == 1
        assert systemd.next()[0].endswith(f"hangs: {hang}")
        now = WELL
        await asyncio.sleep(0.1)
        systemd.until("WATCHDOG=1")
        beating.cancel()

    play(scene())


def test_a_start_that_waits_is_extended_until_it_is_over(systemd: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "BEAT_S", 0.01)

    async def scene() -> None:
        manager = ServiceManager(lambda: WAITING)
        beating = asyncio.create_task(manager.keep_alive())
        await asyncio.sleep(0.1)
        for _ in range(3):
            assert systemd.next() == [
                "STATUS=waiting for the first sync",
                "WATCHDOG=1",
                "EXTEND_TIMEOUT_USEC=60000000",
            ]
        manager.ready()
        systemd.until("READY=1")
        await asyncio.sleep(0.05)
        assert systemd.next() == ["STATUS=waiting for the first sync", "WATCHDOG=1"]
        beating.cancel()

    play(scene())


def test_a_reload_is_told_from_its_beginning_to_its_end(systemd: FakeManager) -> None:
    manager = ServiceManager(lambda: WELL)
    manager.ready()
    systemd.next()
    before_us = time.monotonic_ns() // 1000
    manager.reloading()
    begun, moment, status = systemd.next()
    assert (begun, status) == ("RELOADING=1", "STATUS=reloading")
    # systemd 253 and later compare it with their own clock
    name, _, value = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before_us <= int(value) <= time.monotonic_ns() // 1000
    manager.reloaded()
    assert systemd.next() == ["READY=1", f"STATUS={WELL.text()}"]


def test_a_reload_within_the_start_does_not_end_it(systemd: FakeManager) -> None:
    manager = ServiceManager(lambda: WAITING)
    manager.reloading()
    manager.reloaded()
    manager.stopping("stopping", patience_s=1.0)
    assert systemd.next()[0] == "STOPPING=1"


def test_a_stop_says_how_long_it_may_take(systemd: FakeManager) -> None:
    ServiceManager(lambda: WELL).stopping("draining", patience_s=62.5)
    assert systemd.next() == [
        "STOPPING=1",
        "STATUS=draining",
        "EXTEND_TIMEOUT_USEC=62500000",
    ]


def test_a_start_that_is_given_up_is_not_extended_for_ever(
    systemd: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BEAT_S", 0.01)

    async def scene() -> None:
        manager = ServiceManager(lambda: WAITING)
        beating = asyncio.create_task(manager.keep_alive())
        await asyncio.sleep(0.05)
        manager.stopping("stopping", patience_s=1.0)
        await asyncio.sleep(0.05)
        beating.cancel()

    play(scene())
    systemd.until("STOPPING=1")
    assert systemd.next() == ["WATCHDOG=1"]


def test_nobodys_words_become_an_assignment_or_too_many(systemd: FakeManager) -> None:
    """systemd ignores a datagram of more than 4,096 bytes as a whole, and a status that is no UTF-8."""
    words = "x\nMAINPID=1\r\x1b[31m\udcff" + "ä" * 5000
    manager = ServiceManager(lambda: replace(WELL, troubles=(words,)))
    manager.ready()
    told = systemd.next()
    assert [one.partition("=")[0] for one in told] == ["STATUS", "WATCHDOG", "READY"]
    assert "x?MAINPID=1??[31m?ää" in told[0]
    assert len(told[0].encode()) < 1100


@pytest.mark.parametrize(
    ("usec", "pid", "beat_s"),
    [
        ("60000000", "own", notify.BEAT_S),
        ("2000000", "own", 0.5),
        ("2000000", "", 0.5),
        ("2000000", "1", notify.BEAT_S),
        ("0", "own", notify.BEAT_S),
        ("soon", "own", notify.BEAT_S),
        ("", "", notify.BEAT_S),
    ],
)
def test_it_beats_four_times_while_the_manager_waits_once(
    usec: str, pid: str, beat_s: float, systemd: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ServiceManager(lambda: WELL).keep_alive())
    assert slept == [beat_s]
    assert systemd.next()


@pytest.mark.parametrize("kind", ["plain", "abstract"])
def test_it_finds_the_manager(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{tmp_path}/notify" if kind == "plain" else f"@kpf-notify-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as fake:
        fake.bind(name.replace("@", "\0", 1) if kind == "abstract" else name)
        fake.settimeout(1.0)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        ServiceManager(lambda: WELL).stopping("", patience_s=0.0)
        assert fake.recv(100).startswith(b"STOPPING=1\n")


def test_what_was_not_heard_is_said_again_and_complained_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setattr(notify, "BEAT_S", 0.01)

    async def scene() -> None:
        manager = ServiceManager(lambda: WELL)
        manager.ready()
        beating = asyncio.create_task(manager.keep_alive())
        await asyncio.sleep(0.05)
        fake = FakeManager(path)
        await asyncio.sleep(0.05)
        assert fake.next()[-1] == "READY=1"
        assert "READY=1" not in fake.next()
        beating.cancel()
        fake.close()

    play(scene())
    assert caplog.text.count("the service manager cannot be told anything") == 1


def test_a_beat_that_nobody_hears_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "BEAT_S", 0.01)
    path = tmp_path / "notify"
    fake = FakeManager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))

    async def scene() -> None:
        manager = ServiceManager(lambda: WELL)
        manager.ready()
        fake.close()
        beating = asyncio.create_task(manager.keep_alive())
        await asyncio.sleep(0.1)
        beating.cancel()
        assert caplog.text == ""
        manager.reloading()
        manager.reloaded()
        assert caplog.text.count("the service manager cannot be told anything") == 1

    play(scene())


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager = ServiceManager(lambda: replace(WELL, workers_alive=0))
    manager.ready()
    manager.stopping("", patience_s=0.0)
    assert caplog.text == ""
