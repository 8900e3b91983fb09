"""The world of a run: the lab, one process of backends for all pods, one of clients, and the subjects, all at once."""

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from kpf.lab.hosts import set_sysctl
from kpf.lab.topology import NODE_ADDRESSES, Lab, pod_address
from perf import own
from perf.load.result import Address, Result
from perf.peers.cases import Load
from perf.peers.subjects import Running, Site, Subject, peers_table
from perf.peers.subjects.tables import NFT, load

Order = tuple[Load, Address]

PODS = tuple((pod_address(number), 8080) for number in range(1, 5))
# a node remembers connections that are over for 120 s: the table would be full within minutes
SYSCTLS = {"net.ipv4.ip_forward": "1", "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "5"}


def clients() -> Generator[Result | None, Order, None]:
    """Bear one load after another, on a machine (`Machine.converse`)."""
    result = None
    while True:
        bear, target = yield result
        result = bear(target)


class World:
    """A context, inside which all subjects run; `running` has them by name.

    Raises `NamespaceRefusedError`, `SubjectError`, `SubjectFailedError`, `DaemonFailedError`, `TimeoutError`.
    """

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self._subjects = subjects
        self._stack = ExitStack()
        self.running: dict[str, Running] = {}
        self.table = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def bear(self, load: Load, subject: str) -> Result:
        """Send a load from outside to a subject. Raises `CallFailedError`."""
        result = self._clients.send((load, self.running[subject].target))
        assert result is not None
        return result

    def _build(self, stack: ExitStack) -> None:
        self.lab = stack.enter_context(Lab())
        self.lab.pods.add_addresses(ip for ip, _ in PODS)
        self.backends_pid = stack.enter_context(own.backends(self.lab.pods, PODS))
        self._clients = stack.enter_context(self.lab.outside.converse(clients))
        self.clients_pid = self._clients.process.pid
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kpf-peers-")))
        site = Site(self.lab.node, NODE_ADDRESSES[0], self.directory, PODS)
        if NFT.there():
            self.table = peers_table(site.address, PODS)
            load(site, self.table)
        self._start(stack, site)
        for name, value in SYSCTLS.items():
            set_sysctl(name, value)

    def _start(self, stack: ExitStack, site: Site) -> None:
        begun: dict[Callable[[Site], AbstractContextManager[Running]], Running] = {}
        for subject in self._subjects:
            if subject.start not in begun:
                begun[subject.start] = stack.enter_context(subject.start(site))
            self.running[subject.name] = begun[subject.start]
