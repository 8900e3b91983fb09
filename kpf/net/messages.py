"""What master and workers say to each other, one message a frame (`kpf.net.channel`).

The master sends one message at a time and the worker answers each with `Done` of its number, or `NoRoom`; `Tell` with
`Told`. Listening
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
class Tell:
    """Answer with `Told`: some of the sessions that are open.

    `start`: a place among the worker's descriptors, 0 or what was `Told.following`. Only sessions of these `frontends`,
    of all if empty; and of this client or endpoint, if `address` is not empty: "10.0.0.1", "10.0.0.1:80", "fd00::1",
    "[fd00::1]:80".
    """

    number: int
    start: int
    frontends: tuple[int, ...] = ()
    address: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """From a worker, as an answer to `Tell`. The tuples are as long as each other, with an item for each session.

    `following`: the `start` of what comes next, 0 if that was all. `portals`: where the client has connected to, "" if
    the kernel does not tell. `endpoints`: "" while there is none. `states`: "dialling", "open", "half-closed".
    `bytes_in`: what has come from the client so far, `bytes_out` from the endpoint, as the kernel counts.
    """

    number: int
    following: int
    frontends: tuple[int, ...]
    clients: tuple[str, ...]
    portals: tuple[str, ...]
    endpoints: tuple[str, ...]
    states: tuple[str, ...]
    ages_ms: tuple[int, ...]
    bytes_in: tuple[int, ...]
    bytes_out: tuple[int, ...]


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


Message = Configure | Listen | Close | Reset | Hold | Drain | Tell | Told | Ready | Done | NoRoom
