"""A source is followed, and replaced by another one while it runs."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from kpf.master import source as sources
from kpf.master.source import Follower
from kpf.model.snapshot import Changes, Problem, Snapshot, Watch


class FakeSource:
    """Tells nothing before it is `told`; `broken` ends what follows it."""

    def __init__(self, name: str) -> None:
        self.name, self.snapshot, self.error = name, None, False  # type: tuple[str, Snapshot | None, bool]
        self.reported: list[Problem] = []
        self.rereads = 0
        self.ended = False
        self._changed: Callable[[], None] = lambda: None
        self._broken = asyncio.Event()

    @property
    def troubles(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def seen(self) -> Changes:
        return Changes()

    @property
    def watches(self) -> tuple[Watch, ...]:
        return ()

    def read(self) -> Snapshot | None:
        if self.error:
            raise FileNotFoundError(2, "there is nothing", self.name)
        return self.snapshot

    async def follow(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        try:
            await self._broken.wait()
            raise OSError("broken")
        finally:
            self.ended = True

    async def reread(self) -> None:
        self.rereads += 1

    def report(self, problems: tuple[Problem, ...]) -> None:
        self.reported += problems

    def tell(self) -> None:
        self.snapshot = Snapshot()
        self._changed()

    def break_off(self) -> None:
        self._broken.set()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_old_source_goes_on_until_the_new_one_has_told_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def replace() -> None:
        old, new, calls = FakeSource("old"), FakeSource("new"), []
        old.snapshot = first = Snapshot()
        follower = Follower(old)
        follower.changed = lambda: calls.append("changed")
        follower.start()
        follower.replace(new)
        await settled()
        assert follower.read() is first
        assert follower.troubles == ("old",)
        old.tell()
        assert calls == ["changed"]
        new.tell()
        await settled()
        assert follower.read() is new.snapshot
        assert follower.troubles == ("new",)
        assert old.ended
        assert calls == ["changed", "changed"]
        new.tell()
        assert calls == ["changed", "changed", "changed"]
        problem = Problem("", "Service default/web", "spec", "is wrong")
        follower.report((problem,))
        await follower.reread()
        assert (old.reported, old.rereads, new.reported, new.rereads) == ([], 0, [problem], 1)
        await follower.stop()
        assert new.ended

    asyncio.run(replace())
    assert "Services come from another source now" in caplog.text


def test_a_source_that_cannot_be_read_replaces_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "RETRY_S", 0.01)

    async def replace() -> None:
        old, new = FakeSource("old"), FakeSource("new")
        old.snapshot, new.error = Snapshot(), True
        follower = Follower(old)
        follower.start()
        follower.replace(new)
        await asyncio.sleep(0.05)
        assert follower.read() is old.snapshot
        new.error = False
        new.tell()
        await asyncio.sleep(0.05)
        assert follower.read() is new.snapshot
        await follower.stop()

    asyncio.run(replace())
    assert "the new source cannot be read, the old one goes on" in caplog.text


def test_of_two_replacements_the_last_one_counts() -> None:
    async def replace() -> None:
        old, second, third = (FakeSource(name) for name in ("old", "second", "third"))
        old.snapshot = Snapshot()
        follower = Follower(old)
        follower.start()
        follower.replace(second)
        await settled()
        follower.replace(third)
        await settled()
        assert second.ended
        second.tell()
        third.tell()
        await settled()
        assert follower.troubles == ("third",)
        await follower.stop()

    asyncio.run(replace())


def test_the_end_of_a_source_is_the_end_of_the_daemon() -> None:
    async def follow() -> None:
        one = FakeSource("one")
        follower = Follower(one)
        failed = asyncio.create_task(follower.failed())
        await settled()
        one.break_off()
        with pytest.raises(OSError, match="broken"):
            await failed
        with pytest.raises(OSError, match="broken"):
            await Follower(one).told()

    asyncio.run(follow())
