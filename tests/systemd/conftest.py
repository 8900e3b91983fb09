"""A machine with systemd for each release, a Service on it, and the unit, installed anew for each test."""

from collections.abc import Callable, Iterator

import pytest

from tests.systemd.images import RELEASES
from tests.systemd.machine import SystemdMachine
from tests.systemd.shop import Shop, Tell
from tests.systemd.unit import Unit


@pytest.fixture(scope="session", params=RELEASES)
def machine(request: pytest.FixtureRequest) -> Iterator[SystemdMachine]:
    with SystemdMachine(request.param) as machine:
        yield machine


@pytest.fixture(scope="session")
def shop(machine: SystemdMachine) -> Iterator[Shop]:
    with Shop(machine.node) as shop:
        yield shop


@pytest.fixture
def unit(machine: SystemdMachine, shop: Shop) -> Iterator[Unit]:
    """Not started; its journal is shown when the test fails."""
    unit = Unit(machine)
    unit.manifests.write("shop.yaml", *shop.objects())
    yield unit
    print(unit.everything_said())
    unit.remove()


@pytest.fixture
def running(unit: Unit) -> Unit:
    """It has said that it is ready."""
    unit.start()
    return unit


@pytest.fixture
def tell(figure: Callable[[str], None], machine: SystemdMachine) -> Tell:
    """Print what became of a load."""
    version = machine.output("systemctl", "--version").split()[1]
    return lambda what, tally: figure(f"systemd {version}, {what}: {tally}")
