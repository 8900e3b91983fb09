"""One daemon per network namespace."""

import asyncio
import errno
import logging
import os
import socket
import uuid
from contextlib import ExitStack

import pytest

from kpf.master import lock
from kpf.master.lock import AlreadyRunningError, DaemonLock
from kpf.net import credentials
from kpf.net.credentials import OVERFLOW_ID, Peer, peer_of
from tests.strangers import UID, stranger


@pytest.fixture(autouse=True)
def own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    base = uuid.uuid4()
    monkeypatch.setattr(credentials, "NAMES", [f"\0kpf-test-{base}-{number}" for number in range(4)])


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
            orphan.connect(credentials.NAMES[0])
            orphan.setblocking(False)
            await asyncio.sleep(0.02)
            with pytest.raises(BlockingIOError):
                orphan.recv(1)
            held.announce_takeover()
            await asyncio.sleep(0.02)
            assert orphan.recv(1) == b""
        held.release()

    asyncio.run(scene())


def test_out_of_descriptors_orphans_wait_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RETRY_S", 0.1)
    asked = 0

    async def scene() -> None:
        nonlocal asked
        held = DaemonLock()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as orphan:
            orphan.connect(credentials.NAMES[0])
            orphan.setblocking(False)
            assert held._socket is not None
            listener: socket.socket = held._socket

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


# strangers: anybody may bind an abstract name


def held() -> tuple[str | None, list[str]]:
    """The name that a daemon gets, and what it says."""
    said: list[str] = []

    async def scene() -> str | None:
        made = DaemonLock()
        made.announce_takeover()
        made.release()
        return made.name

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear = Ear()
    lock.log.addHandler(ear)
    try:
        return asyncio.run(scene()), said
    finally:
        lock.log.removeHandler(ear)


@pytest.mark.parametrize("how", ["listens", "root of a user namespace"])
def test_a_stranger_does_not_keep_the_daemon_out_and_is_named(how: str) -> None:
    with stranger(*credentials.NAMES[:2], how=how) as pid:
        name, (said,) = held()
        assert name == credentials.NAMES[2]
        assert said.count(f"by pid {pid} of uid {UID}") == 2
        assert f"@{name[1:]} is used instead" in said


@pytest.mark.parametrize("how", ["bound only", "full"])
def test_a_stranger_who_does_not_answer_does_not_keep_the_daemon_out(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.05)
    with stranger(credentials.NAMES[0], how=how):
        name, (said,) = held()
        assert name == credentials.NAMES[1]
        assert "one that does not answer" in said


def test_strangers_everywhere_do_not_keep_the_daemon_out() -> None:
    with stranger(*credentials.NAMES):
        name, (said,) = held()
        assert name is None
        assert "nothing keeps a second kpf out" in said


def test_no_stranger_no_message() -> None:
    assert held() == (credentials.NAMES[0], [])


@pytest.mark.parametrize("stays", [True, False], ids=["the stranger stays", "the stranger leaves"])
def test_two_daemons_exclude_each_other_whatever_a_stranger_does(stays: bool) -> None:
    async def scene() -> None:
        with ExitStack() as stack:
            stack.enter_context(stranger(credentials.NAMES[0]))
            first = DaemonLock()
            assert first.name == credentials.NAMES[1]
            if not stays:
                stack.close()
            with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
                DaemonLock()
        first.release()
        # and whoever was refused has let go of all
        DaemonLock().release()

    asyncio.run(scene())


def test_a_daemon_that_is_just_about_to_listen_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(credentials.NAMES[0])
            # as soon as somebody has waited for it
            monkeypatch.setattr("time.sleep", lambda _: other.listen())
            with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
                DaemonLock()

    asyncio.run(scene())


def test_root_and_our_own_user_are_no_strangers_but_nobody_in_particular_is() -> None:
    assert Peer(1, 0).is_trusted(1000)
    assert Peer(1, 1000).is_trusted(1000)
    assert not Peer(1, 1001).is_trusted(1000)
    # it may be anybody who has no id in this user namespace
    assert not Peer(1, OVERFLOW_ID).is_trusted(OVERFLOW_ID)


def test_a_lock_that_is_handed_over_tells_of_the_new_holder() -> None:
    async def scene() -> None:
        before = DaemonLock()
        held = before.held
        assert held is not None
        after = DaemonLock.handed_over(held.dup())
        before.release()
        with pytest.raises(AlreadyRunningError):
            DaemonLock()
        after.assume()
        after.announce_takeover()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as orphan:
            orphan.connect(credentials.NAMES[0])
            orphan.setblocking(False)
            await asyncio.sleep(0.02)
            assert orphan.recv(1) == b""
        assert after.name == before.name
        after.release()
        DaemonLock().release()

    asyncio.run(scene())


def test_who_has_called_listen_last_is_who_holds_it() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        held.bind(credentials.NAMES[0])
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            held.listen()
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.close(read)
        try:
            while True:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                    try:
                        asking.connect(credentials.NAMES[0])
                    except ConnectionRefusedError:
                        continue
                    assert peer_of(asking).pid == child
                    break
            DaemonLock.handed_over(held).assume()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(credentials.NAMES[0])
                assert peer_of(asking).pid == os.getpid()
        finally:
            os.close(write)
            os.waitpid(child, 0)


def test_strangers_may_have_had_all_names() -> None:
    lock = DaemonLock.handed_over(None)
    lock.assume()
    assert (lock.name, lock.held) == (None, None)
