"""A source of the Kubernetes API under test: followed in an event loop that runs whenever the test waits."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from kpf.model.snapshot import Snapshot
from kpf.sources.api.access import Access
from kpf.sources.api.source import ApiSource

LIMIT_S = 10.0


class Follower:
    """Follows from `with` to the end of it. `reads`: what could be read after each change, in order."""

    def __init__(self, kubeconfig: Path, *, node_name: str = "node-1") -> None:
        self._runner = asyncio.Runner()
        self._runner.get_loop()
        self._sockets = _open_sockets()
        self._changed = asyncio.Event()
        self.reads: list[Snapshot | None] = []
        self._following = self._runner.run(self._begin(kubeconfig, node_name))

    async def _begin(self, kubeconfig: Path, node_name: str) -> asyncio.Task[None]:
        self.source = ApiSource(Access(str(kubeconfig)), node_name=node_name)
        return asyncio.create_task(self.source.follow(self._read))

    def _read(self) -> None:
        self.reads.append(self.source.read())
        self._changed.set()

    @property
    def snapshots(self) -> list[Snapshot]:
        """All that could be read so far."""
        return [one for one in self.reads if one is not None]

    def until(self, condition: Callable[[Snapshot], bool] = lambda _: True) -> Snapshot:
        """The first snapshot, from now on, for which it holds. Raises TimeoutError after 10 s."""
        return self._runner.run(self._until(condition))

    async def _until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        async with asyncio.timeout(LIMIT_S):
            while not self.reads or (newest := self.reads[-1]) is None or not condition(newest):
                self._changed.clear()
                await self._next()
        return newest

    async def _next(self) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        await asyncio.wait([changed, self._following], return_when=asyncio.FIRST_COMPLETED)
        if self._following.done():
            changed.cancel()
            self._following.result()

    def until_holds(self, condition: Callable[[], bool]) -> None:
        """Let it go on until something holds elsewhere, asked every 10 ms. Raises TimeoutError after 10 s."""
        self._runner.run(self._until_holds(condition))

    async def _until_holds(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.01)
                if self._following.done():
                    self._following.result()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._end())
        self._runner.close()

    async def _end(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        # asyncio takes its time with TLS that was about to begin
        async with asyncio.timeout(LIMIT_S):
            while _open_sockets() > self._sockets:
                await asyncio.sleep(0.001)


def _open_sockets() -> int:
    return sum(link.startswith("socket:") for link in map(_target, os.listdir("/proc/self/fd")))


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""
