"""ListeningSockets in the hands of real workers: who is told of which, and when they are closed."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from kpf.master import effects, process, workers
from kpf.master.addresses import shared_address
from kpf.master.effects import Effects
from kpf.master.labels import label_of
from kpf.master.listening import ListeningSockets
from kpf.master.supervisor import State
from kpf.master.workers import Workers
from kpf.model.names import EndpointSet, Family, FrontendKey, ServicePortName
from kpf.net.messages import Configure, Listen
from kpf.nft.kernel import Kernel
from kpf.plan.allocation import Listener
from kpf.plan.desired import Frontend
from kpf.plan.transition import Announce, CloseFrontends, OpenFrontends
from kpf.shm.directory import Directory
from kpf.shm.region import Region
from tests.nft_fake import FakeKernel
from tests.values import TCP, at


def configure(slot: int) -> Configure:
    return Configure(0, slot, 1, os.getuid(), os.getgid(), 1.0)


class Shop:
    """One slot, listeners that its workers are told of, and a pod for each; `close` in the end.

    `is_late`: newborns are stopped before they have listened to anybody; `wake` lets them go on.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_late, self._ports = False, itertools.count(23200)
        self.directory, self.listeners = Directory(Region.create()), ListeningSockets(1)
        self.workers = Workers(self.directory, self.listeners, newborn=configure, slots=range(1))
        self.effects = Effects(self.directory, self.listeners, self.workers, cast(Kernel, FakeKernel()))
        self._closed_at_the_end = ExitStack()
        real = process._start

        def start(theirs: Any, slot: int) -> Any:
            child = real(theirs, slot)
            if self.is_late:
                child.send_signal(signal.SIGSTOP)
            return child

        patch.setattr(process, "_start", start)
        patch.setattr(effects, "QUIET_S", 0.0)
        patch.setattr(workers, "ACKNOWLEDGE_S", 0.05)

    @property
    def pid(self) -> int:
        return self.workers.slots[0].pid

    async def frontend(self, name: str) -> Frontend:
        """One with one pod, which says the name. It is not open."""

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name.encode())
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        self._closed_at_the_end.callback(server.close)
        key = FrontendKey(ServicePortName("default", name, "", TCP), Family.IPV4, EndpointSet.CLUSTER)
        listener = Listener(key, at(f"127.0.0.1:{next(self._ports)}"))
        endpoint = at(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        return Frontend(listener, (endpoint,), None)

    async def open(self, frontend: Frontend) -> Listener:
        await self.effects.perform(OpenFrontends((frontend,)))
        await self.effects.perform(Announce((frontend.listener,)))
        return frontend.listener

    def connect(self, to: Listener) -> socket.socket:
        """A client, whom the kernel has queued."""
        address, port = to.at
        return self._closed_at_the_end.enter_context(socket.create_connection((str(address), port), 5.0))

    async def replace_worker(self) -> None:
        """Another has been started when this returns."""
        former = self.pid
        os.kill(former, signal.SIGKILL)
        await until(lambda: self.pid not in (0, former))

    async def wake(self) -> None:
        """It is ready, and has done what it was told until now."""
        os.kill(self.pid, signal.SIGCONT)
        await until(lambda: self.workers.slots[0].state is State.READY)
        await next(iter(self.workers._processes.values())).send(Listen(0, ()))

    def accepts_on(self, listener: Listener) -> bool:
        """Whether the worker holds the very socket."""
        (sock,) = self.listeners[listener].sockets
        inode = os.fstat(sock.fileno()).st_ino
        return f"socket:[{inode}]" in {os.readlink(one) for one in Path(f"/proc/{self.pid}/fd").iterdir()}

    async def close(self) -> None:
        await self.workers.abort()
        await self.effects.finish()
        for listener in (*self.effects.now.frontends, *self.effects.closing):
            self.listeners.close(listener)
        self._closed_at_the_end.close()


def shop_scene(patch: pytest.MonkeyPatch, play: Callable[[Shop], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        shop = Shop(patch)
        try:
            await shop.workers.start()
            await asyncio.wait_for(play(shop), 20.0)
        finally:
            await shop.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_newborn_that_wakes_late_takes_no_listener_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shop: Shop) -> None:
        old, later = await shop.open(await shop.frontend("old")), await shop.frontend("new")
        (sock,) = shop.listeners[old].sockets
        shop.is_late = True
        supervising = asyncio.create_task(shop.workers.supervise())
        await shop.replace_worker()
        await shop.effects.perform(CloseFrontends((old,)))
        await asyncio.sleep(0.2)
        is_kept = sock.fileno() >= 0
        # nothing else has been opened meanwhile: if its number is free, it is used now
        new = await shop.open(later)
        clients = [shop.connect(new) for _ in range(5)]
        await shop.wake()
        assert [await asyncio.to_thread(client.recv, 16) for client in clients] == [b"new"] * 5
        assert is_kept
        await until(lambda: not shop.effects.closing)
        assert sock.fileno() < 0
        supervising.cancel()

    shop_scene(monkeypatch, play)


def test_who_is_queued_at_a_withdrawn_listener_is_served_by_a_late_newborn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shop: Shop) -> None:
        old = await shop.open(await shop.frontend("old"))
        shop.is_late = True
        await shop.replace_worker()
        client = shop.connect(old)
        await shop.effects.perform(CloseFrontends((old,)))
        await asyncio.sleep(0.2)
        await shop.wake()
        assert await asyncio.to_thread(client.recv, 16) == b"old"

    shop_scene(monkeypatch, play)


def test_the_death_of_a_late_worker_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shop: Shop) -> None:
        old = await shop.open(await shop.frontend("old"))
        os.kill(shop.pid, signal.SIGSTOP)
        await shop.effects.perform(CloseFrontends((old,)))
        await asyncio.sleep(0.2)
        assert shop.effects.closing == {old}
        await shop.replace_worker()
        await until(lambda: not shop.effects.closing)

    shop_scene(monkeypatch, play)


def test_a_newborn_is_told_of_what_is_announced_and_of_nothing_that_is_withdrawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(shop: Shop) -> None:
        kept, withdrawn = await shop.open(await shop.frontend("kept")), await shop.open(await shop.frontend("gone"))
        assert (shop.accepts_on(kept), shop.accepts_on(withdrawn)) == (True, True)
        await shop.workers.withdraw(shop.listeners.withdraw([withdrawn]))
        assert (shop.accepts_on(kept), shop.accepts_on(withdrawn)) == (True, False)
        await shop.replace_worker()
        await shop.wake()
        assert (shop.accepts_on(kept), shop.accepts_on(withdrawn)) == (True, False)

    shop_scene(monkeypatch, play)


def test_beside_a_predecessor_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shop: Shop) -> None:
        old = await shop.open(await shop.frontend("old"))
        shop.effects.may_close.clear()
        await shop.effects.perform(CloseFrontends((old,)))
        await asyncio.sleep(0.2)
        assert shop.accepts_on(old)
        assert shop.directory.labels()
        shop.effects.take_charge()
        await until(lambda: not shop.effects.closing)
        assert not shop.directory.labels()

    shop_scene(monkeypatch, play)


def test_what_a_successor_that_has_failed_did_in_memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shop: Shop) -> None:
        mine = await shop.frontend("mine")
        listener = await shop.open(mine)
        slot = shop.listeners[listener].frontend_slot
        other = Directory.adopt(shop.directory.region)
        more = tuple(sorted((*mine.endpoints, at("127.0.0.1:9"))))
        other.set_members(slot, [shared_address(one) for one in more], affinity_timeout_ms=60_000)
        its_own = other.claim(label_of(listener.frontend._replace(family=Family.IPV6)))
        shop.effects.reread()
        assert shop.effects.now.frontends == {listener: Frontend(listener, more, 60)}
        assert shop.directory.labels().keys() == {slot}
        assert shop.effects.rules is None
        # the place of what nobody listens for is free again
        shop.directory.collect()
        assert its_own == shop.directory.claim(b"another")
        client = shop.connect(listener)
        assert await asyncio.to_thread(client.recv, 16) == b"mine"

    shop_scene(monkeypatch, play)
