"""What the end-to-end tests share: the lab, backends in it, and a daemon on demand."""

from collections.abc import Iterator

import pytest

from kpf.lab.backends import Backends
from kpf.lab.topology import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Node, pods and outside, one for a module."""
    with Lab() as lab:
        yield lab


@pytest.fixture
def backends(lab: Lab) -> Iterator[Backends]:
    """A process full of servers on the pods' host, with no address yet."""
    with Backends(lab.pods) as backends:
        yield backends
