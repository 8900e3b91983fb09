"""What an element of a map says."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from kpf.model.rules import Verdict
from kpf.uapi.netfilter import NF
from kpf.uapi.nf_tables import NFT


@dataclass(frozen=True, slots=True)
class Goto:
    """To the chain of a forward; it does not come back."""

    code: ClassVar[int] = NFT.GOTO
    chain: str


@dataclass(frozen=True, slots=True)
class Jump:
    """To a chain of source ranges, or one that marks; it comes back if that has no verdict."""

    code: ClassVar[int] = NFT.JUMP
    chain: str


class Pass(Enum):
    """No other rule of this place is asked."""

    PASS = NF.ACCEPT


Value = bytes | Verdict | Goto | Jump | Pass | None
"""None in a set, a proxy port's bytes or a verdict in a map."""
