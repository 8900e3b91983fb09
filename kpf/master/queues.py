"""The queues of the listening sockets, as the kernel has them: who waits to be accepted, and who found no room."""

import asyncio
import socket
from collections import Counter
from contextlib import suppress

from kpf.master.listening import ListeningSockets
from kpf.net.sockets import overflows, waiting

# sockets that are looked at before others get their turn on the loop: a millisecond
AT_A_TIME = 500

_WORD = 1 << 32


class Queues:
    """`waiting`, when they were looked at last, and `overflows` until then; by the workers' indexes.

    What overflows between a look and the end of a socket is not counted.
    """

    def __init__(self, listeners: ListeningSockets) -> None:
        self._listeners = listeners
        self.waiting: Counter[int] = Counter()
        self.overflows: Counter[int] = Counter()
        # of sockets that have had any
        self._seen: dict[socket.socket, int] = {}

    async def look(self) -> None:
        """At all of them, in turns with everything else."""
        found, seen = Counter[int](), dict[socket.socket, int]()
        for number, (index, one) in enumerate(self._listeners.all_sockets(), 1):
            # one may be closed meanwhile
            with suppress(OSError):
                found[index] += waiting(one)
                if count := overflows(one):
                    self.overflows[index] += (count - self._seen.get(one, 0)) % _WORD
                    seen[one] = count
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
        self.waiting, self._seen = found, seen
