"""Where the Services come from: the one source that the configuration names."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from kpf.config import Config
from kpf.model.snapshot import Problem, Snapshot
from kpf.sources.manifests import ManifestSource

# a large cluster's list takes seconds
READ_ONCE_S = 60.0


class Source(Protocol):
    """Manifests, or an API server."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why it does not tell everything at the moment."""

    def read(self) -> Snapshot | None:
        """What is known now, None as long as that is too little to begin with. Raises OSError."""

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `read` may find something new. Never ends by itself."""

    async def reread(self) -> None:
        """Read the files anew that it depends on, and say if that fails."""

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Tell the authors of objects what is newly wrong with them, if there is a way."""


class Follower:
    """Follows a source from `start` on. `changed` is called whenever `read` may find something new."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.changed: Callable[[], None] = lambda: None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        """Begin, unless it has; the task never ends by itself, unless by an error."""
        if self._task is None:
            self._task = asyncio.create_task(self.source.follow(self._on_change))
        return self._task

    def _on_change(self) -> None:
        self._news.set()
        self.changed()

    async def told(self) -> Snapshot:
        """Return what the source tells once that is enough to begin with. Raises what `Source.follow` does, OSError."""
        following = self.start()
        while (snapshot := self.source.read()) is None:
            waiting = asyncio.create_task(self._news.wait())
            await asyncio.wait([waiting, following], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if following.done():
                following.result()
            self._news.clear()
        return snapshot

    def stop(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()


def open_source(config: Config) -> Source:
    """Of manifests if there is a directory, else of an API server. Made inside the event loop; asks nobody yet."""
    if config.manifests:
        return ManifestSource(config.manifests, node_name=config.node_name)
    # 40 MB of client that a node without a cluster need not load
    from kpf.sources.api.access import Access
    from kpf.sources.api.source import ApiSource

    access = Access(config.client_connection.kubeconfig, config.master)
    return ApiSource(access, node_name=config.node_name)


def source_problems(config: Config) -> list[Problem]:
    """Why the source can never work. Asks no server."""
    if config.manifests:
        return []
    from kpf.sources.api.access import Access
    from kpf.sources.api.kubeconfig import AccessError

    try:
        Access(config.client_connection.kubeconfig, config.master).check()
    except AccessError as error:
        return [error.problem]
    return []


def read_once(config: Config) -> Snapshot:
    """What the source knows now, outside of an event loop. Raises OSError if it does not tell within `READ_ONCE_S`."""
    return asyncio.run(_read_once(config))


async def _read_once(config: Config) -> Snapshot:
    follower = Follower(open_source(config))
    try:
        async with asyncio.timeout(READ_ONCE_S):
            return await follower.told()
    except TimeoutError:
        reason = "; ".join(follower.source.troubles) or "its answer is not complete"
        raise TimeoutError(f"the API server has not told what it has: {reason}") from None
    finally:
        follower.stop()
        await asyncio.gather(follower.start(), return_exceptions=True)
