"""Ends the connections that came to an address which this node no longer has: they would hang."""

import asyncio
import logging

from kpf.master.facts import NodeWatch
from kpf.master.generations import Generations
from kpf.model.names import IPAddress

log = logging.getLogger("kpf")

# that an address has been gone before its connections are reset: it may come back, as when a link is set up anew.
# And again, for who was not known by then: a client that waits for a backend is watched after a quarter of a second,
# one that waits for descriptors has a backend after 4 s at most, or none
RESET_AFTER_S = 1.0, 10.0


class Departures:
    """Resets what came to an address `RESET_AFTER_S` after that has gone. Used inside the event loop."""

    def __init__(self, node: NodeWatch, workers: Generations) -> None:
        self._node, self._workers = node, workers

    def note(self, gone: frozenset[IPAddress]) -> None:
        """Portals have been sent to these, and they have just gone."""
        if not gone:
            return
        log.warning("portals were sent to %s, which this node no longer has", ", ".join(map(str, gone)))
        for delay_s in RESET_AFTER_S:
            asyncio.get_running_loop().call_later(delay_s, self._reset, gone)

    def _reset(self, gone: frozenset[IPAddress]) -> None:
        if left := gone - self._node.addresses:
            self._workers.reset(left)
