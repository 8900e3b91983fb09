"""What master and workers say to each other, one message a frame (`kpf.net.channel`).

The master sends one message at a time and the worker answers each with `Done` of its number, or `NoRoom`. Listening
sockets travel with `Listen`, the shared-memory descriptor with `Configure`. `Ready` comes by itself, once, before any
`Done`.
"""

from dataclasses import dataclass

from kpf.net.handover import MEMORY


@dataclass(frozen=True, slots=True)
class Configure:
    """The first message to a newborn worker, with as many descriptors as `descriptors` names, in the same order.

    `slot`: its place in shared memory. `uid`, `gid`: whom to become, once everything is imported. `orphan_timeout_s`:
    how long to go on at most when the master is gone. `index`: its place in each group of listening sockets,
    0..workers-1. `generation`: of workers, those that were started together and replace each other.
    """

    number: int
    slot: int
    workers: int
    uid: int
    gid: int
    orphan_timeout_s: float
    index: int = 0
    generation: int = 0
    descriptors: tuple[str, ...] = (MEMORY,)


@dataclass(frozen=True, slots=True)
class Listen:
    """Accept on these; as many descriptors as `frontends` (slots in shared memory), in the same order."""

    number: int
    frontends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Accept what is queued on these frontends' listeners, then forget them. Their sessions go on."""

    number: int
    frontends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reset:
    """End the sessions of clients that have come to these addresses, as the kernel shows them."""

    number: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Accept nothing, or, if `is_held` is False, again: a successor copies what is in shared memory."""

    number: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept what is queued, then nothing more; exit with status 0 when the last session has ended."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it has dropped its privileges and listens to the master.

    `uid`: whose its dials are. `privileges`: "none", or which it could not give up and why (a user namespace with one
    id), for status.
    """

    pid: int
    uid: int
    privileges: str


@dataclass(frozen=True, slots=True)
class Done:
    """From a worker: the message of this number is in effect."""

    number: int


@dataclass(frozen=True, slots=True)
class NoRoom:
    """From a worker: it is short of descriptors for the message of this number.

    It has kept none of those that came, and is to be sent it again later.
    """

    number: int


Message = Configure | Listen | Close | Reset | Hold | Drain | Ready | Done | NoRoom
