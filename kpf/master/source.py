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
    source, changed = open_source(config), asyncio.Event()
    following = asyncio.create_task(source.follow(changed.set))
    try:
        async with asyncio.timeout(READ_ONCE_S):
            while (snapshot := source.read()) is None:
                waiting = asyncio.create_task(changed.wait())
                await asyncio.wait([waiting, following], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if following.done():
                    following.result()
                changed.clear()
    except TimeoutError:
        reason = "; ".join(source.troubles) or "its answer is not complete"
        raise TimeoutError(f"the API server has not told what it has: {reason}") from None
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return snapshot
