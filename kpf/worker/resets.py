"""Ends sessions whose clients have come to an address that is no longer this node's, some an iteration."""

import contextlib
import socket
from collections.abc import Container

from kpf.worker.half import Half
from kpf.worker.relay import EPOLLERR, RESET, Relay
from kpf.worker.sessions import Sessions
from kpf.worker.states import DIALLING

# before others get their turn: 20 ms
RESETS_AN_ITERATION = 500


class Resets:
    """`due`: clients that are to be reset."""

    def __init__(self, sessions: Sessions, relay: Relay) -> None:
        self._sessions, self._relay = sessions, relay
        self.due: list[Half] = []

    def order(self, addresses: Container[str]) -> None:
        """All that have come to these are to be reset."""
        clients = [half for half in self._sessions.halves if half is not None and half.choice is None]
        self.due += [client for client in clients if client.getsockname()[0] in addresses]

    def settle(self) -> bool:
        """Reset `RESETS_AN_ITERATION` of them at most. True if there are more."""
        for client in self.due[-RESETS_AN_ITERATION:]:
            if client.state & DIALLING:
                self._reset_alone(client)
            else:
                self._relay.fail(client)
        del self.due[-RESETS_AN_ITERATION:]
        return bool(self.due)

    def _reset_alone(self, client: Half) -> None:
        """It has no backend yet: its dials end as if it had left."""
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._relay.on_dial(client, EPOLLERR)
