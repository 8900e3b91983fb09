"""Carries out the steps of a transition: the only place that changes shared memory, listeners and the kernel.

Knows what is in force: which frontends are open, and, of the table's writer, which rules the kernel has. A step that
fails leaves that knowledge right, so the next transition begins where this one ended.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

from kpf.master.addresses import endpoint_of, shared_address
from kpf.master.generations import Generations
from kpf.master.labels import label_of
from kpf.master.listening import ListeningSockets
from kpf.master.workers import Workers
from kpf.model.names import FrontendKey, IPAddress, SocketAddress
from kpf.model.rules import NodePort, Portal, Rules
from kpf.netlink.conntrack import Stale, forget
from kpf.nft.kernel import Kernel
from kpf.plan.allocation import Listener
from kpf.plan.desired import Frontend
from kpf.plan.transition import (
    Announce,
    CloseFrontends,
    FlowsKept,
    Forget,
    InForce,
    OpenFrontends,
    Step,
    UpdateFrontends,
    WriteRules,
)
from kpf.shm.directory import Directory
from kpf.shm.lock import LockBusyError
from kpf.shm.slots import CapacityError

log = logging.getLogger("kpf")

QUIET_S = 0.5
QUIET_LIMIT_S = 2.0
LOCK_RETRY_S = 0.001
# frontends that are opened or changed before others get their turn on the loop
AT_A_TIME = 200

# that is no frontend's own misfortune: the node's address has gone
ADDRESS_GONE = {errno.EADDRNOTAVAIL}


class FrontendsFailedError(Exception):
    """Some frontends of a step could not be opened or changed; the others were. `reasons`: why, in words."""

    def __init__(self, reasons: Mapping[FrontendKey, str]) -> None:
        super().__init__(", ".join(f"{key}: {reason}" for key, reason in reasons.items()))
        self.reasons = reasons


class Effects:
    """Carries out steps, and knows what is in force.

    `closing`: listeners that nobody wants any more, and that are still open; `on_closed`: called when some of them have
    been closed, `on_close` just before, with a frontend and its place in shared memory.
    """

    def __init__(
        self, directory: Directory, listeners: ListeningSockets, workers: Generations | Workers, kernel: Kernel
    ) -> None:
        self._directory, self._listeners, self._workers, self._kernel = directory, listeners, workers, kernel
        self._background: set[asyncio.Task[None]] = set()
        self.now = InForce()
        self.closing: set[Listener] = set()
        self._forget_fails = False
        self.on_closed: Callable[[], None] = lambda: None
        self.on_close: Callable[[FrontendKey, int], None] = lambda *_: None
        self._still_open: frozenset[Listener] | None = None
        # cleared while a predecessor may still go on, whose workers accept on all that it has opened
        self.may_close = asyncio.Event()
        self.may_close.set()
        # frontends of a predecessor's that nobody listens for
        self.orphaned_slots: tuple[int, ...] = ()

    @property
    def rules(self) -> Rules | None:
        """What the kernel is known to have; None if that is not known, and the next sync is a full one."""
        return self._kernel.table.rules

    async def perform(self, step: Step) -> None:
        """Raises `FrontendsFailedError`, `TransactionFailedError`, OSError if the node's address has gone."""
        match step:
            case OpenFrontends(frontends, own_addresses):
                # one may listen elsewhere, and is to be another one's successor
                before = {listener.frontend: listener for listener in self.now.frontends}
                await self._each(frontends, partial(self._open, own_addresses, before))
            case Announce(listeners):
                self.now.unannounced.difference_update(listeners)
                await self._workers.announce(self._listeners.announce(listeners))
            case UpdateFrontends(frontends):
                await self._each(frontends, self._update)
            case WriteRules():
                await self._write(step.old, step.new)
                self.now.unreplied = step.unreplied
            case Forget():
                await self._forget(step)
            case CloseFrontends(listeners):
                self._start_closing(listeners)

    async def _each(self, frontends: Iterable[Frontend], act: Callable[[Frontend], Awaitable[None]]) -> None:
        failed: dict[FrontendKey, str] = {}
        for number, frontend in enumerate(frontends, 1):
            try:
                await act(frontend)
            except CapacityError as error:
                failed[frontend.listener.frontend] = str(error)
            except OSError as error:
                if error.errno in ADDRESS_GONE:
                    raise
                failed[frontend.listener.frontend] = f"{frontend.listener.at}: {error.strerror}"
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
        if failed:
            raise FrontendsFailedError(failed)

    async def _update(self, frontend: Frontend) -> None:
        await self._set_members(self._listeners[frontend.listener].frontend_slot, frontend)
        self.now.frontends[frontend.listener] = frontend

    async def _open(
        self, own_addresses: frozenset[IPAddress], before: Mapping[FrontendKey, Listener], frontend: Frontend
    ) -> None:
        may_go = frontend.listener.at.address not in own_addresses
        slot = self._directory.claim(label_of(frontend.listener.frontend))
        try:
            await self._set_members(slot, frontend)
            if elsewhere := before.get(frontend.listener.frontend):
                self._directory.move(self._listeners[elsewhere].frontend_slot, slot)
            self._listeners.open(frontend.listener, slot, address_may_go=may_go)
        except BaseException:
            self._directory.retire(slot)
            raise
        self.now.frontends[frontend.listener] = frontend
        self.now.unannounced.add(frontend.listener)
        self._still_open = None

    async def _set_members(self, slot: int, frontend: Frontend) -> None:
        members = [shared_address(endpoint) for endpoint in frontend.endpoints]
        timeout_ms = (frontend.affinity_timeout_s or 0) * 1000
        while True:
            try:
                self._directory.set_members(slot, members, affinity_timeout_ms=timeout_ms)
            except LockBusyError:
                # a worker holds it for microseconds, or is stuck and about to be killed
                await asyncio.sleep(LOCK_RETRY_S)
            else:
                self._directory.set_may_loop(slot, frontend.may_loop)
                return

    async def _write(self, old: Rules | None, new: Rules) -> None:
        if old is None:
            await self._kernel.replace(new)
        else:
            await self._kernel.update(old, new)

    async def _forget(self, step: Forget) -> None:
        if step.unreplied or step.flows:
            try:
                await forget(_stale(step))
            except OSError as error:
                # it is tried again and again
                level = logging.DEBUG if self._forget_fails else logging.WARNING
                log.log(
                    level, "clients may go on with what they had before their portal or endpoint changed: %s", error
                )
                self._forget_fails = True
                return
            self._forget_fails = False
        self.now.unreplied = frozenset()
        if self.now.flows is step.was:
            self.now.flows = step.kept

    def doubt_rules(self) -> None:
        """A full sync is due."""
        self._kernel.table.doubt()

    def distrust_table(self) -> None:
        """Somebody else has touched it, and it may have been away.

        Flows that have begun meanwhile lead nowhere, and go with the next sync.
        """
        self._kernel.table.distrust()
        self.now.flows = FlowsKept()

    def take_charge(self) -> None:
        """No predecessor goes on any more: what nobody wants may be closed, and what nobody listens for is over."""
        self.may_close.set()
        for slot in self.orphaned_slots:
            self._directory.retire(slot)
        self.orphaned_slots = ()

    def reread(self) -> None:
        """A successor that has failed may have changed what is in shared memory, and in the kernel."""
        self._directory.reread()
        left = set(self._directory.labels())
        for listener in self.now.frontends:
            slot = self._listeners[listener].frontend_slot
            left.discard(slot)
            self.now.frontends[listener] = frontend_in(self._directory, slot, listener)
        for slot in left:
            self._directory.retire(slot)
        self._kernel.table.forget()
        self.now.flows = FlowsKept()

    def _start_closing(self, listeners: tuple[Listener, ...]) -> None:
        for listener in listeners:
            del self.now.frontends[listener]
            self.now.unannounced.discard(listener)
            self.closing.add(listener)
        task = asyncio.create_task(self._close(listeners))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _close(self, listeners: tuple[Listener, ...]) -> None:
        slots = [self._listeners[listener].frontend_slot for listener in listeners]
        await self.may_close.wait()
        await self.quiet(slots)
        await self._workers.withdraw(self._listeners.withdraw(listeners))
        for listener in listeners:
            slot = self._listeners.close(listener)
            self.on_close(listener.frontend, slot)
            self._directory.retire(slot)
            self.closing.discard(listener)
        self._still_open = None
        self.on_closed()

    async def quiet(self, slots: Iterable[int]) -> None:
        """Wait until nothing has been accepted for a while: what was redirected before may still be on its way."""
        slots = list(slots)
        deadline_s = time.monotonic() + QUIET_LIMIT_S
        seen, since_s = -1, 0.0
        while (now_s := time.monotonic()) < deadline_s:
            total = self._directory.accepted(slots)
            if total != seen:
                seen, since_s = total, now_s
            elif now_s - since_s >= QUIET_S:
                return
            await asyncio.sleep(QUIET_S / 5)

    async def drop_new_connections(self, wanted: Rules) -> None:
        """The last transaction but one. Raises `TransactionFailedError`."""
        await self._write(self.rules, (self.rules or wanted).dropping())

    async def leave_new_connections(self, wanted: Rules) -> None:
        """Instead of that one, to another proxy that has rules here. Raises `TransactionFailedError`."""
        await self._write(self.rules, (self.rules or wanted).stepping_aside())

    async def closed(self) -> None:
        """Return once nothing is being closed any more."""
        await asyncio.gather(*self._background)

    async def finish(self) -> None:
        """Cancel what runs in the background, such as listeners that are being closed, and wait for it."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def still_open(self) -> frozenset[Listener]:
        """All listeners, also those that are being closed."""
        if self._still_open is None:
            self._still_open = frozenset(self.now.frontends).union(self.closing)
        return self._still_open

    def slot_of(self, listener: Listener) -> int | None:
        """The place of an open frontend in shared memory, None if it is not open."""
        return self._listeners[listener].frontend_slot if listener in self.now.frontends else None

    def slots(self) -> Mapping[Listener, int]:
        """The place of each open frontend in shared memory."""
        return {listener: self._listeners[listener].frontend_slot for listener in self.now.frontends}


def frontend_in(directory: Directory, slot: int, listener: Listener) -> Frontend:
    """As shared memory has it."""
    return Frontend(
        listener,
        tuple(map(endpoint_of, directory.addresses(slot))),
        directory.affinity_timeout_ms(slot) // 1000 or None,
        directory.may_loop(slot),
    )


def _stale(step: Forget) -> Stale:
    return Stale(
        tcp=frozenset(SocketAddress(one.address, one.port) for one in step.unreplied if isinstance(one, Portal)),
        tcp_node_ports=frozenset((one.family, one.port) for one in step.unreplied if isinstance(one, NodePort)),
        udp={SocketAddress(one.address, one.port): kept for one, kept in step.flows.items() if isinstance(one, Portal)},
        udp_node_ports={(one.family, one.port): kept for one, kept in step.flows.items() if isinstance(one, NodePort)},
    )
