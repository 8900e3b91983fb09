"""The end of the daemon, of which nothing that hangs may be a part."""

import asyncio
import errno
import logging
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from kpf.master import ending
from kpf.model.rules import Rules
from kpf.netlink.socket import DumpInterruptedError
from kpf.nft import other_proxies
from kpf.nft.kernel import TransactionFailedError

ENDING = """
import asyncio, logging, time
from kpf.master import ending

logging.basicConfig(format="%(message)s")

async def daemon():
    {body}

ending.run(daemon())
"""
# as of a name server that does not answer: the loop's executor asks it
IN_A_THREAD = "asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)"


def run(body: str) -> tuple[int, str, float]:
    """Exit status, what was said, and how many seconds it took."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(body=body)], capture_output=True, text=True, timeout=50, check=False
    )
    return done.returncode, done.stderr, time.monotonic() - began_s


def test_a_thread_of_the_executor_is_not_waited_for() -> None:
    status, said, took_s = run(IN_A_THREAD)
    assert (status, said) == (0, "")
    assert took_s < 20.0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ending.TableStaysError('the table stays')", "the table stays\n"),
        ("PermissionError(1, 'no')", "cannot go on: [Errno 1] no; it "),
        ("ValueError('oops')", "cannot go on by a defect in kpf\nTraceback (most recent call last):\n"),
    ],
)
def test_what_ends_it_is_said(error: str, said: str) -> None:
    status, found, _ = run(f"raise {error}")
    assert status == 1
    assert found.startswith(said)


def test_a_task_that_does_not_end_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "CANCEL_S", 0.05)
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    async def scene() -> None:
        tasks = [asyncio.create_task(one) for one in (stubborn(), asyncio.sleep(60.0))]
        await asyncio.sleep(0)
        await asyncio.wait_for(ending.cancel(tasks), 2.0)
        assert [task.done() for task in tasks] == [False, True]
        let_go.set()
        await tasks[0]

    asyncio.run(scene())
    (record,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert "stubborn" in record.getMessage()


def test_workers_that_do_not_die_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "DEATH_S", 0.05)
    asyncio.run(asyncio.wait_for(ending.death(asyncio.sleep(60.0)), 2.0))
    assert "not all workers died" in caplog.text


def test_a_transaction_that_takes_long_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "TRANSACTION_S", 0.05)
    with pytest.raises(TransactionFailedError, match="within") as failure:
        asyncio.run(asyncio.wait_for(ending.transaction(asyncio.sleep(60.0)), 2.0))
    assert failure.value.errno == errno.ETIMEDOUT


def test_addresses_that_are_not_let_go_of_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "TRANSACTION_S", 0.05)
    with pytest.raises(ending.AddressesStayError, match="within"):
        asyncio.run(asyncio.wait_for(ending.release(asyncio.sleep(60.0)), 2.0))


def test_open_connections_finish_also_if_the_kernel_does_not_tell_what_it_has() -> None:
    """The chains are asked for where what is in force is not known, and their dump may be interrupted for ever."""
    drained = False

    class Effects:
        async def drop_new_connections(self, _: object) -> None:
            raise DumpInterruptedError(errno.EINTR, "what the kernel was asked for changed while it told it")

        def slots(self) -> dict[object, int]:
            return {}

        async def quiet(self, _: object) -> None:
            pass

    class Workers:
        async def drain(self) -> None:
            nonlocal drained
            drained = True

    asyncio.run(ending.drain(Effects(), Workers(), Rules(), patience_s=1.0))  # type: ignore[arg-type]
    assert drained


class _Told:
    """In the place of effects and workers: which of the last transactions was asked for."""

    def __init__(self) -> None:
        self.what: list[str] = []

    async def drop_new_connections(self, _: object) -> None:
        self.what.append("drop")

    async def leave_new_connections(self, _: object) -> None:
        self.what.append("leave")

    def slots(self) -> dict[object, int]:
        return {}

    async def quiet(self, _: object) -> None:
        pass

    async def drain(self) -> None:
        pass


async def _kube_proxys() -> list[str]:
    return ["ip kube-proxy filter-output"]


async def _nothing() -> list[str]:
    return []


async def _refused() -> list[str]:
    raise OSError(errno.EPERM, "no")


async def _stuck() -> list[str]:
    await asyncio.sleep(60.0)
    return []


@pytest.mark.parametrize(
    ("find", "what"), [(_kube_proxys, "leave"), (_nothing, "drop"), (_refused, "drop"), (_stuck, "drop")]
)
def test_new_connections_are_left_to_a_kube_proxy_that_has_rules_here(
    monkeypatch: pytest.MonkeyPatch, find: object, what: str
) -> None:
    monkeypatch.setattr(other_proxies, "find", find)
    monkeypatch.setattr(ending, "TRANSACTION_S", 0.2)
    told = _Told()
    drain = ending.drain(told, told, Rules(), patience_s=1.0)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(drain, 5.0))
    assert told.what == [what]
