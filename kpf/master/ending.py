"""How the daemon ends, whatever else does not: every wait has a bound here.

What the kernel does not let go of ends when it does: a thread in a transaction that waits for another program's cannot
be interrupted, not even by SIGKILL, and until then the kernel keeps the process, which has ended, in its table.
"""

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Awaitable, Collection, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from kpf.master import capabilities
from kpf.master.conversation import HandoverError
from kpf.master.effects import Effects
from kpf.master.generations import Generations
from kpf.master.lock import AlreadyRunningError
from kpf.model.rules import Rules
from kpf.nft import other_proxies
from kpf.nft.kernel import TransactionFailedError
from kpf.stderr import StandardError
from kpf.waiting import waiting_for

log = logging.getLogger("kpf")

T = TypeVar("T")

CANCEL_S = 2.0
DEATH_S = 5.0
TRANSACTION_S = 5.0
# all of them together, and what waits besides, but for open connections
LIMIT_S = 30.0


class ControlSocketError(RuntimeError):
    """The control socket cannot be made."""


class TableStaysError(RuntimeError):
    """The daemon has ended, and its table is still there."""


class AddressesStayError(RuntimeError):
    """The daemon has ended, and addresses of its own are still there."""


def run(daemon: Coroutine[Any, Any, None]) -> NoReturn:
    """Run it, say why it ended if that is not as it should, and leave: 0 if it is, else 1."""
    # not closed: that would wait for the threads of the executor
    runner = asyncio.Runner()
    try:
        runner.run(daemon)
    except PermissionError as error:
        log.error("cannot go on: %s", capabilities.refused(error))
    except (TableStaysError, AddressesStayError) as error:
        log.error("%s", error)
    except (AlreadyRunningError, HandoverError, ControlSocketError, OSError) as error:
        log.error("cannot go on: %s", error)
    except Exception:
        log.exception("cannot go on by a defect in kpf")
    else:
        _leave(0)
    _leave(1)


def _leave(status: int) -> NoReturn:
    """Wait neither for a thread that is in the kernel nor for one that asks a name server."""
    if isinstance(sys.stderr, StandardError):
        sys.stderr.drain()
    os._exit(status)


async def cancel(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """End tasks; those that have not ended after `CANCEL_S` are named and left alone."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=CANCEL_S)
        for task in stuck:
            log.error("a task of kpf does not end: %r", task.get_coro())


async def drain(effects: Effects, workers: Generations, wanted: Rules, *, patience_s: float) -> None:
    """Take no new connections any more, if the kernel lets us, and wait for open ones to finish.

    New ones are dropped, so that they come again and find the next kpf; where kube-proxy has rules, they are left to
    it, who has them at the end of this anyway.
    """
    try:
        if await _is_kube_proxy_here():
            await transaction(effects.leave_new_connections(wanted))
            what = "left to kube-proxy"
        else:
            await transaction(effects.drop_new_connections(wanted))
            what = "dropped"
    except OSError as error:
        log.error("new connections are refused, not dropped; open ones may go on for %g s: %s", patience_s, error)
    else:
        log.info("new connections are %s; open ones may go on for %g s", what, patience_s)
    await effects.quiet(effects.slots().values())
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await workers.drain()


async def _is_kube_proxy_here() -> bool:
    try:
        return bool(await transaction(other_proxies.find()))
    except OSError as error:
        log.warning("kpf cannot see whether kube-proxy has rules here: %s", error)
        return False


async def death(workers: Awaitable[None]) -> None:
    """Wait until all that were killed are gone, `DEATH_S` at most."""
    with waiting_for("the workers to die"):
        try:
            async with asyncio.timeout(DEATH_S):
                await workers
        except TimeoutError:
            log.error("not all workers died within %g s of SIGKILL: the kernel has them", DEATH_S)


async def transaction(one: Awaitable[T]) -> T:
    """Wait for one of the last transactions, `TRANSACTION_S` at most. Raises `TransactionFailedError`."""
    try:
        async with asyncio.timeout(TRANSACTION_S):
            return await one
    except TimeoutError:
        raise TransactionFailedError(
            errno.ETIMEDOUT, f"the kernel has not carried out a transaction within {TRANSACTION_S:g} s"
        ) from None


async def release(addresses: Awaitable[None]) -> None:
    """Wait until kpf's own addresses are taken away, `TRANSACTION_S` at most. Raises `AddressesStayError`."""
    try:
        async with asyncio.timeout(TRANSACTION_S):
            await addresses
    except OSError as error:
        why = str(error) or f"the kernel has not answered within {TRANSACTION_S:g} s"
        raise AddressesStayError(f"addresses on lo are still there, `kpf cleanup` takes them away: {why}") from error
