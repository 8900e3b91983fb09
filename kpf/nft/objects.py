"""What a table is made of: chains of rules with their hooks, sets and maps. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from kpf.nft.datatypes import NAMES, PORT_SIZE, SIZES, TYPE_PORT, TYPE_VERDICT, VERDICT_SIZE, concatenated
from kpf.nft.statements import Statement
from kpf.uapi.netfilter import NF_INET


class Hook(NamedTuple):
    """A base chain's place."""

    kind: str
    name: str
    number: NF_INET
    priority: int


Rule = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`hook`: None for a chain that others jump to. A base chain's policy is to accept."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map where `data` is a type. Keys are `key` types, each padded to 4 bytes.

    `dynamic`: packets add elements, which time out. The kernel takes 65,535 of them if it is not told how many; if it
    is told, it makes room for all of them at once (2 MiB).
    """

    name: str
    key: tuple[int, ...]
    data: int | None = None
    interval: bool = False
    dynamic: bool = False

    @property
    def key_type(self) -> int:
        """As nft shows it; the kernel only keeps it."""
        return concatenated(self.key)

    @property
    def key_length(self) -> int:
        """In bytes: so many has each key of `elements`."""
        # a lone port is 2 bytes, in a concatenation each part fills whole registers
        return PORT_SIZE if self.key == (TYPE_PORT,) else sum(SIZES[one] for one in self.key)

    @property
    def data_length(self) -> int:
        """In bytes, of a map's values."""
        return VERDICT_SIZE if self.data == TYPE_VERDICT else PORT_SIZE

    @property
    def type_text(self) -> str:
        """As nft writes it: "ipv4_addr . inet_service : verdict"."""
        keys = " . ".join(NAMES[one] for one in self.key)
        return keys if self.data is None else f"{keys} : {NAMES[self.data]}"
