"""What becomes of daemons and their workers when a test of restarts is over."""

from collections.abc import Iterator

import pytest

from tests.e2e.restarts.scene import end_all
from tests.e2e.world import World


@pytest.fixture
def nobody_left(world: World) -> Iterator[None]:  # noqa: ARG001 (before its end)
    """Nobody serves on, whatever has become of the test: an orphan would for an hour."""
    yield
    end_all()
