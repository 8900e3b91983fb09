"""What the tests of the source share: one server a file, begun anew for each test, and sources that follow it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpf.sources.api import backoff, client, reflector
from tests.api.checks import RESOURCES, Make, Messages, Shared, fill
from tests.api.follower import Follower
from tests.apiserver import ApiServer


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.05)
    monkeypatch.setattr(reflector, "SHORTEST_WATCH_S", 0.05)
    monkeypatch.setattr(client, "RELOAD_S", 0.1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    server = Shared()
    with server:
        yield server


@pytest.fixture
def server(shared: Shared) -> Shared:
    shared.begin()
    fill(shared)
    return shared


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "WATCH_SILENCE_S", 0.4)
    monkeypatch.setattr(reflector, "ANSWER_SILENCE_S", 0.4)


@pytest.fixture
def follow(server: ApiServer, tmp_path: Path) -> Iterator[Make]:
    """Makes a source, of the server with its token unless a kubeconfig is given."""
    made: list[Follower] = []

    def make(kubeconfig: Path | None = None, **options: Any) -> Follower:
        path = kubeconfig or server.kubeconfig(tmp_path / "config", token=server.token)
        made.append(Follower(path, **options))
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


@pytest.fixture
def kpf(server: ApiServer, follow: Make) -> Follower:
    """Everything is listed, and watched."""
    follower = follow()
    follower.until()
    follower.until_holds(lambda: all(server.watching(one) == 1 for one in RESOURCES))
    return follower


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    """What is in the log."""
    log = logging.getLogger("kpf")
    # it may have been set up by another test
    monkeypatch.setattr(log, "propagate", False)
    log.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "kpf")
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "kpf"]
    log.removeHandler(caplog.handler)
