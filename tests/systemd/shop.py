"""A Service on a machine with systemd, two pods behind its ClusterIP, and a load on it from the machine itself."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from kpf.lab.backends import Backends
from kpf.lab.clients import connect, failures
from kpf.lab.hosts import Host, add_route
from kpf.lab.load import Load, Report, UnderLoad
from kpf.lab.machine import Machine
from kpf.lab.manifests import Object, endpoint_slice, service
from kpf.lab.pods import RoutedPod

CLUSTER_IP = ("10.96.0.10", 80)
PODS = ("10.244.1.1", "10.244.1.2")
POD_PORT = 8080
NEW_PER_S, KEPT, ASKS_PER_S = 100.0, 20, 100.0
DELAYED_S = 0.05


class Shop:
    """Its pods serve as long as it is open."""

    def __init__(self, node: Machine) -> None:
        self._node = node
        with ExitStack() as made:
            # a default route, so that there is a way to a ClusterIP; it leads to a host and no further
            with node.inside():
                outside = Host("out0", ours=["192.168.50.1/24"], theirs=["192.168.50.2/24"])
                made.callback(self._within, outside.close)
                add_route("default", "192.168.50.2")
            for number, address in enumerate(PODS, 1):
                pod = RoutedPod(node, f"pod{number}", (address, f"fd00:10:244:1::{number}"))
                made.callback(pod.close)
                made.enter_context(Backends(pod)).open(address, POD_PORT)
            self._made = made.pop_all()

    def objects(self) -> list[Object]:
        """The Service and its EndpointSlice."""
        return [
            service("shop", cluster_ips=[CLUSTER_IP[0]]),
            endpoint_slice("shop", PODS, port=POD_PORT),
        ]

    def answers(self, count: int = 4) -> bool:
        """All of some new connections at once are answered within a second."""
        return not failures(self._node.call(connect, CLUSTER_IP, count, at_once=count, timeout_s=1.0))

    def load(self, *, kept: int = KEPT) -> UnderLoad:
        """New connections, and kept ones that are asked in turn."""
        return UnderLoad(self._node, Load(CLUSTER_IP, NEW_PER_S, kept, ASKS_PER_S if kept else 0.0))

    def _within(self, close: Callable[[], None]) -> None:
        with self._node.inside():
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a load; times in seconds, of new connections that were answered."""

    new: int
    failed: int
    delayed: int
    worst_s: float
    cut: int

    @classmethod
    def of(cls, report: Report) -> "Tally":
        """`cut`: how many kept connections have ended; each fails once and is closed."""
        times = [outcome.first_byte_s for outcome in report.new if not outcome.error]
        return cls(
            len(report.new),
            len(failures(report.new)),
            sum(time > DELAYED_S for time in times),
            max(times, default=0.0),
            len(failures(report.asked)),
        )

    def __str__(self) -> str:
        return (
            f"{self.failed} of {self.new} new connections failed, {self.delayed} took more than 50 ms "
            f"({self.worst_s * 1000:.0f} ms at most); {self.cut} kept ones were cut"
        )


# what was done, and what became of the load beside it
Tell = Callable[[str, Tally], None]
