"""What becomes of a client whose dial is not answered at once. Pure: an event in, a command or a time out.

Slow is not dead: a dial that is silent goes on while others are made beside it (RFC 8305). A refusal costs no time, and
who refused, or is being dialled, is not dialled again.

How many members one connection may try. HAProxy's default is 3 retries, but a client is promised a pod that lives, if
there is one. A member that refuses is passed over from then on by everybody, so all connections together meet each
one once in a while, and the bound may be as large as a large Service. Who is dialled although it is ejected, since
all others are, is not used up in that way: that has a bound of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from kpf.shm.health import ATTEMPT_DELAY_MS, LOSING_DIAL_MS
from kpf.shm.layout import Reason

RETRIES = 1_000
RETRIES_EJECTED = 16
# at once, of one connection
PARALLEL = 6
# the kernel alone would try for two minutes (tcp_syn_retries)
GIVE_UP_MS = 60_000
# while all members are being dialled: somebody may join, or be ejected no longer
LOOK_AGAIN_MS = 1_000
# for lack of descriptors or memory: 4 s
LATER_MS = 100
LATER_LIMIT = 40

# the endpoint's own doing
EJECTING = {Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMEOUT}


class Command(Enum):
    """DIAL_LATER: after `LATER_MS`, with the same member among those to choose from. GIVE_UP: the client is reset."""

    DIAL_NEXT = auto()
    DIAL_LATER = auto()
    GIVE_UP = auto()


@dataclass(slots=True)
class RetryState:
    """The dials of one client.

    `tried`: identities to pass over. `silent`: those whose dials have ended unanswered. `reason`: why the last dial
    failed. `is_hedged`: one was dialled beside another.
    """

    tried: set[int] = field(default_factory=set)
    silent: list[int] = field(default_factory=list)
    reason: Reason = Reason.NO_ENDPOINT
    is_hedged: bool = False
    _retries: int = 0
    _ejected: int = 0
    _delays: int = 0

    @property
    def may_retry(self) -> bool:
        """False once 1,000 other members have been picked, or 16 for want of one that is not ejected."""
        return self._retries < RETRIES and self._ejected < RETRIES_EJECTED

    def retried(self, *, is_ejected: bool) -> None:
        """Another member was picked; `is_ejected`: for want of a better one."""
        self._retries += 1
        self._ejected += is_ejected

    def dial_failed(self, identity: int, reason: Reason) -> Command:
        """For lack of our own resources: later, `LATER_LIMIT` times at most. Else another one, at once."""
        self.reason = reason
        if reason is Reason.RESOURCES:
            self.tried.discard(identity)
            self._delays += 1
            return Command.DIAL_LATER if self._delays < LATER_LIMIT else Command.GIVE_UP
        self.tried.add(identity)
        if reason is Reason.TIMEOUT:
            self.silent.append(identity)
        return Command.DIAL_NEXT


def next_ms(began_ms: Sequence[int], first_attempt_delay_ms: int) -> int:
    """When to dial another member beside those whose dials have begun then, the oldest first.

    Of the oldest it is known what is normal for it. Where there are as many as may be, the oldest is given up for the
    next one, after as long as a dial that has lost may take.
    """
    if len(began_ms) == 1:
        return began_ms[0] + first_attempt_delay_ms
    next_one_ms = began_ms[-1] + ATTEMPT_DELAY_MS
    return next_one_ms if len(began_ms) < PARALLEL else max(next_one_ms, began_ms[0] + LOSING_DIAL_MS)
