"""When syncs begin, by real clocks that are set short."""

import asyncio
import time

import pytest

from kpf.master import schedule
from kpf.master.schedule import Schedule


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(schedule, "FULL_SYNC_INTERVAL_S", 0.3)


def test_the_hour_begins_with_any_full_sync() -> None:
    """Also with one that was due to a failure."""

    async def scene() -> None:
        made = Schedule()
        assert await made.wait()
        made.succeed()
        await asyncio.sleep(0.2)
        made.request()
        assert not await made.wait()
        began_s = time.monotonic()
        made.synced_in_full()
        assert await made.wait()
        assert time.monotonic() - began_s >= 0.25

    asyncio.run(scene())


def test_a_full_sync_that_is_requested_during_one_is_not_forgotten() -> None:
    async def scene() -> None:
        made = Schedule()
        assert await made.wait()
        made.request(full=True)
        made.synced_in_full()
        began_s = time.monotonic()
        assert await made.wait()
        assert time.monotonic() - began_s < 0.2

    asyncio.run(scene())
