"""The sessions of a worker, and the end of them: who is there, and what is done once a batch of events is through."""

import errno
import select
import socket

from kpf.shm.layout import ACTIVE, F_BYTES_IN, F_ENDED, F_LASTED_BY_BITS, F_LASTED_MS
from kpf.shm.region import Words
from kpf.worker.clock import Clock
from kpf.worker.half import Half
from kpf.worker.pipes import PipePool
from kpf.worker.states import DEAD, DIALLING, PASSED, PIPED

_ENDED_OF, _LASTED_MS_OF = F_ENDED - F_BYTES_IN, F_LASTED_MS - F_BYTES_IN
_LASTED_BY_BITS = tuple(word - F_BYTES_IN for word in F_LASTED_BY_BITS)

# fs.epoll.max_user_watches, which all processes of a user share
NO_WATCHES = {errno.ENOSPC, errno.ENOMEM}
# how long one that epoll has no room for may wait
UNWATCHED_LIMIT_MS = 4000


class Sessions:
    """All sockets of clients and backends that this worker has.

    `active`: how many sessions, dials included. `extra`: descriptors of dials beyond two for each session. `short`:
    there was lack of descriptors or memory. `halves`: by descriptor, None where there is none.

    `ends` and `dead`: directions whose end is to be passed on, and sockets that are to be closed, when the batch is
    through. Until then a socket's number cannot be used again, so no event is taken for another socket's. `unwatched`:
    those that epoll had no room for, and since when if that is known. `record`: the worker's own words.
    """

    def __init__(self, epoll: select.epoll, words: Words, record: int, pipes: PipePool, clock: Clock) -> None:
        self.epoll = epoll
        self.active = self.extra = 0
        self.short = False
        self.halves: list[Half | None] = [None] * 4096
        self._words, self._pipes, self._clock = words, pipes, clock
        self._record_active = record + ACTIVE
        self.ends: list[Half] = []
        self.dead: list[Half] = []
        self.unwatched: dict[Half, int] = {}

    def count(self, change: int) -> None:
        """A client more, or less; shared memory is told."""
        self.active += change
        self._words[self._record_active] = self.active

    def watch(self, half: Half) -> None:
        """Register with epoll, which says at once what is there already. Events of its descriptor are its own."""
        fd = half.fd
        try:
            self.epoll.register(fd, half.mask)
            self.halves[fd] = half
        except IndexError:
            self.make_room(fd)
            self.halves[fd] = half
        except OSError as error:
            if error.errno not in NO_WATCHES:
                raise
            self.make_room(fd)
            self.unwatched[half] = 0

    def watch_again(self, now_ms: int) -> list[Half]:
        """Register those that epoll had no room for.

        Returns the ones that have waited for `UNWATCHED_LIMIT_MS`; a dial has its own time-out.
        """
        late: list[Half] = []
        waiting, self.unwatched = self.unwatched, {}
        for half, since_ms in waiting.items():
            if half.state & DEAD:
                continue
            self.watch(half)
            if half in self.unwatched:
                self.unwatched[half] = since_ms or now_ms
                if since_ms and now_ms - since_ms >= UNWATCHED_LIMIT_MS and not half.state & DIALLING:
                    late.append(half)
        return late

    def make_room(self, descriptor: int) -> None:
        """Whatever epoll watches, or is to watch, needs a place in `halves`."""
        if descriptor >= len(self.halves):
            self.halves += [None] * (descriptor + 4096 - len(self.halves))

    def bury(self, half: Half) -> None:
        """Forget a socket; it is closed at the end of the batch."""
        half.state = DEAD
        self.halves[half.fd] = None
        self.dead.append(half)

    def end(self, half: Half) -> None:
        """All that this direction will ever carry is in the kernel's hands."""
        if half.end == PASSED:
            return
        half.end = PASSED
        if half.peer.end == PASSED:
            self.close(half)
        else:
            # unless the other direction ends in the same batch: then closing says it all
            self.ends.append(half)

    def close(self, half: Half) -> None:
        """The session is over, whichever half is given. Both sockets are closed at the end of the batch."""
        client, backend = (half, half.peer) if half.choice is None else (half.peer, half)
        words, halves = self._words, self.halves
        if client.moved:
            words[client.counter] += client.moved
        if backend.moved:
            words[backend.counter] += backend.moved
        lasted_ms = self._clock.now_ms - client.began_ms
        words[client.counter + _LASTED_BY_BITS[lasted_ms.bit_length()]] += 1
        words[client.counter + _LASTED_MS_OF] += lasted_ms
        # last of all: from then on the places of both may be another's
        words[client.counter + _ENDED_OF] += 1
        words[backend.choice.active] -= 1  # type: ignore[union-attr] # a backend's half has one
        halves[client.fd] = halves[backend.fd] = None
        if (client.state | backend.state) & PIPED:
            self._discard_pipes(client, backend)
        client.state = backend.state = DEAD
        self.dead += client, backend
        # no cycles: the garbage collector is off
        del client.peer, backend.peer
        self.active -= 1
        words[self._record_active] = self.active

    def account(self, half: Half) -> None:
        """Tell in shared memory what the hot path has only noted."""
        if half.moved:
            self._words[half.counter] += half.moved
            half.moved = 0

    def _discard_pipes(self, *halves: Half) -> None:
        for half in halves:
            if half.state & PIPED:
                self._pipes.discard(half.pipe)

    def settle(self) -> None:
        """The end of a batch: ends are passed on, sockets closed."""
        for half in self.ends:
            if not half.state & DEAD:
                try:  # noqa: SIM105 (each connection comes here, and a context manager costs three calls)
                    half.peer.shutdown(socket.SHUT_WR)
                except OSError:
                    # both ends are through, but there is something unread
                    pass
        self.ends.clear()
        # the socket's own close, not the session's
        for half in self.dead:
            half.close()
        self.dead.clear()
