"""What an answer is made of."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from kpf.model.names import FrontendKey, IPAddress, SocketAddress
from kpf.model.rules import Rules
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState, Frontend

T = TypeVar("T")

Turns = Generator[None, None, T]
"""Gives way to others whenever it yields; what it returns is the result."""


class AffinityEntry(NamedTuple):
    """The endpoint that a client stays with, and for how many seconds if nothing more comes.

    `is_out`: it is ejected.
    """

    endpoint: SocketAddress
    left_s: float
    is_out: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """`rules`: the kernel's; None: not known, and those of `desired` are told. `frontends`: the open ones.

    `ejected`: those of a listener's members that are, or are suspected; `affinity_entry`: of a client there, None if it
    has none. `in_kernel`: the client's affinity entries of frontends that the kernel forwards, where they are known.
    """

    desired: DesiredState
    rules: Rules | None
    frontends: Mapping[Listener, Frontend]
    ejected: Callable[[Listener], frozenset[SocketAddress]]
    affinity_entry: Callable[[Listener, IPAddress], AffinityEntry | None]
    in_kernel: Mapping[FrontendKey, AffinityEntry | None] = field(default_factory=dict)

    @property
    def in_force(self) -> Rules:
        """What packets meet, as far as it is known."""
        return self.desired.rules if self.rules is None else self.rules

    @property
    def local(self) -> frozenset[IPAddress]:
        """This node's addresses, but for kpf's own."""
        return self.desired.allocation.facts.local_addresses
