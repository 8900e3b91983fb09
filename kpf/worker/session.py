"""What becomes of a client whose dial has failed. Pure: an event in, a command out.

Dial timeouts are those of kube-proxy's userspace mode (1.20, `proxysocket.go`). A refusal costs none of them. A member
that refused is not dialled again; one that was silent is, once all others have been tried: its SYN may have been lost.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from kpf.shm.layout import Reason

DIAL_TIMEOUTS_MS = (250, 500, 1000, 2000)
# for lack of descriptors or memory: 4 s, as long as all dial timeouts together
LATER_MS = 100
LATER_LIMIT = 40

SHUTS_OUT = {Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMEOUT}


class Command(Enum):
    DIAL_NEXT = auto()
    DIAL_LATER = auto()
    GIVE_UP = auto()


@dataclass(slots=True)
class Session:
    """The dials of one client. `tried`: identities to pass over. `reason`: why the last dial failed."""

    tried: list[int] = field(default_factory=list)
    reason: Reason = Reason.NO_ENDPOINT
    _silent: set[int] = field(default_factory=set)
    _timeouts: int = 0
    _delays: int = 0

    @property
    def timeout_ms(self) -> int:
        """How long the next dial may take."""
        return DIAL_TIMEOUTS_MS[self._timeouts]

    def dial_failed(self, identity: int, reason: Reason) -> Command:
        self.reason = reason
        if reason is Reason.RESOURCES:
            self._delays += 1
            return Command.DIAL_LATER if self._delays < LATER_LIMIT else Command.GIVE_UP
        self.tried.append(identity)
        if reason is Reason.TIMEOUT:
            self._silent.add(identity)
            self._timeouts += 1
            if self._timeouts == len(DIAL_TIMEOUTS_MS):
                return Command.GIVE_UP
        return Command.DIAL_NEXT

    def none_left(self) -> Command:
        """All members have been tried."""
        if not self._silent:
            return Command.GIVE_UP
        self.tried = [identity for identity in self.tried if identity not in self._silent]
        self._silent.clear()
        return Command.DIAL_NEXT
