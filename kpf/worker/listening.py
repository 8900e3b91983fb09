"""A listening socket that the master has handed over."""

import socket

from kpf.shm.layout import MAY_LOOP, Layout


class ListeningSocket:
    """`frontend`: its slot in shared memory; `counters`: this worker's words for it.

    `may_loop`: the word that says whether its connections may come back by another node.
    `burst`: how many connections to accept in one iteration; `iteration`: when it was ready last.
    """

    __slots__ = ("burst", "counters", "descriptor", "family", "frontend", "iteration", "may_loop", "sock")

    def __init__(self, descriptor: int, frontend: int, *, layout: Layout, worker: int) -> None:
        self.descriptor, self.frontend = descriptor, frontend
        with socket.socket(fileno=descriptor) as known:
            # the bare C type: a wrapper object less for each accept
            self.family = known.family
            known.detach()
        self.sock = socket.SocketType(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, descriptor)
        self.burst, self.iteration = 1, 0
        self.counters = layout.frontend_counter(worker, frontend)
        self.may_loop = layout.frontend(frontend) + MAY_LOOP
