"""Where the Services come from: the one source that the configuration names."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from kpf.config import Config
from kpf.model.snapshot import Changes, Problem, Snapshot, Watch
from kpf.sources.manifests import ManifestSource

log = logging.getLogger("kpf")

RETRY_S = 1.0
# a large cluster's list takes seconds
READ_ONCE_S = 60.0


class Source(Protocol):
    """Manifests, or an API server."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why it does not tell everything at the moment."""

    def read(self) -> Snapshot | None:
        """What is known now, None as long as that is too little to begin with. Raises OSError."""

    @property
    def seen(self) -> Changes:
        """How many changes of objects, until now."""

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What an API server is asked for."""

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `read` may find something new. Never ends by itself."""

    async def reread(self) -> None:
        """Read the files anew that it depends on, and say if that fails."""

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Tell the authors of objects what is newly wrong with them, if there is a way."""


class Follower:
    """The source in use, followed from `start` on, and the one that is to replace it.

    `changed` is called whenever `read` may find something new.
    """

    def __init__(self, source: Source) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._source, self._news = source, asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why it does not tell everything at the moment."""
        return self._source.troubles

    @property
    def seen(self) -> Changes:
        """How many changes of objects the source has, until now."""
        return self._source.seen

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What an API server is asked for."""
        return self._source.watches

    def read(self) -> Snapshot | None:
        """What is known now, None as long as that is too little to begin with. Raises OSError."""
        return self._source.read()

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Tell the authors of objects what is newly wrong with them, if there is a way."""
        self._source.report(problems)

    async def reread(self) -> None:
        """Read the files anew that it depends on, and say if that fails."""
        await self._source.reread()

    def start(self) -> None:
        """Begin to follow, unless it has begun."""
        if self._following is None:
            self._following = asyncio.create_task(self._source.follow(self._on_change))

    async def failed(self) -> None:
        """Never ends by itself. Raises what `Source.follow` does."""
        self.start()
        while True:
            following = self._following
            assert following is not None
            await asyncio.wait([following])
            if following is self._following:
                following.result()

    def _on_change(self) -> None:
        self._news.set()
        self.changed()

    async def told(self) -> Snapshot:
        """Return what the source tells once that is enough to begin with. Raises what `Source.follow` does, OSError."""
        self.start()
        failed = asyncio.create_task(self.failed())
        try:
            while (snapshot := self._source.read()) is None:
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait([news, failed], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if failed.done():
                    failed.result()
                self._news.clear()
        finally:
            failed.cancel()
        return snapshot

    def replace(self, source: Source) -> None:
        """Another one, as soon as it has told what there is: until then this one goes on, and is not asked for more."""
        if self._replacing is not None:
            self._replacing.cancel()
        self._replacing = asyncio.create_task(self._replace(source))

    async def _replace(self, source: Source) -> None:
        following = Follower(source)
        try:
            while True:
                try:
                    await following.told()
                except OSError as error:
                    log.error("the new source cannot be read, the old one goes on: %s", error)
                    await asyncio.sleep(RETRY_S)
                else:
                    break
        except BaseException:
            await following.stop()
            raise
        before, self._following = self._following, following._following
        self._source, following.changed = source, self._on_change
        if before is not None:
            before.cancel()
        log.info("Services come from another source now")
        self._on_change()

    async def stop(self) -> None:
        """Follow nothing any more, and return once that is so."""
        tasks = [task for task in (self._replacing, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        reason = "; ".join(follower.troubles) or "its answer is not complete"
        raise TimeoutError(f"the API server has not told what it has: {reason}") from None
    finally:
        await follower.stop()
