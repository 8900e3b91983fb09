"""The states of a half, and what moves it from one to another: how the relay works, as data.

A session has two directions. Each has a half: the socket that it is read from, and what is said of the direction. What
a direction is about is its phase; `Half.state` (bits) and `Half.end` tell which one that is, and some more:

    client    ACCEPTED --silence--> WATCHED
                 |                     |                          its end          all is
                 +-------answer--------+--> DRY | FULL | RESTED --is read--> ENDING --passed on--> ENDED
                                       |    (any to any)                                             |
    backend   DIALLED ---answer--------+                                            both are: DEAD --+

- DRY: nothing in hand, and epoll tells when there is something to read. FULL: the other side had no room for what is in
  hand, and epoll tells when it has. RESTED: its rounds are used up; whatever calls for it, it goes on in the next
  iteration.
- What is in hand is in memory, or in a pipe that was lent for it. It is passed on before anything else is read: so with
  the end seen nothing is in a pipe, nobody splices any more, and the end goes after all bytes, once.
- Halves that have no peer yet are the dialer's: what epoll says of them is about dials. NO_ANSWER: they are DEAD.
- An error of either socket ends both directions: what the other one can still pass on is passed on, both are reset.
- It is bits that say so, and not a phase, since the hot path has one question: is there anything to look at at all?

The worker does not import this. `tests/test_worker_states.py` holds a worker to them, move by move, and them to
the worker: each state is reached.
"""

from collections.abc import Mapping
from enum import Enum, auto

from kpf.worker.states import (
    DEAD,
    DIALLING,
    NAGLING,
    OPEN,
    PASSED,
    PENDING,
    PIPED,
    RESTING,
    SEEN,
    SPLICING,
    URGENT,
)


class Phase(Enum):
    """Of a half. DEAD: it is closed at the end of the batch."""

    ACCEPTED = auto()
    WATCHED = auto()
    DIALLED = auto()
    DRY = auto()
    FULL = auto()
    RESTED = auto()
    ENDING = auto()
    ENDED = auto()
    DEAD = auto()


class Event(Enum):
    """What a move is due to.

    ANSWER, NO_ANSWER: of the dial; of the last one, for a client, or it has left. SILENCE: the first attempt delay is
    over. READABLE: epoll tells of bytes, an urgent mark or the end. ROOM: the other side takes bytes again. ITERATION:
    the next one, with new rounds. LENDER: others need its pipe. ERROR: of either socket.
    """

    ANSWER = auto()
    NO_ANSWER = auto()
    SILENCE = auto()
    READABLE = auto()
    ROOM = auto()
    ITERATION = auto()
    LENDER = auto()
    ERROR = auto()


_IN_PIPE = PENDING | PIPED
_IN_BULK = _IN_PIPE | SPLICING
# who splices has nothing in memory; a mark is over when a read finds nothing, and before that this is passed on
_HELD = {PENDING, PENDING | URGENT, _IN_PIPE, _IN_PIPE | URGENT, _IN_BULK, _IN_BULK | URGENT}

# what `state` may be in each phase; NAGLING is a client's only
LEGAL: Mapping[Phase, frozenset[int]] = {
    Phase.ACCEPTED: frozenset({0, PENDING}),
    Phase.WATCHED: frozenset({DIALLING, DIALLING | PENDING}),
    Phase.DIALLED: frozenset({DIALLING}),
    Phase.DRY: frozenset({0, NAGLING, SPLICING}),
    Phase.FULL: frozenset({*_HELD, PENDING | NAGLING}),
    Phase.RESTED: frozenset(RESTING | more for more in (0, URGENT, SPLICING, SPLICING | URGENT, *_HELD)),
    Phase.ENDING: frozenset({PENDING, PENDING | NAGLING, RESTING, RESTING | URGENT}),
    Phase.ENDED: frozenset({0, NAGLING, URGENT}),
    Phase.DEAD: frozenset({DEAD}),
}
# what `end` is then; one that is DEAD may have any
END: Mapping[Phase, int] = {
    **dict.fromkeys((Phase.ACCEPTED, Phase.WATCHED, Phase.DIALLED, Phase.DRY, Phase.FULL, Phase.RESTED), OPEN),
    Phase.ENDING: SEEN,
    Phase.ENDED: PASSED,
}

# those of a session's directions
RELAYING = frozenset({Phase.DRY, Phase.FULL, Phase.RESTED, Phase.ENDING, Phase.ENDED})

# a client's and its backend's at the same time: when both are ENDED, both are DEAD
PAIRS = frozenset((client, backend) for client in RELAYING for backend in RELAYING) - {(Phase.ENDED, Phase.ENDED)}

# where each event leads from each phase; what is not here stays where it is
MOVES: Mapping[Event, Mapping[Phase, frozenset[Phase]]] = {
    Event.ANSWER: {
        Phase.ACCEPTED: frozenset({Phase.DRY, Phase.FULL}),
        Phase.WATCHED: frozenset({Phase.DRY, Phase.FULL}),
        Phase.DIALLED: frozenset({Phase.DRY}),
    },
    Event.NO_ANSWER: dict.fromkeys((Phase.ACCEPTED, Phase.WATCHED, Phase.DIALLED), frozenset({Phase.DEAD})),
    Event.SILENCE: {Phase.ACCEPTED: frozenset({Phase.WATCHED})},
    Event.READABLE: {
        Phase.DRY: RELAYING,
        Phase.FULL: RELAYING,
        Phase.ENDING: frozenset({Phase.ENDING, Phase.ENDED}),
    },
    Event.ROOM: {
        Phase.FULL: RELAYING,
        Phase.ENDING: frozenset({Phase.ENDING, Phase.ENDED}),
    },
    Event.ITERATION: {
        Phase.RESTED: RELAYING,
        Phase.ENDING: frozenset({Phase.ENDING, Phase.ENDED}),
    },
    Event.LENDER: {},
    Event.ERROR: dict.fromkeys(RELAYING, frozenset({Phase.DEAD})),
}

# which bits an event may set
SETS: Mapping[Event, int] = {
    Event.ANSWER: NAGLING | PENDING,
    Event.NO_ANSWER: DEAD,
    Event.SILENCE: DIALLING,
    Event.READABLE: PENDING | PIPED | SPLICING | URGENT | RESTING,
    Event.ROOM: PENDING | PIPED | SPLICING | RESTING,
    Event.ITERATION: PENDING | PIPED | SPLICING | RESTING,
    Event.LENDER: 0,
    Event.ERROR: DEAD,
}
