"""Session affinity of what the kernel forwards: UDP, and TCP that is asked for directly."""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

import pytest

from kpf.lab.clients import Address
from kpf.lab.daemon import Daemon
from kpf.lab.datagrams import Dial, Protocol, dial
from kpf.lab.topology import client_address
from kpf.observe.client import ask
from tests.e2e.world import POD_PORT, World, eventually

pytestmark = pytest.mark.usefixtures("forwarding")

TIMEOUT_S = 3
# how much later than it should a pin may go
LATE_S = 1.0
CLIENTS = [client_address(number) for number in range(30)]


@dataclass(frozen=True)
class Shop:
    """A Service with ClientIP affinity, forwarded by the kernel, with three endpoints."""

    world: World
    daemon: Daemon
    protocol: Protocol
    target: Address
    pods: Sequence[str]

    def ask(self, clients: Sequence[str]) -> dict[str, str]:
        """Which server each of these has, in turn, each on a new flow."""
        dials = [Dial(self.protocol, self.target, client) for client in clients]
        outcomes = self.world.lab.outside.call(dial, dials, at_once=1, timeout_s=2.0)
        return {outcome.source: outcome.name or outcome.error for outcome in outcomes}

    def explained(self, client: str) -> str | None:
        """With which server `kpf explain --from` says that it stays."""
        query = f"what={self.target[0]}:{self.target[1]}/{self.protocol.lower()}&from={client}"
        _, answer = ask(str(self.daemon.control_socket), f"/explain?{query}")
        row = answer["destinations"][0]["from"]["elsewhere"]
        assert row["affinityIsKnown"]
        entry = row["affinityEntry"]
        return str(entry["endpoint"]).removesuffix(f":{POD_PORT}") if entry else None

    def serve(self, pods: Sequence[str]) -> None:
        _serve(self.world, self.protocol, self.target, pods, timeout_s=10_800)


def _serve(world: World, protocol: Protocol, target: Address, pods: Sequence[str], *, timeout_s: int) -> None:
    world.serve(
        protocol.lower(),
        target[0],
        pods,
        annotations={"kpf.io/forwarding": "direct"},
        ports=[{"port": target[1], "protocol": protocol}],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": timeout_s}},
    )


@contextmanager
def _shops(world: World, timeout_s: int) -> Iterator[list[Shop]]:
    """One for each protocol."""
    targets: Mapping[Protocol, Address] = {"UDP": ("10.96.0.53", 53), "TCP": ("10.96.0.80", 80)}
    for protocol, target in targets.items():
        pods = world.pods([1, 2, 3], mode="tell" if protocol == "TCP" else "datagrams")
        _serve(world, protocol, target, pods, timeout_s=timeout_s)
    with world.lasting as daemon:
        yield [Shop(world, daemon, protocol, target, pods) for protocol, target in targets.items()]


def _sleep_until(at_s: float) -> None:
    time.sleep(max(at_s - time.monotonic(), 0.0))


def test_a_pin_lasts_as_long_as_it_says_and_each_use_makes_it_last_anew(world: World) -> None:
    late, early, (busy,) = CLIENTS[:6], CLIENTS[6:12], CLIENTS[12:13]
    with _shops(world, TIMEOUT_S) as shops:
        began_s = time.monotonic()
        pinned = [shop.ask([*late, *early, busy]) for shop in shops]
        ended_s = time.monotonic()
        for shop, pins in zip(shops, pinned, strict=True):
            assert [pins[client] for client in late] == [*shop.pods, *shop.pods]
        for after_s in range(1, TIMEOUT_S + 2):
            _sleep_until(began_s + after_s)
            assert [shop.ask([busy]) for shop in shops] == [{busy: pins[busy]} for pins in pinned], after_s
            if after_s == TIMEOUT_S - 1:
                assert [shop.ask(early) for shop in shops] == [{one: pins[one] for one in early} for pins in pinned]
                assert time.monotonic() - began_s < TIMEOUT_S
        _sleep_until(ended_s + TIMEOUT_S + LATE_S)
        for shop, pins in zip(shops, pinned, strict=True):
            # 13 turns have been taken: whoever is pinned anew, in the same order, has the next one of three
            following = dict(zip(shop.pods, (*shop.pods[1:], shop.pods[0]), strict=True))
            assert shop.ask(late) == {client: following[pins[client]] for client in late}


@pytest.mark.parametrize("number", [0, 1], ids=["UDP", "TCP"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_only_the_clients_of_an_endpoint_that_is_gone_are_moved(world: World, number: int, place: int) -> None:
    with _shops(world, 10_800) as shops:
        shop, strangers = shops[number], map(client_address, count(100))
        gone = shop.pods[place]
        before = shop.ask(CLIENTS)
        assert {client: shop.explained(client) for client in CLIENTS[:3]} == {one: before[one] for one in CLIENTS[:3]}
        assert shop.explained(client_address(99)) is None
        kept = {client: pod for client, pod in before.items() if pod != gone}
        assert len(kept) == len(CLIENTS) * 2 / 3
        moved = [client for client in CLIENTS if client not in kept]
        shop.serve([pod for pod in shop.pods if pod != gone])
        eventually(lambda: shop.ask(moved[:1])[moved[0]] != gone)
        after = shop.ask(CLIENTS)
        assert {client: after[client] for client in kept} == kept
        assert {after[client] for client in moved} == set(kept.values())
        # who comes again is somebody new
        shop.serve(shop.pods)
        eventually(lambda: gone in shop.ask(list(islice(strangers, 3))).values())
        assert shop.ask(CLIENTS) == after


def test_pins_outlive_a_reload_and_changes_of_others(world: World) -> None:
    with _shops(world, 10_800) as shops:
        before = [shop.ask(CLIENTS) for shop in shops]
        daemon = shops[0].daemon
        for times in range(1, 4):
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_log("are read anew", times=times)
        world.serve("other", "10.96.0.99", shops[0].pods, ports=[{"port": 53, "protocol": "UDP"}])
        eventually(lambda: len(daemon.status()["services"]) == 3)
        assert [shop.ask(CLIENTS) for shop in shops] == before
