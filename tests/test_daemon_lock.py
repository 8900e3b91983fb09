"""One daemon per network namespace."""

import asyncio
import errno
import os
import socket
import uuid

import pytest

from kpf.master import lock
from kpf.master.lock import AlreadyRunningError, DaemonLock
from kpf.observe.notify import notify


@pytest.fixture(autouse=True)
def own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ADDRESS", f"\0kpf-test-{uuid.uuid4()}")


def test_a_second_daemon_learns_who_is_in_its_way() -> None:
    async def scene() -> None:
        first = DaemonLock()
        with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
            DaemonLock()
        first.release()
        DaemonLock().release()

    asyncio.run(scene())


def test_orphans_are_dismissed_only_after_the_takeover() -> None:
    async def scene() -> None:
        held = DaemonLock()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as orphan:
            orphan.connect(lock.ADDRESS)
            orphan.setblocking(False)
            await asyncio.sleep(0.02)
            with pytest.raises(BlockingIOError):
                orphan.recv(1)
            held.announce_takeover()
            await asyncio.sleep(0.02)
            assert orphan.recv(1) == b""
        held.release()

    asyncio.run(scene())


@pytest.mark.parametrize("address", ["plain", "@abstract"])
def test_readiness_is_one_datagram(address: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{tmp_path}/notify" if address == "plain" else f"@kpf-notify-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1) if address == "@abstract" else name)
        manager.settimeout(1.0)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_is_no_error(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/nobody")
    notify("STOPPING=1")


def test_without_a_manager_readiness_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_out_of_descriptors_orphans_wait_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RETRY_S", 0.1)
    asked = 0

    async def scene() -> None:
        nonlocal asked
        held = DaemonLock()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as orphan:
            orphan.connect(lock.ADDRESS)
            orphan.setblocking(False)
            listener = held._socket

            class Scarce:
                def accept(self) -> tuple[socket.socket, str]:
                    nonlocal asked
                    asked += 1
                    if asked < 3:
                        raise OSError(errno.EMFILE, "too many open files")
                    return listener.accept()

                def fileno(self) -> int:
                    return listener.fileno()

                def close(self) -> None:
                    listener.close()

            monkeypatch.setattr(held, "_socket", Scarce())
            held.announce_takeover()
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                orphan.recv(1)
            await asyncio.sleep(0.3)
            assert orphan.recv(1) == b""
        held.release()

    asyncio.run(scene())
    assert asked == 3
