"""When to ask again after a failure. Pure."""

from collections.abc import Callable

# as client-go's reflector (Kubernetes 1.36, tools/cache/reflector.go)
FIRST_S = 0.8
LONGEST_S = 30.0
# a server may ask for more patience than our own, but not for any
LONGEST_ASKED_S = 300.0


class Backoff:
    """0.8 s, doubling to 30 s, each shortened by chance to a half at most: nodes must not come back all at once.

    `chance` gives numbers from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._failures = 0

    def reset(self) -> None:
        """The last attempt went well: the next delay is the shortest."""
        self._failures = 0

    def delay_s(self, asked_s: float = 0.0) -> float:
        """After one more failure: how long to wait; at least as long as the server has asked for (`asked_s`)."""
        longest_s = min(FIRST_S * (1 << self._failures), LONGEST_S)
        self._failures = min(self._failures + 1, 16)
        return max(longest_s * (1 + self._chance()) / 2, min(asked_s, LONGEST_ASKED_S) * (1 + self._chance() / 10))
