"""What a starting kpf, the successor, and those who have what it takes over say to each other (`kpf.net.channel`).

These, the holders, are the living master, or if it is gone each of its workers. Versions of kpf talk to each other:
what a later one has added to `Ask` and `Offer` is passed over, and a message of another `PROTOCOL` says no more than
that. Everything is as the other side says: whoever uses a number as an index has to look at it first.

    successor: Ask           holder: Offer, or Refusal
                             holder: Sockets, Servers, as often as it takes; each is answered by Received
                             holder: Complete
    successor: Pause         holder: Paused         only if the memory has to be made anew
    successor: Taken         holder: Left

Until Taken, the end of the connection means that the successor has failed, and the holder goes on as before.
"""

from dataclasses import dataclass

PROTOCOL = 1

MASTER, WORKER = "master", "worker"
# the names of descriptors
MEMORY, LOCK, HANDOVER = "memory", "lock", "handover"


@dataclass(frozen=True, slots=True)
class Ask:
    """The first message of a successor. `version`: of kpf.

    `namespace`: st_dev and st_ino of its network namespace (/proc/self/ns/net).
    """

    protocol: int
    version: str = ""
    namespace: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What there is to take over, with as many descriptors as `descriptors` names, in the same order.

    `role`: `MASTER`, or `WORKER`. Its descriptors: `MEMORY` and `HANDOVER`, and a master's `LOCK`.
    `generation`: of its workers, `workers` many. `index`, `slot`: a worker's place among their listening sockets and in
    shared memory; a master's are 0. `accepts`: it has listening sockets. `began_ms`: CLOCK_MONOTONIC of its start.
    """

    protocol: int
    version: str
    role: str
    pid: int
    generation: int
    workers: int
    index: int
    slot: int
    accepts: bool
    began_ms: int
    descriptors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Instead of an offer; the end of the connection follows. `reason`: for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sockets:
    """Listening sockets: those at the place `index` of their groups, one for each of `frontends` (slots in memory)."""

    index: int
    frontends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Servers:
    """The listening sockets of the master's own servers, in the order of `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Received:
    """The descriptors of the message before have come, and there is room for the next ones."""


@dataclass(frozen=True, slots=True)
class Complete:
    """That was all."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Accept nothing for the moment."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing is accepted until the connection ends, or for good if `Taken` comes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The successor serves: leave, as soon as the open connections have ended."""


@dataclass(frozen=True, slots=True)
class Left:
    """From now on the successor decides; what was queued is accepted before the holder's workers accept no more."""


Message = Ask | Offer | Refusal | Sockets | Servers | Received | Complete | Pause | Paused | Taken | Left
